"""Does it pay to compile layers? The update with `compile`, and a rollout as it would be if that were compiled too.

    OMP_NUM_THREADS=1 python -m benchmarks.compiled_layers

CPU seconds of one thread, on a Qwen3-shaped model of 6 layers, 512 wide, with batches of unlike lengths.
"""

import copy
import time
from collections.abc import Callable
from statistics import median
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM

from lit_uniopd.playground.models import make_tokenizer
from lit_uniopd.policy import Policy, compiled_blocks
from lit_uniopd.policy.backbone import layers_of
from lit_uniopd.sampling import SamplingArgs
from lit_uniopd.sampling.rollouts import write_answers
from lit_uniopd.types import Prompt

VOCABULARY, ANSWERS, ROUNDS = 1000, 4, 8
QUESTIONS = [Prompt(id=f"p{i}", messages=({"role": "user", "content": "1+1=" * (i + 1)},)) for i in range(4)]
Batch = tuple[list[list[int]], Tensor, Tensor]


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def make_batch(number: int) -> Batch:
    """Four answers to each of two prompts."""
    generator = torch.Generator().manual_seed(number)
    lengths = (40 + 7 * number % 90, 60 + 11 * number % 70)
    prompts = [torch.randint(4, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]
    lengths_B = torch.randint(20, 100, (2 * ANSWERS,), generator=generator)
    tokens_BT = torch.randint(4, VOCABULARY, (2 * ANSWERS, int(lengths_B.max())), generator=generator)
    mask_BT = torch.arange(tokens_BT.shape[1]) < lengths_B[:, None]
    return [prompt for prompt in prompts for _ in range(ANSWERS)], tokens_BT, mask_BT


def update(policy: Policy, batch: Batch) -> float:
    policy.zero_grad()
    return seconds(lambda: policy.token_logps(*batch)[0].sum().backward())


def rollout(policy: Policy, seed: int) -> float:
    sampling = SamplingArgs(n=ANSWERS, max_new_tokens=48)
    return seconds(lambda: write_answers(policy, QUESTIONS, sampling, seed=seed))


def main() -> None:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 6, "head_dim": 64}
    heads: dict[str, Any] = {"num_attention_heads": 8, "num_key_value_heads": 4}
    model = Qwen3ForCausalLM(Qwen3Config(vocab_size=VOCABULARY, **sizes, **heads)).train()
    plain, compiled, always = (Policy(copy.deepcopy(model), make_tokenizer()).train() for _ in range(3))
    compiled_blocks.compile_blocks(compiled.model, "policy")
    print(f"first two updates, compiled: {sum(update(compiled, make_batch(i)) for i in range(2)):.0f} s")
    update(plain, make_batch(0))
    batches = [make_batch(number) for number in range(2, 2 + ROUNDS)]
    ratios = sorted(update(compiled, batch) / update(plain, batch) for batch in batches)
    print(f"update, compiled / plain: {median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")
    for part in (part for layer in layers_of(always.model) for part in layer.children()):
        part.forward = MethodType(compiled_blocks._compiled(type(part).forward), part)  # type: ignore[method-assign]
    print(f"first rollout, compiled: {rollout(always, 0):.0f} s")
    rollout(plain, 0)
    ratios = sorted(rollout(always, seed) / rollout(plain, seed) for seed in (1, 2))
    print(f"rollout, compiled / plain: {ratios[0]:.2f} to {ratios[-1]:.2f}")


if __name__ == "__main__":
    main()
