"""Bars 1 to 5: log-probs of sampled tokens from hidden states, at Qwen's vocabulary of 151,936."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from trl.kernels import ChunkedLogProbFunction

from benchmarks.bars.harness import Bar, Step, cpu_seconds, memory_bar, peak_mib, time_bar
from lit_uniopd.functional.fused_token_loss import linear_token_loss
from lit_uniopd.functional.logps import linear_token_logps
from lit_uniopd.functional.projection import TILE_ELEMENTS_CPU


@dataclass(frozen=True)
class Head:
    """Forward and backward pass of a policy-gradient loss over one batch of tokens."""

    tokens: int
    hidden: int
    trained: bool
    vocabulary: int = 151_936
    grad: bool = True

    def __call__(self, side: str, small: bool) -> Step:
        torch.manual_seed(0)
        n, vocabulary = (8, 64) if small else (self.tokens, self.vocabulary)
        weight = torch.randn(vocabulary, self.hidden).mul_(2 * self.hidden**-0.5).requires_grad_(self.trained)
        hidden = torch.randn(n, self.hidden, requires_grad=self.grad)
        tokens, advantages = torch.randint(0, vocabulary, (n,)), torch.randn(n)

        def loss_of(logps: Tensor, which: slice | Tensor) -> Tensor:
            return -(logps - logps.detach()).exp() * advantages[which]

        def logps_of() -> Tensor:
            if side == "naive":
                return torch.log_softmax(hidden @ weight.T, dim=-1).gather(1, tokens[:, None])[:, 0]
            if side == "trl":
                outputs: Any = ChunkedLogProbFunction.apply(hidden, weight, None, tokens, 1.0, 4096, None, 1.0, ())
                return outputs[0]
            return linear_token_logps(hidden, weight, tokens)

        def step() -> None:
            hidden.grad = weight.grad = None
            if not self.grad:
                with torch.no_grad():
                    logps_of()
            elif side == "in forward":
                linear_token_loss(hidden, weight, tokens, loss_of)[0].backward()
            else:
                loss_of(logps_of(), slice(None)).sum().backward()

        return step


WIDE = Head(1024, 256, trained=True)
FROZEN = Head(1024, 256, trained=False)
DEEP = Head(512, 1024, trained=True)


def bars() -> Iterator[Bar]:
    trained = "log-probs, trained head, against log-softmax over all logits"
    forward = "policy gradient made in the forward pass, against the same"
    frozen = "log-probs, frozen head (LoRA), against the same"
    yield memory_bar("1", trained, WIDE, "ours", "naive", 0.25)
    yield memory_bar("2", forward, WIDE, "in forward", "naive", 0.25)
    yield memory_bar("3", frozen, FROZEN, "ours", "naive", 0.15)
    yield memory_bar("4", "log-probs, trained head, against TRL's kernel, H 256", WIDE, "ours", "trl", 0.45)
    yield memory_bar("4", "the same, H 1024", DEEP, "ours", "trl", 0.85)
    yield from scoring()
    seconds = cpu_seconds({side: WIDE(side, False) for side in ("naive", "ours", "in forward", "trl")})
    yield time_bar("1", trained, seconds, "ours", "naive", 1.20)
    yield time_bar("2", forward, seconds, "in forward", "naive", 0.95)
    yield time_bar("4", "log-probs, trained head, against TRL's kernel, H 256", seconds, "ours", "trl", 0.70)
    seconds = cpu_seconds({side: FROZEN(side, False) for side in ("naive", "ours")})
    yield time_bar("3", frozen, seconds, "ours", "naive", 0.90)
    seconds = cpu_seconds({side: DEEP(side, False) for side in ("ours", "trl")})
    yield time_bar("4", "the same, H 1024", seconds, "ours", "trl", 0.95)


def scoring() -> Iterator[Bar]:
    """Without gradients, memory is that of one tile, however many tokens there are."""
    short, long = (peak_mib(Head(n, 256, trained=False, grad=False), "ours") for n in (1024, 8192))
    tile = TILE_ELEMENTS_CPU * 4 / 2**20
    ratio, most = max(short, long) / max(min(short, long), 0.01), max(short, long) / tile
    yield Bar("5", "scoring without gradient, 8192 tokens against 1024", "peak memory", ratio, ratio, ratio, 1.10)
    yield Bar("5", f"the same, against its tile of {tile:.0f} MiB", "peak memory", most, most, most, 1.5)
