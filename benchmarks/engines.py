"""Tokens a second of the engines that write rollouts: the loop, ``generate``, and vLLM in the same process.

    .venv-engines/bin/python -m benchmarks.engines [--model playground:smollm2] [--rows 1 16 64] [--tokens 128 512]

All write the same number of tokens of the same model in turn, on one thread, in the type of the weights, without any
end: what is compared is the cost of a token, not how engines deal with answers of unlike length. The median of the
rounds with their range; before them each engine writes a few tokens that do not count.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from lit_uniopd.playground import locate
from lit_uniopd.sampling import ColocateArgs, SamplingArgs, sample

ENGINES = ("loop", "generate", "vllm")
PROMPT = list(range(100, 132))


def seconds(model: Any, engine: Any, rows: int, tokens: int, seed: int) -> float:
    """Of writing so many answers of so many tokens to one prompt each."""
    room: Any = {"colocate": ColocateArgs(kv_cache_gib=2.0, max_model_len=1024)} if engine == "vllm" else {}
    args = SamplingArgs(n=1, max_new_tokens=tokens, engine=engine, **room)
    prompts = [[*PROMPT, 200 + row] for row in range(rows)]
    began = time.perf_counter()
    sample(model, prompts, args, eos_ids=[], pad_id=0, seed=seed)
    return time.perf_counter() - began


def measure(model: Any, rows: int, tokens: int, rounds: int) -> dict[str, list[float]]:
    """Engine -> tokens a second in every round; engines take turns."""
    for engine in ENGINES:
        seconds(model, engine, rows, tokens=8, seed=0)
    return {
        engine: list(rates)
        for engine, *rates in zip(
            ENGINES,
            *(
                [rows * tokens / seconds(model, engine, rows, tokens, seed) for engine in ENGINES]
                for seed in range(rounds)
            ),
            strict=True,
        )
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="playground:smollm2")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--tokens", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    prefix, _, name = options.model.rpartition("playground:")
    path = str(locate(name)) if not prefix and name != options.model else options.model
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    print("| rows | tokens | loop, tokens/s | generate / loop | vLLM / loop |")
    print("|---:|---:|---:|---:|---:|")
    for rows in options.rows:
        for tokens in options.tokens:
            rates = measure(model, rows, tokens, options.rounds)
            loop = statistics.median(rates["loop"])
            cells = [f"{loop:.1f} ({min(rates['loop']):.1f} to {max(rates['loop']):.1f})"]
            for engine in ("generate", "vllm"):
                ratios = [a / b for a, b in zip(rates[engine], rates["loop"], strict=True)]
                cells.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
            print(f"| {rows} | {tokens} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
