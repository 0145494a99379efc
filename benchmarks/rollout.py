"""Rollouts: our decoding loop against transformers' ``generate``.

    OMP_NUM_THREADS=1 python -m benchmarks.rollout
    OMP_NUM_THREADS=1 python -m benchmarks.rollout --grouped     # one cache of a prompt for all of its answers

Random models made from a config; both sides run in this process, in turn, and the median CPU time counts. Lengths are
set by the share of the vocabulary that ends an answer: a near-uniform random model then stops at every step with that
probability, in both alike. The loop returns log-probs, ``generate`` does not.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM
from transformers.utils import logging

from lit_uniopd.policy.cascade_attention import worth_sharing
from lit_uniopd.sampling import SamplingArgs, sample
from lit_uniopd.sampling.decode_loop import Decoder, can_share, decode, position_bytes
from lit_uniopd.sampling.token_sampler import sample_token


@dataclass
class Case:
    name: str
    hidden: int
    layers: int
    vocabulary: int
    prompts: int
    n: int
    prompt_length: int
    ragged: bool
    new_tokens: int
    stop: float
    """Probability that an answer ends at a step; 0: all answers are cut at the same length."""


CASES = [
    Case("tiny, equal lengths", 96, 2, 512, 8, 16, 24, False, 32, 0.0),
    Case("tiny, ragged prompts", 96, 2, 512, 8, 16, 24, True, 32, 0.0),
    Case("tiny, skewed lengths", 96, 2, 512, 8, 16, 24, True, 32, 0.08),
    Case("small, equal lengths", 256, 4, 32_000, 4, 16, 96, False, 128, 0.0),
    Case("small, ragged prompts", 256, 4, 32_000, 4, 16, 96, True, 128, 0.0),
    Case("small, skewed lengths", 256, 4, 32_000, 4, 16, 96, True, 128, 0.02),
    Case("small, one row", 256, 4, 32_000, 1, 1, 96, False, 128, 0.0),
]

GROUPED = [
    Case(f"{name}, {prompts} x {n}, {length} + {new}", hidden, layers, 512, prompts, n, length, False, new, 0.0)
    for name, hidden, layers in (("tiny", 96, 2), ("small", 256, 4))
    for prompts, n, length, new in (
        (1, 4, 256, 32),
        (8, 8, 16, 32),
        (1, 8, 300, 32),
        (8, 8, 64, 32),
        (1, 16, 256, 32),
        (2, 8, 96, 512),
        (4, 16, 96, 512),
        (4, 16, 96, 128),
        (4, 16, 700, 48),
        (4, 16, 1300, 48),
    )
]


def build(case: Case) -> Qwen3ForCausalLM:
    """A random model of the case's size, grouped-query attention with heads of 32."""
    heads = case.hidden // 32
    config = Qwen3Config(
        vocab_size=case.vocabulary,
        hidden_size=case.hidden,
        intermediate_size=3 * case.hidden,
        num_hidden_layers=case.layers,
        num_attention_heads=heads,
        num_key_value_heads=max(1, heads // 2) if heads % 2 == 0 else heads,
        head_dim=32,
    )
    torch.manual_seed(0)
    return Qwen3ForCausalLM(config).eval()


def prompts_of(case: Case) -> list[list[int]]:
    """Random token ids; ragged ones are between half and all of the length."""
    generator = torch.Generator().manual_seed(0)
    shortest = case.prompt_length // 2 if case.ragged else case.prompt_length
    lengths = torch.linspace(shortest, case.prompt_length, case.prompts).long().tolist()
    return [torch.randint(1, case.vocabulary, (length,), generator=generator).tolist() for length in lengths]


def run_loop(
    model: Qwen3ForCausalLM,
    case: Case,
    prompts: list[list[int]],
    eos: list[int],
    seed: int,
) -> list[int]:
    """Lengths of the answers."""
    args = SamplingArgs(n=case.n, max_new_tokens=case.new_tokens)
    return sample(model, prompts, args, eos_ids=eos, pad_id=0, seed=seed).mask_BT.sum(dim=1).tolist()


def run_generate(
    model: Qwen3ForCausalLM, case: Case, prompts: list[list[int]], eos: list[int], seed: int, *, logps: bool = False
) -> list[int]:
    """Lengths of the answers; with ``logps`` also their log-probs, from the logits that ``generate`` can keep."""
    torch.manual_seed(seed)
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    config = GenerationConfig(
        do_sample=True,
        top_k=0,
        max_new_tokens=case.new_tokens,
        num_return_sequences=case.n,
        eos_token_id=eos or None,
        pad_token_id=0,
        output_logits=logps,
        return_dict_in_generate=logps,
    )
    with torch.no_grad():
        outputs: Any = model.generate(ids, attention_mask=mask, generation_config=config)  # type: ignore[operator]
        tokens = outputs.sequences if logps else outputs
        if logps:
            torch.stack(outputs.logits, dim=1).log_softmax(dim=-1).gather(2, tokens[:, width:, None])
    ended = torch.isin(tokens[:, width:], torch.tensor(eos, dtype=torch.long))
    lengths = torch.where(ended.any(dim=1), ended.int().argmax(dim=1) + 1, case.new_tokens)
    return lengths.tolist()


@dataclass
class Grouped:
    """One way to keep the caches of prompts: CPU seconds of each round, and the size of the caches at the end."""

    decoding: list[float]
    """Without the pass over the prompts."""
    total: list[float]
    bytes: int = 0


@torch.no_grad()
def run_grouped(case: Case, rounds: int) -> dict[str, Grouped]:
    """Both ways in turn, after a round that does not count: once for a group (shared), once a row (repeated)."""
    model, prompts, rows = build(case), prompts_of(case), case.prompts * case.n
    if not can_share(model, case.prompt_length + case.new_tokens):
        raise SystemExit("the model cannot share the caches of prompts")

    def choose(step: int, rows_R: Tensor, logits_RV: Tensor) -> tuple[Tensor, Tensor]:
        return sample_token(logits_RV, torch.full((len(rows_R),), 0.5, dtype=torch.float64), 1.0, 0, 1.0)

    results = {side: Grouped([], []) for side in ("shared", "repeated")}
    for lap in range(rounds + 1):
        for side, result in results.items():
            tokens_BT, logps_BT = torch.zeros(rows, case.new_tokens).long(), torch.zeros(rows, case.new_tokens)
            decoder, start = Decoder(model, case.new_tokens), time.process_time()
            logits_RV = decoder.prefill(prompts, case.n, 0, share=side == "shared")
            prefilled, eos = time.process_time(), torch.zeros(0).long()
            decode(
                decoder, logits_RV, torch.arange(rows), choose, eos, tokens_BT, logps_BT, lambda finished, written: None
            )
            result.bytes = decoder.cache_bytes()
            if lap:
                result.decoding.append(time.process_time() - prefilled)
                result.total.append(time.process_time() - start)
    return results


def measure_grouped(case: Case, repeats: int) -> None:
    """Print one line: the share of positions and the bytes that sharing saves, whether it is chosen, and ratios."""
    results, saved = run_grouped(case, repeats), (case.n - 1) * case.prompts * case.prompt_length
    share = saved / (case.n * case.prompts * (case.prompt_length + case.new_tokens))
    position = position_bytes(build(case), 4)
    chosen = worth_sharing(
        prompts=case.prompts,
        rows=case.prompts * case.n,
        length=case.prompt_length,
        new=case.new_tokens,
        position_bytes=position,
        cpu=True,
    )
    shared, repeated = results["shared"], results["repeated"]
    decoding, total = (
        statistics.median(s / r for s, r in zip(*seconds, strict=True))
        for seconds in ((shared.decoding, repeated.decoding), (shared.total, repeated.total))
    )
    print(
        f"{case.name:26s} spares {share:.2f} of positions, {saved * position / 2**20:5.1f} MiB a layer and step, "
        f"{'' if chosen else 'not '}chosen; shared / repeated: decoding {decoding:.2f}, with prompts {total:.2f}, "
        f"bytes {shared.bytes / repeated.bytes:.2f}",
        flush=True,
    )


def measure(case: Case, repeats: int) -> None:
    """Print one line: useful tokens, CPU seconds and the ratio per useful token."""
    model, prompts = build(case), prompts_of(case)
    eos = list(range(1, 1 + round(case.stop * case.vocabulary)))
    sides: dict[str, Callable[..., list[int]]] = {"loop": run_loop, "generate": run_generate}
    per_token: dict[str, list[float]] = {name: [] for name in sides}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    tokens: dict[str, list[int]] = {name: [] for name in sides}
    share = []
    for repeat in range(repeats + 1):
        for name, run in sides.items():
            start = time.process_time()
            lengths = run(model, case, prompts, eos, seed=repeat)
            elapsed = time.process_time() - start
            if repeat == 0:
                continue  # warm-up
            seconds[name].append(elapsed)
            tokens[name].append(sum(lengths))
            per_token[name].append(elapsed / sum(lengths))
            share.append(statistics.mean(lengths) / max(lengths))
    median = {name: statistics.median(values) for name, values in per_token.items()}
    print(
        f"{case.name:24s} mean/max {statistics.mean(share):.2f}  "
        + "  ".join(f"{n} {statistics.median(seconds[n]):6.3f} s {statistics.mean(tokens[n]):6.0f} tok" for n in sides)
        + "  time per useful token"
        + "".join(f", {n} / generate: {median[n] / median['generate']:.2f}" for n in sides if n != "generate"),
        flush=True,
    )


def main() -> None:
    """Run the cases whose name contains ``--only``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="")
    parser.add_argument("--grouped", action="store_true", help="prompts' caches once for a group, against once a row")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.set_verbosity_error()
    for case in GROUPED if options.grouped else CASES:
        if options.only in case.name:
            measure_grouped(case, options.repeats) if options.grouped else measure(case, options.repeats)


if __name__ == "__main__":
    main()
