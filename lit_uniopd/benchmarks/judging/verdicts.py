"""What a judge has said: how a reply is read, and the file that keeps each verdict."""

import ast
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from lit_uniopd.benchmarks.records import content_hash
from lit_uniopd.rewards.text import strip_reasoning
from lit_uniopd.utils.jsonl import append_lines, read_lines

VERDICTS = "verdicts"
"""Directory below that of the run: one file of JSON lines for each benchmark."""
FIVE_STEPS = {"A>>B": 1.0, "A>B": 1.0, "A=B": 0.5, "B>A": 0.0, "B>>A": 0.0}
"""Label -> what the answer shown first has won."""
_MIRRORED = {"B<<A": "A>>B", "B<A": "A>B", "B=A": "A=B", "A<B": "B>A", "A<<B": "B>>A"}
_LABEL, _LOOSE_LABEL = re.compile(r"\[\[([AB<>=]+)\]\]"), re.compile(r"\[([AB<>=]+)\]")
_NUMBER = r"(\d+(?:\.\d*)?|\.\d+)"
_MARK, _FIRST_NUMBER = re.compile(r"\[\[\s*" + _NUMBER + r"\s*\]\]"), re.compile(_NUMBER + r"(?=\s|$)")
_FINAL_SCORE = re.compile(r"最终得分为?[:\uff1a]\s*(-?\d+(?:\.\d+)?)")
"""As SedarEval's own prompts have it."""


def read_label(reply: str) -> str | None:
    """The last of the five labels in a reply, behind its reasoning: ``A>>B``; None if there is none.

    As in Arena-Hard, single brackets do where there are no double ones.
    """
    text = (strip_reasoning(reply) or "").upper()
    labels = _LABEL.findall(text) or _LOOSE_LABEL.findall(text)
    label = _MIRRORED.get(labels[-1], labels[-1]) if labels else ""
    return label if label in FIVE_STEPS else None


def read_letter(reply: str, letters: tuple[str, str]) -> str | None:
    """The one letter that a reply consists of; None if there is anything else."""
    text = (strip_reasoning(reply) or "").strip(" \t\r\n\"'`*()[].:")
    return text if text in letters else None


def read_mark(reply: str) -> float | None:
    """The last number in double brackets, else the one that the reply begins with; None if it is not in [0, 1]."""
    text = (strip_reasoning(reply) or "").strip()
    marks = _MARK.findall(text)
    first = _FIRST_NUMBER.match(text)
    number = float(marks[-1]) if marks else float(first[1]) if first else math.nan
    return number if 0 <= number <= 1 else None


def read_points(reply: str, most: float, least: float = 0.0) -> float | None:
    """The last number in double brackets, else the last behind the words for "final score"; None if it is out of range.

    Args:
        reply: what the judge has written.
        most: of the points there are.
        least: likewise.
    """
    text = (strip_reasoning(reply) or "").strip()
    marks = _MARK.findall(text) or _FINAL_SCORE.findall(text)
    points = float(marks[-1]) if marks else math.nan
    return points if least <= points <= most else None


def read_objects(reply: str) -> list[str] | None:
    """The texts of the list that a reply holds; None if there is no list of texts."""
    text = strip_reasoning(reply) or ""
    start, end = text.find("["), text.rfind("]")
    if start < 0 or end < start:
        return None
    try:
        names = ast.literal_eval(text[start : end + 1])  # JSON's lists of texts are Python's, and both quotes come
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None


def letter_share(logps: Mapping[str, float], letters: tuple[str, str]) -> float | None:
    """Probability of the first letter among the two; None if the judge gives neither."""
    first, second = (math.exp(logps.get(letter, -math.inf)) for letter in letters)
    return None if first + second == 0 else first / (first + second)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a judge said of one answer, or of a pair in one order."""

    benchmark: str
    """``BenchmarkSpec.key``."""
    sample_id: str
    sample_idx: int
    order: str
    """``model_first | baseline_first``; where there is no second answer the number of the prompt, of several on it."""
    asked: str
    """Hash of the messages: of wording, question and answers."""
    judge: Mapping[str, Any]
    """Who judged and how, without an address."""
    template: Mapping[str, str]
    value: float | None
    """What the model has won, or its mark, in [0, 1], or how many objects it names; None: the reply cannot be read."""
    weight: float = 1.0
    label: str = ""
    """As the reply has it, in the order of the question."""
    reply: str = ""
    baseline: str = ""
    finish: str = "stop"
    served_model: str = ""
    """What the server says that it ran."""
    tokens_in: int | None = None
    tokens_out: int | None = None
    time: float = 0.0
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> tuple[Any, ...]:
        """What makes two verdicts the same: a changed answer, wording or judge makes a new one."""
        origin = content_hash(dict(self.judge), self.template["sha256"])
        return self.benchmark, self.sample_id, self.sample_idx, self.order, self.asked, origin


def verdict_file(directory: Path, benchmark: str) -> Path:
    """Where the verdicts on a benchmark's answers are."""
    return directory / VERDICTS / f"{benchmark.replace('/', '_')}.jsonl"


def earlier_verdict_files(directory: Path, benchmark: str) -> list[Path]:
    """Where the other versions of the same run have theirs."""
    file = verdict_file(directory, benchmark)
    return sorted(path for path in directory.parent.glob(f"*/{VERDICTS}/{file.name}") if path != file)


def read_verdicts(path: Path) -> dict[tuple[Any, ...], Verdict]:
    """The verdicts in a file by their keys, the first of each; torn lines (of a killed run) are left out."""
    names = {f.name for f in fields(Verdict)}
    verdicts: dict[tuple[Any, ...], Verdict] = {}
    for line in read_lines(path):
        if {"benchmark", "sample_id", "sample_idx", "order", "asked", "judge", "template", "value"} <= line.keys():
            verdict = Verdict(**{name: value for name, value in line.items() if name in names})
            verdicts.setdefault(verdict.key, verdict)
    return verdicts


def keep_verdicts(path: Path, verdicts: Iterable[Verdict]) -> None:
    """Append verdicts at once.

    Raises:
        UserError: naming the file, if the disk is full.
    """
    append_lines(path, [asdict(verdict) for verdict in verdicts])
