"""Bars 22 and 23: a further epoch of DPO with the reference's log-probs on disk."""

import tempfile
from argparse import Namespace
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks.bars.harness import Bar, cpu_seconds, time_bar
from benchmarks.bars.pairs import SIZES
from benchmarks.preference import make_model, make_pairs
from lit_uniopd.modules import OmniDPO
from lit_uniopd.modules.preference.losses import PairLossArgs
from lit_uniopd.modules.preference.reference_cache import ReferenceCache
from lit_uniopd.playground.models import make_tokenizer
from lit_uniopd.policy import LoraArgs, Policy, PolicyArgs
from lit_uniopd.policy.lora import with_adapters
from lit_uniopd.types import EncodedPair, PairBatch, PreferencePair, Prompt


def encoded(count: int) -> list[EncodedPair]:
    pair = PreferencePair(Prompt("-", ()), "", "")
    tokens = make_pairs(Namespace(**SIZES | {"pairs": count}), 160, 160)
    return [EncodedPair(pair, tuple(prompt), tuple(chosen), tuple(rejected)) for prompt, chosen, rejected in tokens]


def module(lora: LoraArgs | None) -> OmniDPO:
    args, model = PolicyArgs(path="-", lora=lora), make_model(Namespace(**SIZES))
    omni_dpo = OmniDPO(args, PairLossArgs(kind="dpo", beta=0.1))
    omni_dpo.policy = Policy(model if lora is None else with_adapters(model, lora, "policy"), make_tokenizer(), args)
    omni_dpo.policy.keep_reference()
    return omni_dpo


class ReferencePasses:
    """Counts the forward passes without gradient of a module: those of its reference."""

    def __init__(self, model: OmniDPO) -> None:
        self.forwards, self.scored = 0, model._scored
        model._scored = self  # type: ignore[method-assign]

    def __call__(self, policy: Policy, batch: PairBatch) -> Tensor:
        self.forwards += not torch.is_grad_enabled()
        return self.scored(policy, batch)


def step(model: OmniDPO, batch: PairBatch) -> None:
    model.policy.zero_grad()
    model.compare(batch)[0].loss.backward()


def bars() -> Iterator[Bar]:
    pairs = encoded(5)
    batch = PairBatch(pairs[:4])
    for lora, limit in ((None, 0.80), (LoraArgs(rank=8), 0.72)):
        live, cached = module(lora), module(lora)
        with tempfile.TemporaryDirectory() as directory:
            cached.references = ReferenceCache(directory, "reference")
            with torch.no_grad(), cached.policy.reference() as reference:
                cached.references.add(batch.pairs, cached._scored(reference, batch))
            reloaded = ReferenceCache(directory, "reference")
            reloaded.load()
        cached.references = reloaded
        models = {"live": live, "cached": cached}
        passes = {side: ReferencePasses(model) for side, model in models.items()}
        seconds = cpu_seconds({side: partial(step, model, batch) for side, model in models.items()})
        kind = "full" if lora is None else "LoRA"
        label = f"DPO step, {kind}, reference on disk, against a live reference"
        yield time_bar("22", label, seconds, "cached", "live", limit)
        if lora is None:
            if not passes["live"].forwards:
                raise RuntimeError("the live side was not counted")
            count = float(passes["cached"].forwards)
            yield Bar("22", "forward passes of the reference in that epoch", "count", count, count, count, 0)
            missing = float(len(reloaded.missing(pairs)))
            yield Bar(
                "23", "reference pairs computed for one that was added to 4", "count", missing, missing, missing, 1
            )
