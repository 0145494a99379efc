"""Bars 9 and 10: the update on a group of answers that share a prompt, against rows that do not."""

from argparse import Namespace
from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.bars.harness import Bar, Step, cpu_seconds, memory_bar, time_bar
from benchmarks.bars.pairs import SIZES
from benchmarks.preference import make_model
from lit_uniopd.playground.models import make_tokenizer
from lit_uniopd.policy import Policy, PolicyArgs


class Group:
    """Forward and backward pass of a policy gradient on the answers to one prompt."""

    def __init__(self, prompt: int, answer: int, answers: int) -> None:
        self.shape = (prompt, answer, answers)

    def __call__(self, side: str, small: bool) -> Step:
        prompt, answer, answers = (4, 4, 2) if small else self.shape
        policy = Policy(make_model(Namespace(**SIZES)), make_tokenizer(), PolicyArgs(share_prompts=side == "ours"))
        generator = torch.Generator().manual_seed(0)
        tokens_BT = torch.randint(10, SIZES["vocabulary"], (answers, answer), generator=generator)
        prompts = [torch.randint(10, SIZES["vocabulary"], (prompt,), generator=generator).tolist()] * answers
        advantages_N = torch.randn(answers * answer, generator=generator)

        def loss_of(logps_N: Tensor, which: slice | Tensor) -> Tensor:
            return -(logps_N - logps_N.detach()).exp() * advantages_N[which]

        def step() -> None:
            policy.zero_grad()
            policy.token_loss(prompts, tokens_BT, torch.ones_like(tokens_BT).bool(), loss_of)[0].backward()

        return step


CASES = [
    ("9", "OPD group as of a picture: prompt 700, 8 answers of 100", Group(700, 100, 8), 0.45, 0.40),
    ("10", "OPD group of text: prompt 256, 16 answers of 256", Group(256, 256, 16), 0.85, 0.70),
]


def bars() -> Iterator[Bar]:
    for number, label, group, _, memory in CASES:
        yield memory_bar(number, f"{label}, against padded rows", group, "ours", "padded", memory)
    for number, label, group, time, _ in CASES:
        seconds = cpu_seconds({side: group(side, False) for side in ("ours", "padded")})
        yield time_bar(number, f"{label}, against padded rows", seconds, "ours", "padded", time)
