"""What a finished evaluation leaves on disk: ``summary.json`` and ``records.parquet``."""

import json
import logging
import os
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from lit_uniopd.benchmarks.records import PENDING, RECORDS, Record, read_records
from lit_uniopd.benchmarks.report.means import domain_means, mean16
from lit_uniopd.errors import UserError
from lit_uniopd.utils.versions import versions

if TYPE_CHECKING:
    from lit_uniopd.benchmarks.distributed_evaluator import EvalResult

log = logging.getLogger(__name__)

SUMMARY = "summary.json"
PARQUET = "records.parquet"
_PLAIN = ("gold", "options", "also", "breakdown")
"""Fields without a fixed type, which a column holds as JSON."""


def summary_of(result: "EvalResult") -> dict[str, Any]:
    """Scores, intervals, health and origin of an evaluation; plain data."""
    specs = {key: benchmark.spec for key, benchmark in result.benchmarks.items()}
    primary = result.primary()
    complete = {key: score for key, score in primary.items() if result.complete[key]}
    return {
        "model": result.name,
        "step": result.step,
        "benchmarks": {key: _benchmark_summary(result, key) for key in result.benchmarks},
        **({"groups": result.groups} if result.groups else {}),
        "domains": domain_means(complete, specs),
        "mean16": mean16(complete, specs),
        "versions": graded_by(),
    }


def _benchmark_summary(result: "EvalResult", key: str) -> dict[str, Any]:
    benchmark, card = result.benchmarks[key], result.cards.get(key)
    records = result.records[key]
    return {
        "domain": benchmark.spec.domain,
        "profile": benchmark.profile,
        "version": benchmark.spec.version,
        "fingerprint": benchmark.fingerprint,
        **({} if benchmark.harness is None else {"settings": dict(benchmark.spec.scoring.options)}),
        "left_out": dict(benchmark.left_out),
        "complete": result.complete[key],
        "answers": len(records),
        "weights": sorted({record.weights for record in records}),
        "sandbox": sorted({record.sandbox for record in records if record.sandbox}),
        "judge": benchmark.spec.scoring.judge,
        "scores": result.scores[key],
        "card": None if card is None else asdict(card),
        **({"judged": [result.judged[key]]} if key in result.judged else {}),
    }


def graded_by() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    return {**versions(("lit-uniopd", "torch", "transformers", "math-verify")), "git": _commit()}


def _commit() -> str:
    try:
        finished = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return finished.stdout.strip() or "unknown"


def compact(directory: Path) -> Path | None:
    """Move a run's JSON lines into ``records.parquet``; they are deleted once that file has been read back.

    Args:
        directory: of the run.

    Returns:
        The file, or None if nothing was recorded.
    """
    lines = sorted((directory / RECORDS).glob("*.jsonl"))
    target = directory / PARQUET
    old = read_parquet(target) if target.exists() else []
    new = [record for record in read_records(lines) if record.reason != PENDING]
    records = list({record.key: record for record in [*old, *new]}.values())
    if not records:
        return None
    scratch = target.with_name(f".{PARQUET}.tmp")
    write_parquet(records, scratch)
    if read_parquet(scratch) != records:
        log.warning("%s does not read back as it was written; the JSON lines stay in %s.", scratch, directory / RECORDS)
        return None
    os.replace(scratch, target)
    for path in lines:
        path.unlink()
    with suppress(OSError):  # the directory too, if nothing else is in it
        (directory / RECORDS).rmdir()
    return target


def write_parquet(records: Sequence[Record], path: Path) -> None:
    """Write records to one file."""
    pq.write_table(pa.Table.from_pylist([_row(record) for record in records]), path, compression="zstd")


def read_parquet(path: Path) -> list[Record]:
    """The records of one file."""
    return [_record(row) for row in pq.read_table(path).to_pylist()]


def run_records(directory: Path) -> list[Record]:
    """All records of a run, compacted or not.

    Raises:
        UserError: if the directory holds none.
    """
    records = read_parquet(directory / PARQUET) if (directory / PARQUET).exists() else []
    keys = {record.key for record in records}
    records += [r for r in read_records(sorted((directory / RECORDS).glob("*.jsonl"))) if r.key not in keys]
    if not records:
        raise UserError(
            f"{directory} holds no records of an evaluation; give the directory of a run, e.g. "
            "runs/benchmarks/version_0."
        )
    return records


def _row(record: Record) -> dict[str, Any]:
    values = {f.name: getattr(record, f.name) for f in fields(record)}
    return {name: json.dumps(value, sort_keys=True) if name in _PLAIN else value for name, value in values.items()}


def _record(row: dict[str, Any]) -> Record:
    return Record(**{name: json.loads(value) if name in _PLAIN else value for name, value in row.items()})
