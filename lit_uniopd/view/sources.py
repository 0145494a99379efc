"""What `uniopd view` has to show of each run that it is given: its records, and its scores before and after."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lit_uniopd.errors import UserError
from lit_uniopd.utils.jsonl import read_lines

GROUPS_FILE = "rollouts.jsonl"
"""Groups of answers, in the directory of a run; ranks beyond the first add their number."""
PAIRS_FILE = "weighed_pairs.jsonl"
"""Preference pairs and their weights, in the directory of a run."""
CAPTIONS = ".captions.jsonl"
"""Ending of the files that SENTINEL's bootstrapping writes."""
SCORE_FILES = ("summary.json", "hallucination.json")
"""Scores before and after training, in the directory of a run."""
CHAIR = {"chair_i": "hallucinated mentions", "chair_s": "captions with one", "recall": "objects named"}
"""Scores of ``hallucination.json`` that are shares."""


@dataclass
class ShownRun:
    """What is shown of one run."""

    name: str
    groups: list[Any] = field(default_factory=list)
    pairs: list[Any] = field(default_factory=list)
    captions: list[Any] = field(default_factory=list)
    unreadable: int = 0
    """Captions whose picture the bootstrapping could not read."""
    scores: list[dict[str, Any]] = field(default_factory=list)
    """``name``, ``before``, ``after`` and ``teacher`` of each benchmark, as shares; None where there is none."""


def read_runs(sources: Sequence[Path]) -> list[ShownRun]:
    """What there is to show, a run a source; their names tell them apart.

    Raises:
        UserError: if one has nothing to show.
    """
    places = [newest_version(source) for source in sources]
    if twice := next((place for i, place in enumerate(places) if place in places[:i]), None):
        raise UserError(f"uniopd view: {twice} is named twice; give two runs, or one.")
    return [_read(place, name) for place, name in zip(places, _names(places), strict=True)]


def newest_version(source: Path) -> Path:
    """The newest version with something to show, where a directory holds versions of a run; else what was given.

    Raises:
        UserError: if the path does not exist.
    """
    if not source.exists():
        raise UserError(f"uniopd view: {source} does not exist; give the directory of a run (runs/<name>/version_N).")
    versions = {int(match[1]): path for path in source.glob("version_*") if (match := _version(path))}
    shown = [path for _, path in sorted(versions.items()) if shows_something(path)]
    return shown[-1] if shown and not shows_something(source) else source


def _version(path: Path) -> re.Match[str] | None:
    return re.fullmatch(r"version_(\d+)", path.name)


def shows_something(directory: Path) -> bool:
    """Whether a directory of a run has anything for the page."""
    return any(directory.glob(f"*{CAPTIONS}")) or any((directory / f).is_file() for f in (GROUPS_FILE, PAIRS_FILE))


def _read(source: Path, name: str) -> ShownRun:
    run = ShownRun(name)
    if source.is_dir():
        run.groups = list(read_lines(source / GROUPS_FILE))
        run.pairs = list(read_lines(source / PAIRS_FILE))
        for file in sorted(source.glob(f"*{CAPTIONS}")):
            run.captions += read_lines(file)
        run.scores = read_scores(source)
    elif source.suffix == ".jsonl":
        run.captions = list(read_lines(source if source.name.endswith(CAPTIONS) else source.with_suffix(CAPTIONS)))
    if not run.groups and not run.pairs and not run.captions:
        raise UserError(
            f"uniopd view: {source} has no {GROUPS_FILE}, {PAIRS_FILE} or *{CAPTIONS}; add callbacks.RolloutRecorder "
            f"(or PreferenceDiagnostics) to trainer.callbacks and run again, or name another directory{_near(source)}."
        )
    run.unreadable = sum("unreadable" in caption for caption in run.captions)
    run.captions = [caption for caption in run.captions if "unreadable" not in caption]
    return run


def _near(source: Path) -> str:
    """Runs below a directory that holds several, for a message."""
    runs = sorted(path for path in source.glob("*") if path.is_dir() and shows_something(newest_version(path)))
    return f" ({', '.join(map(str, runs[:5]))})" if runs else ""


def read_scores(directory: Path) -> list[dict[str, Any]]:
    """Scores of a run that its callbacks wrote: of benchmarks and held-out prompts, and of captions."""
    summary, captions = (_json(directory / name) for name in SCORE_FILES)
    before, after, teachers = (_numbers(summary.get(model)) for model in ("before", "after", "teachers"))
    rows = [
        {"name": name, "before": before.get(name), "after": score, "teacher": teachers.get(name)}
        for name, score in after.items()
    ]
    for decoding in captions.get("after", {}):
        first, last = (_numbers(captions.get(when, {}).get(decoding)) for when in ("before", "after"))
        label = decoding.replace("_", " ")
        rows += [
            {"name": f"{words} ({label})", "before": first.get(key), "after": last[key], "teacher": None}
            for key, words in CHAIR.items()
            if key in last
        ]
    return rows


def _json(path: Path) -> Mapping[str, Any]:
    """What a file of scores holds; a run that was killed while it wrote has none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _numbers(value: Any) -> dict[str, float]:
    items = value.items() if isinstance(value, Mapping) else ()
    return {name: float(score) for name, score in items if isinstance(score, int | float)}


def _names(places: Sequence[Path]) -> list[str]:
    """As few of the last names of each path as tell them apart; of one alone all."""
    if len(places) == 1:
        return [str(places[0])]
    parts = [place.absolute().parts for place in places]
    for count in range(2, max(map(len, parts)) + 1):
        names = ["/".join(path[-count:]) for path in parts]
        if len(set(names)) == len(names):
            return names
    return [str(place) for place in places]
