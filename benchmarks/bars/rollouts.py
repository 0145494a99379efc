"""Bars 14 to 18: writing answers, log-probs included, against transformers' ``generate``, and one cache of a prompt for
its whole group against one for each answer.
"""

from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.bars.harness import ROUNDS, Bar, cpu_seconds, time_bar
from benchmarks.rollout import CASES, Case, build, prompts_of, run_generate, run_grouped, run_loop
from lit_uniopd.sampling import SamplingArgs, sample

LONG = Case("small, prompts as of pictures", 256, 4, 32_000, 4, 16, 1300, False, 48, 0.0)
EQUAL, SKEWED = (next(c for c in CASES if c.name == name) for name in ("small, equal lengths", "small, skewed lengths"))


def bars() -> Iterator[Bar]:
    model, prompts = build(EQUAL), prompts_of(EQUAL)
    sides = {"ours": run_loop, "bare": run_generate, "with logits": partial(run_generate, logps=True)}
    seconds = cpu_seconds({name: partial(run, model, EQUAL, prompts, [], 0) for name, run in sides.items()})
    equal = "64 answers of 128 tokens, log-probs included"
    yield time_bar("14", f"{equal}, against bare generate", seconds, "ours", "bare", 1.05)
    yield time_bar("15", f"{equal}, against generate that keeps its logits", seconds, "ours", "with logits", 0.95)
    yield skewed()
    yield from grouped()
    yield recomputed()


def skewed() -> Bar:
    """Answers that end anywhere: time for each useful token."""
    model, prompts = build(SKEWED), prompts_of(SKEWED)
    eos = list(range(1, 1 + round(SKEWED.stop * SKEWED.vocabulary)))
    lengths: dict[str, list[list[int]]] = {"ours": [], "bare": []}

    def run(side: str) -> None:
        write = run_loop if side == "ours" else run_generate
        lengths[side].append(write(model, SKEWED, prompts, eos, len(lengths[side])))

    seconds = cpu_seconds({side: partial(run, side) for side in lengths})
    per_token = {s: [t / sum(n) for t, n in zip(seconds[s], lengths[s][1:], strict=True)] for s in lengths}
    shares = [sum(n) / len(n) / max(n) for n in lengths["bare"][1:]]
    label = f"answers of differing length (mean/max {sum(shares) / len(shares):.2f}), per token, against bare generate"
    return time_bar("16", label, per_token, "ours", "bare", 0.60)


def grouped() -> Iterator[Bar]:
    """Decoding alone, without the pass over the prompts, which is the same for both sides; then both together."""
    results = run_grouped(LONG, ROUNDS)
    label = "decoding 4 groups of 16 behind prompts of 1300, prompts' cache once, against once a row"
    ratio = results["shared"].bytes / results["repeated"].bytes
    yield Bar("17", label, "bytes of keys and values", ratio, ratio, ratio, 0.15)
    decoding = {side: result.decoding for side, result in results.items()}
    yield time_bar("17", label, decoding, "shared", "repeated", 0.85)
    total = {side: result.total for side, result in results.items()}
    yield time_bar("17", "the same, with reading the prompts", total, "shared", "repeated", 0.85)


@torch.no_grad()
def recomputed() -> Bar:
    """The rollout's log-probs against one forward pass over prompt and answer."""
    model, prompts = build(EQUAL), prompts_of(EQUAL)
    completions = sample(model, prompts, SamplingArgs(n=2, max_new_tokens=48), eos_ids=(), pad_id=0, seed=0)
    error = 0.0
    for row in range(len(completions.finish)):
        prompt, answer = torch.tensor(prompts[row // 2]), completions.tokens_BT[row]
        logits = model(torch.cat([prompt, answer])[None]).logits[0, len(prompt) - 1 : -1]
        logps = logits.log_softmax(dim=-1).gather(1, answer[:, None])[:, 0]
        error = max(error, float((logps - completions.logps_BT[row]).abs().max()))
    label = "log-probs of the rollout against a forward pass over the answer"
    return Bar("18", label, "difference", error, error, error, 1e-4)
