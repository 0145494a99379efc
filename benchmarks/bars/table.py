"""The table of docs/performance.md."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from benchmarks.bars.harness import Bar

PAGE = Path("docs/performance.md")


def write_table(bars: Sequence[Bar], load: float, split: Path) -> None:
    """Fill the page's tables, between their markers."""
    page = PAGE.read_text()
    page = _filled(page, "bars", _table(bars, load))
    if split.exists():
        page = _filled(page, "split", _split_table(json.loads(split.read_text())))
    PAGE.write_text(page)
    misses = [bar for bar in bars if not bar.passed]
    print(f"{len(bars) - len(misses)} of {len(bars)} measurements pass; the table is in {PAGE}")


def _filled(page: str, name: str, text: str) -> str:
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)", re.S)
    if not pattern.search(page):
        raise SystemExit(f"{PAGE} has no place for {name}")
    return pattern.sub(lambda match: match.group(1) + text + match.group(2), page)


def _table(bars: Sequence[Bar], load: float) -> str:
    lines = ["| bar | what | measure | median (range) | at most | |", "|---:|---|---|---:|---:|---|"]
    for bar in sorted(bars, key=lambda bar: int(bar.number)):
        spread = "" if bar.low == bar.high else f" ({_number(bar.low)} to {_number(bar.high)})"
        verdict = "pass" if bar.passed else "**miss**"
        value = f"{_number(bar.value)}{spread} | {_number(bar.limit)}"
        lines.append(f"| {bar.number} | {bar.what} | {bar.measure} | {value} | {verdict} |")
    machine = "an idle machine" if load < 1.5 else f"a busy machine (load average up to {load:.0f} on 2 cores)"
    return "\n".join([*lines, "", f"Measured on {machine}.", ""])


def _number(value: float) -> str:
    return f"{value:.3g}"


def _split_table(split: dict) -> str:
    labels = {
        "rollout": "rollout: the student writes",
        "score": "score: the teachers read; graders work meanwhile",
        "grade": "grade: what is still waited for after that",
        "update": "update: forward, backward, optimizer",
        "wait": "wait: for the next batch",
        "overhead": "overhead: statistics, logging, Lightning",
    }
    lines = [f"| part of a step of {split['step']:.2f} s | share |", "|---|---:|"]
    lines += [f"| {label} | {split['shares'][name]:.1%} |" for name, label in labels.items()]
    encode = f"Rendering and tokenising prompts, inside rollout and score: {split['shares']['encode']:.1%} of a step."
    return "\n".join([*lines, "", encode, ""])
