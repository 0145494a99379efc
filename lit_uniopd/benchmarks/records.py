"""Records: one JSON line per answer, appended at once, from which every score is computed."""

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from lit_uniopd.errors import full_disk_named

log = logging.getLogger(__name__)

RECORDS = "records"
"""Directory of the JSON lines, below that of the run."""
PENDING = "pending"
"""Reason of an answer that was written and not judged yet."""


@dataclass(frozen=True, slots=True)
class Record:
    """One answer and its verdict."""

    benchmark: str
    """Id of the spec."""
    protocol: str
    version: int
    profile: str
    fingerprint: str
    """Of the benchmark's rows."""
    sample_id: str
    group_id: str
    sample_idx: int
    """Which of the n answers to this row."""
    prompt_hash: str
    """Of the messages, the pictures' references and the chat template's arguments."""
    generation_hash: str
    """Of the decoding settings and the seed."""
    weights: str
    """Fingerprint of the model's weights."""
    model: str
    """Name for people: path or step of the run."""
    step: int
    response: str = ""
    n_tokens: int = 0
    finish: str = "stop"
    """``stop | length``."""
    gold: Any = None
    """What the grader compared with; ``{"omitted": hash}`` where that is long (the tests of a program, say)."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the grader."""
    extracted: str | None = None
    correct: bool | None = None
    """None: no verdict; it counts as wrong, and in the health tables."""
    score: float = 0.0
    reason: str = PENDING
    """Of the grade: ``ok | wrong | no_answer | truncated | timeout | error | ...``; `PENDING` before there is one."""
    grader: str = ""
    """Empty: the answer is for a judge."""
    grader_version: str = ""
    also: Mapping[str, float] = field(default_factory=dict)
    """Scores of further graders."""
    failed_graders: str = ""
    """Names of the graders that broke down on this answer, by commas; those of ``also`` count it 0."""
    breakdown: Mapping[str, str] = field(default_factory=dict)
    seconds_generate: float = 0.0
    rank: int = 0
    sandbox: str | None = None
    """Backend that ran the answer's code."""
    time: float = 0.0
    """Unix time."""

    @property
    def key(self) -> tuple[Any, ...]:
        """What makes two answers the same answer: a changed prompt, decoding, row or weight makes a new key."""
        return (
            self.weights,
            self.benchmark,
            self.protocol,
            self.version,
            self.profile,
            self.sample_id,
            self.sample_idx,
            self.prompt_hash,
            self.generation_hash,
        )

    def is_judged_as(self, other: "Record") -> bool:
        """Whether the verdicts on both are of the same gold answer by the same graders in the same version."""

        def judgement(record: Record) -> str:
            return json.dumps(
                [record.gold, record.options, record.grader, record.grader_version, sorted(record.also)],
                default=str,
                sort_keys=True,
            )

        return judgement(self) == judgement(other)

    def answer_in(self, blank: "Record") -> "Record":
        """A record that has this one's answer, and all else from ``blank``."""
        answer = {name: getattr(self, name) for name in ("response", "n_tokens", "finish", "seconds_generate", "time")}
        return replace(blank, **answer)


def content_hash(*values: Any) -> str:
    """Short hash of plain data."""
    text = json.dumps(values, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


LONGEST_GOLD = 4096
"""Characters of JSON; longer golds are not repeated in every record."""


def brief_gold(gold: Any) -> Any:
    """A gold answer as it is recorded."""
    if gold is None or isinstance(gold, str | bool | int | float):
        return gold
    text = json.dumps(gold, ensure_ascii=False, default=str)
    return {"omitted": content_hash(text)} if len(text) > LONGEST_GOLD else json.loads(text)


def is_omitted(gold: Any) -> bool:
    """Whether a recorded gold answer stands for a longer one."""
    return isinstance(gold, dict) and set(gold) == {"omitted"}


class RecordWriter:
    """Appends records to one file, which belongs to one rank.

    Every call writes its lines in one piece and flushes, so a killed run loses no answer that it was given.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, records: Iterable[Record]) -> None:
        """Write the records at once."""
        lines = "".join(json.dumps(asdict(record), ensure_ascii=False, default=str) + "\n" for record in records)
        if not lines:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with full_disk_named(self.path), self.path.open("ab") as file:
            # Else the torn line of a killed run would swallow the next one.
            if file.tell() and not _ends_with_newline(self.path):
                file.write(b"\n")
            file.write(lines.encode())
            file.flush()
            os.fsync(file.fileno())


def read_records(paths: Iterable[Path]) -> list[Record]:
    """All records of the files, each key once: the last that was judged, else the first.

    So one that was judged again, by another grader say, takes the place of what was said before.

    Broken lines (of a run that was killed while it wrote) are skipped and counted in the log.
    """
    by_key: dict[tuple[Any, ...], Record] = {}
    for path in paths:
        broken = 0
        for line in path.read_bytes().splitlines():
            record = _parse(line)
            broken += record is None and bool(line.strip())
            if record is not None and (record.key not in by_key or record.reason != PENDING):
                by_key[record.key] = record
        if broken:
            log.warning("%s: %d broken line(s) skipped (a run was killed while it wrote).", path, broken)
    return list(by_key.values())


def _parse(line: bytes) -> Record | None:
    try:
        return Record(**{name: value for name, value in json.loads(line).items() if name in _FIELDS})
    except (ValueError, TypeError, AttributeError):
        return None


_FIELDS = frozenset(f.name for f in fields(Record))


def by_benchmark(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Records by ``BenchmarkSpec.key``."""
    records_by_key: dict[str, list[Record]] = {}
    for record in records:
        records_by_key.setdefault(f"{record.benchmark}@{record.protocol}", []).append(record)
    return records_by_key


def grouped(records: Sequence[Record]) -> list[list[Record]]:
    """The records of each group, in the order of rows and answers."""
    groups: dict[str, list[Record]] = {}
    for record in sorted(records, key=lambda r: (r.group_id, r.sample_id, r.sample_idx)):
        groups.setdefault(record.group_id, []).append(record)
    return list(groups.values())


def last_evaluation(records: Sequence[Record]) -> list[Record]:
    """A run's records of the model itself (not of teachers) at the last step."""
    model_records = [record for record in records if not record.model.startswith("teacher ")]
    last = max(record.step for record in model_records)
    return [record for record in model_records if record.step == last]


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
