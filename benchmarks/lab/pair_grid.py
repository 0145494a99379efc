"""The runs of preference learning: judges, arms, and what makes a run."""

import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.lab.grid import digest

SEEDS = (11, 12, 13, 14, 15)
STEPS, BATCH, PROMPTS, ANSWERS = 60, 64, 1024, 8
RIGHT, WRONG = 8.0, 5.0
"""Quality of answers, which judges score with errors."""
TIED = 0.25
"""Share of pairs whose answers are both wrong, so that only a judge's errors tell them apart."""


@dataclass(frozen=True, slots=True)
class Judge:
    """How qualities become scores.

    Attributes:
        noise: standard deviation of each answer's error, or its scale if ``cauchy``.
        cauchy: errors have heavy tails, Cauchy's distribution in place of the normal one.
        shared: standard deviation of an error that both answers of a pair have in common.
        flipped: share of pairs whose answers are swapped under their scores.
        dealt_out: pairs exchange their scores, so that a gap says nothing of the pair that has it.
    """

    noise: float
    cauchy: bool = False
    shared: float = 0.0
    flipped: float = 0.0
    dealt_out: bool = False

    def error(self, rng: random.Random) -> float:
        """Of one answer."""
        return self.noise * math.tan(math.pi * (rng.random() - 0.5)) if self.cauchy else rng.gauss(0, self.noise)


SETTINGS = {
    "clean": Judge(noise=0.5),
    "noisy": Judge(noise=2.5),
    "flipped": Judge(noise=0.5, flipped=0.25),
    "heavy_tailed": Judge(noise=1.07, cauchy=True),
    "shared_error": Judge(noise=0.5, shared=2.5),
    "dealt_out": Judge(noise=2.5, dealt_out=True),
}
"""`noisy`, `heavy_tailed` and `dealt_out` put a fifth of the right-wrong pairs the wrong way round."""
TABLES = ("clean", "noisy", "flipped")
"""Settings with all arms on ``SEEDS``; the others are asked about in the primary questions."""

SUMS: dict[str, Any] = {"beta": 0.1}
OMNI: dict[str, Any] = {"beta": 2.0, "gamma": 3.0, "tau_ref": 1.0, "lam": 0.2, "tau_good": 7.0}
ARMS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "dpo": ({"kind": "dpo", **SUMS}, {}),
    "ln_dpo": ({"kind": "dpo", "average": True, "beta": 2.0}, {}),
    "simpo": ({"kind": "simpo", "beta": 2.0, "gamma_beta_ratio": 0.5}, {}),
    "omni_dpo": (OMNI, {}),
    "without_quality": ({**OMNI, "use_quality": False}, {}),
    "without_performance": ({**OMNI, "performance": "off"}, {}),
    "without_nll": ({**OMNI, "use_nll": False}, {}),
    "without_normalisation": ({**OMNI, **SUMS, "average": False}, {}),
    "focal": ({**OMNI, "performance": "focal"}, {}),
    "quality_only": ({**OMNI, "performance": "off", "use_nll": False}, {}),
    "gap_filter": ({"kind": "dpo", "average": True, "beta": 2.0}, {"min_gap": 2.0}),
}
"""Losses, and how their pairs are weighted or filtered."""


@dataclass(frozen=True, slots=True)
class Run:
    """An arm of a setting on a seed, at a learning rate."""

    setting: str
    arm: str
    seed: int
    rate: float

    @property
    def key(self) -> str:
        """Changes with anything that changes the run."""
        return digest(asdict(self), ARMS[self.arm], pairs_of(self.setting), STEPS, BATCH)


@dataclass(frozen=True, slots=True)
class PairGrid:
    """All runs at one learning rate."""

    seeds: Sequence[int]
    rate: float

    @property
    def settings(self) -> Sequence[str]:
        return tuple(SETTINGS)

    def cells(self, setting: str) -> list[Run]:
        """The runs of a setting."""
        return [Run(setting, arm, seed, self.rate) for arm in ARMS for seed in self.seeds]


def pairs_of(setting: str) -> list[Any]:
    """What makes the pairs of a setting."""
    return [asdict(SETTINGS[setting]), RIGHT, WRONG, TIED, PROMPTS, ANSWERS]
