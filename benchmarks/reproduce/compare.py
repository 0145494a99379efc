"""Published numbers against those of a run's directory."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_uniopd.memory.plan import padded
from lit_uniopd.utils.strict_yaml import read_yaml

EXPECTED = Path(__file__).with_name("expected.yaml")


@dataclass(frozen=True, slots=True)
class Curve:
    """A published value for each step, the first one first."""

    values: Sequence[float]
    tolerance: float
    """The largest difference of a step that counts as the same; a share of the value if ``relative``."""
    published: float = 0.0
    """What the authors' own runs may differ by, in the same unit."""
    relative: bool = False


@dataclass(frozen=True, slots=True)
class Score:
    """A published score."""

    value: float
    tolerance: float


@dataclass(frozen=True, slots=True)
class Expected:
    """What a run is held against."""

    source: str
    curves: Mapping[str, Curve]
    """By tag."""
    scores: Mapping[str, Score]
    """By ``before``, ``after`` or ``teachers`` and the domain, or by benchmark and metric."""

    @classmethod
    def read(cls, path: Path = EXPECTED) -> dict[str, "Expected"]:
        """By the name of its config."""
        return {
            name: cls(
                source=" ".join(fields["source"].split()),
                curves={tag: Curve(**curve) for tag, curve in fields.get("curves", {}).items()},
                scores={tag: Score(**score) for tag, score in fields.get("scores", {}).items()},
            )
            for name, fields in read_yaml(path).items()
        }


@dataclass(frozen=True, slots=True)
class Result:
    """One number, or a curve at the step at which it is furthest away."""

    what: str
    expected: float
    measured: float
    """NaN: the run has none."""
    difference: float
    """Largest; a share if the tolerance is one."""
    tolerance: float
    note: str = ""

    @property
    def holds(self) -> bool:
        return self.difference <= self.tolerance  # of NaN: no


def compare(expected: Expected, run: Path) -> list[Result]:
    """Everything that is expected of a run.

    Args:
        expected: of the config.
        run: its directory, with ``metrics.csv`` where curves are expected, and ``summary.json`` where scores are.
    """
    curves = read_curves(run / "metrics.csv") if expected.curves else {}
    scores = read_scores(run / "summary.json") if expected.scores else {}
    results = [compare_curve(tag, curve, curves.get(tag, [])) for tag, curve in expected.curves.items()]
    for name, score in expected.scores.items():
        measured = scores.get(name, math.nan)
        note = "not measured" if math.isnan(measured) else ""
        results.append(Result(name, score.value, measured, abs(measured - score.value), score.tolerance, note))
    return results


def compare_curve(tag: str, curve: Curve, measured: Sequence[float]) -> Result:
    """A curve at its worst step.

    Args:
        tag: its name.
        curve: as published.
        measured: of the same steps.
    """
    if len(measured) != len(curve.values):
        missing = f"{len(measured)} steps of {len(curve.values)}"
        return Result(tag, math.nan, math.nan, math.nan, curve.tolerance, missing)
    differences = [
        abs(ours - theirs) / (abs(theirs) if curve.relative else 1.0)
        for ours, theirs in zip(measured, curve.values, strict=True)
    ]
    worst = max(range(len(differences)), key=differences.__getitem__)
    mean = sum(differences) / len(differences)
    note = f"worst of {len(differences)} steps: {worst + 1}; mean {mean:.2g}"
    if differences[worst] <= curve.published:
        note += "; within the authors' own tolerance"
    return Result(tag, curve.values[worst], measured[worst], differences[worst], curve.tolerance, note)


def read_curves(path: Path) -> dict[str, list[float]]:
    """Tag -> its values in order, of the file of a CSV logger; none if there is no such file."""
    curves: dict[str, list[float]] = {}
    if path.exists():
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                for tag, value in row.items():
                    if value not in (None, ""):
                        curves.setdefault(tag, []).append(float(value))
    return curves


def read_scores(path: Path) -> dict[str, float]:
    """Scores of ``summary.json``: before, after and of the teachers by domain, and those of benchmarks by metric."""
    summary: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    whens = ("before", "after", "teachers")
    scores = {f"{when}/{name}": value for when in whens for name, value in (summary.get(when) or {}).items()}
    for key, benchmark in summary.get("benchmarks", {}).items():
        scores |= {f"{key}/{metric}": value for metric, value in benchmark["scores"].items()}
    return scores


def table(results: Sequence[Result]) -> str:
    """Expected against measured."""
    rows = [
        (r.what, *map(_shown, (r.expected, r.measured, r.difference)), f"{r.tolerance:g}", _verdict(r), r.note)
        for r in results
    ]
    return padded(("number", "expected", "measured", "difference", "allowed", "verdict", "note"), rows)


def _shown(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4f}"


def _verdict(result: Result) -> str:
    if math.isnan(result.difference):
        return "missing"
    return "reproduced" if result.holds else "differs"
