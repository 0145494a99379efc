"""Answers in the formats of official judges' scripts."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lit_uniopd.benchmarks.records import Record
from lit_uniopd.benchmarks.spec import Benchmark
from lit_uniopd.errors import UserError

Rows = Sequence[tuple[Record, Any]]
"""Records with their examples."""


def export(records: Sequence[Record], benchmark: Benchmark, directory: Path, model: str) -> Path:
    """Write the first answer to each row for a judge.

    ====================  ==============================================================================
    ``alpaca_eval``       JSON list for ``alpaca_eval --model_outputs FILE``
    ``arena_hard``        JSON lines for ``data/arena-hard-v0.1/model_answer/MODEL.jsonl``
    ``mm_vet``            JSON object for the official server: question id -> answer
    ``object_halbench``   JSON lines for ``eval_gpt_obj_halbench.py``
    ``sedareval``         JSON lines for ``src/main.py`` of its repository
    ====================  ==============================================================================

    Args:
        records: of one model.
        benchmark: whose ``scoring.export`` names the format.
        directory: where the file goes.
        model: name of the model in the file.

    Returns:
        The file.

    Raises:
        UserError: if the format is unknown.
    """
    format_name = benchmark.spec.scoring.export
    if format_name not in FORMATS:
        raise UserError(
            f"Benchmark {benchmark.key}: scoring.export must be one of {', '.join(FORMATS)}, not {format_name!r}."
        )
    examples = {example.id: example for example in benchmark.examples}
    first_answers = sorted(
        (r for r in records if r.sample_idx == 0 and r.sample_id in examples), key=lambda r: r.sample_id
    )
    text, suffix = FORMATS[format_name]([(record, examples[record.sample_id]) for record in first_answers], model)
    path = directory / f"{benchmark.spec.id}.{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def _alpaca_eval(rows: Rows, model: str) -> tuple[str, str]:
    entries = [
        {
            "dataset": example.row.get("dataset", ""),
            "instruction": example.row.get("question", ""),
            "output": record.response,
            "generator": model,
        }
        for record, example in rows
    ]
    return json.dumps(entries, indent=2, ensure_ascii=False), "json"


def _arena_hard(rows: Rows, model: str) -> tuple[str, str]:
    entries = [
        {
            "question_id": record.sample_id,
            "answer_id": record.prompt_hash,
            "model_id": model,
            "choices": [{"index": 0, "turns": [{"content": record.response, "token_len": record.n_tokens}]}],
            "tstamp": record.time,
        }
        for record, _ in rows
    ]
    return _lines(entries), "jsonl"


def _mm_vet(rows: Rows, model: str) -> tuple[str, str]:
    return json.dumps({record.sample_id: record.response for record, _ in rows}, indent=2, ensure_ascii=False), "json"


def _object_halbench(rows: Rows, model: str) -> tuple[str, str]:
    entries = [
        {"image_id": record.sample_id, "question": question_of(example), "answer": record.response, "model": model}
        for record, example in rows
    ]
    return _lines(entries), "jsonl"


def _sedareval(rows: Rows, model: str) -> tuple[str, str]:
    entries = [
        {"id": record.sample_id, "query": question_of(example), "answer": record.response, "meta": example.row["meta"]}
        for record, example in rows
    ]
    return _lines(entries), "jsonl"


def question_of(example: Any) -> str:
    """The text of the row's question where it is kept, else of the last turn."""
    question = example.row.get("question")
    if isinstance(question, str):
        return question
    content = example.messages[-1]["content"]
    if isinstance(content, str):
        return content
    return " ".join(part["text"] for part in content if part.get("type") == "text")


def _lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


FORMATS: dict[str, Callable[[Rows, str], tuple[str, str]]] = {
    "alpaca_eval": _alpaca_eval,
    "arena_hard": _arena_hard,
    "mm_vet": _mm_vet,
    "object_halbench": _object_halbench,
    "sedareval": _sedareval,
}
