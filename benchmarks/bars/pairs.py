"""Bars 6 to 8 and 11 to 13: a step of preference learning. TRL is pinned in constraints.txt."""

import tempfile
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.bars.harness import Bar, Step, cpu_seconds, memory_bar, time_bar
from benchmarks.preference import make_model, make_pairs, our_step, trl_step
from lit_uniopd.benchmarks.synthetic_images import draw
from lit_uniopd.playground.models import make_tokenizer
from lit_uniopd.playground.untrained import write_tiny_vision
from lit_uniopd.policy import Policy, PolicyArgs
from lit_uniopd.types import Prompt

SIZES: dict[str, Any] = {
    "pairs": 4,
    "spread": 0.0,
    "hidden": 256,
    "layers": 4,
    "vocabulary": 32_000,
    "reference": "known",
    "checkpointing": False,
}


class Pairs:
    """A step on pairs of answers to a prompt each: forward pass, loss, backward pass; reference log-probs are given."""

    def __init__(self, prompt: int, answer: int, **options: Any) -> None:
        self.args, self.shape = Namespace(**SIZES | options), (prompt, answer)

    def __call__(self, side: str, small: bool) -> Step:
        pairs = make_pairs(self.args, *((4, 4) if small else self.shape))
        if side.startswith("trl"):
            return trl_step(self.args, pairs, shipped=side == "trl as shipped")
        return our_step(self.args, pairs, share=side == "ours")


def bars() -> Iterator[Bar]:
    sentence = Pairs(700, 20)
    step, against = "C-DPO step, prefix 700, answers 20", "against ours, concatenated"
    yield memory_bar("6", f"{step}, {against}", sentence, "ours", "padded", 0.55)
    sides = ("ours", "trl", "trl as shipped")
    seconds = cpu_seconds({side: sentence(side, False) for side in sides})
    yield time_bar("6", f"{step}, against TRL with its head on answers only", seconds, "ours", "trl", 0.55)
    yield time_bar("7", f"{step}, against TRL as it runs on a CPU", seconds, "ours", "trl as shipped", 0.15)
    checkpointed = Pairs(700, 20, checkpointing=True)
    seconds = cpu_seconds({side: checkpointed(side, False) for side in ("ours", "padded")})
    yield time_bar("8", f"{step}, gradient checkpointing, {against}", seconds, "ours", "padded", 0.60)
    chat = Pairs(20, 400)
    seconds = cpu_seconds({side: chat(side, False) for side in ("ours", "padded")}, rounds=5)
    yield time_bar("11", f"pairs, prompt 20, answers 400, {against}", seconds, "ours", "padded", 1.03)
    yield from parity()
    yield tower()


def parity() -> Iterator[Bar]:
    """Shared prompts against padded rows: largest difference of log-probs, relative difference of gradients."""
    limits = {torch.float32: (1e-5, 1e-4), torch.float64: (1e-10, None)}
    pairs = make_pairs(Namespace(**SIZES), 200, 30)
    prompts = [prompt for prompt, *_ in pairs for _ in range(2)]
    tokens_BT = torch.tensor([answer for _, *answers in pairs for answer in answers])
    for dtype, (logp_limit, gradient_limit) in limits.items():
        results = []
        for share in (True, False):
            policy = Policy(make_model(Namespace(**SIZES)), make_tokenizer(), PolicyArgs(share_prompts=share)).to(dtype)
            logps_BT, _ = policy.token_logps(prompts, tokens_BT, torch.ones_like(tokens_BT).bool())
            logps_BT.sigmoid().sum().backward()
            gradient = torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])
            results.append((logps_BT.detach(), gradient))
        (shared_logps, shared_gradient), (padded_logps, padded_gradient) = results
        label = f"shared against padded rows, {str(dtype).removeprefix('torch.')}"
        error = float((shared_logps - padded_logps).abs().max())
        yield Bar("12", label, "log-prob difference", error, error, error, logp_limit)
        if gradient_limit is not None:
            error = float((shared_gradient - padded_gradient).norm() / padded_gradient.norm())
            yield Bar("12", label, "gradient difference, relative", error, error, error, gradient_limit)


def tower() -> Bar:
    """Pictures that the vision tower reads for a pair that shares one."""
    with tempfile.TemporaryDirectory() as directory:
        write_tiny_vision(Path(directory), 0)
        policy = Policy.load(PolicyArgs(path=directory), trainable=True)
    content: Any = [{"type": "image"}, {"type": "text", "text": "what is it?"}]
    picture = draw({"drawing": "scene", "objects": ["cat", "dog"]})
    encoded = policy.encode(Prompt("one", ({"role": "user", "content": content},), images=(picture,)))
    pictures: list[int] = []

    def count(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if torch.is_grad_enabled():  # not in the trial of packing, once in a run
            pictures.append(len(kwargs["pixel_values"] if "pixel_values" in kwargs else args[0]))

    tower: Any = next(m for name, m in policy.model.named_modules() if name.endswith("vision_tower"))
    tower.register_forward_pre_hook(count, with_kwargs=True)
    answers_BT = torch.tensor([[30, 31, 32], [33, 34, 35]])
    policy.token_logps([encoded.tokens] * 2, answers_BT, answers_BT > 0, vision=[encoded.vision] * 2)
    calls = float(sum(pictures)) or float("inf")
    return Bar("13", "pictures through the vision tower, per pair about one", "count", calls, calls, calls, 1)
