"""The answers that a judge compares: those of a run, and those of the baseline."""

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lit_uniopd.benchmarks.exports import question_of
from lit_uniopd.benchmarks.judging.judged_rows import JudgedRow
from lit_uniopd.benchmarks.judging.own_prompts import own_prompts
from lit_uniopd.benchmarks.loading import load_benchmark
from lit_uniopd.benchmarks.records import Record, by_benchmark, last_evaluation
from lit_uniopd.benchmarks.report.summary import run_records
from lit_uniopd.benchmarks.spec import Benchmark, BenchmarkSpec
from lit_uniopd.errors import UserError
from lit_uniopd.utils.jsonl import numbered_lines
from lit_uniopd.utils.strict_json import parse_json


class Answer(NamedTuple):
    """What is judged of a record; before there are records, a blank."""

    sample_id: str
    sample_idx: int
    response: str


@dataclass(frozen=True, slots=True)
class Baseline:
    """Answers to compare with.

    Each stands under the text of its question, with single blanks; a text that comes twice has an answer for each time.
    It also stands under its `id` if that names a row, and one with the same text where it has a text.
    """

    name: str
    by_id: Mapping[str, str]
    by_question: Mapping[str, Sequence[str]]


def read_baseline(path: Path, benchmark: Benchmark) -> Baseline:
    """The baseline's answers.

    Args:
        path: directory of a run that has answered the same rows, or a file: AlpacaEval's JSON list of outputs, or the
            JSON lines of Arena-Hard's answers.
        benchmark: that is judged.

    Raises:
        UserError: if it has none, or other rows.
    """
    if path.is_dir():
        records = by_benchmark(last_evaluation(run_records(path))).get(benchmark.key, [])
        if not records or {record.fingerprint for record in records} != {benchmark.fingerprint}:
            raise UserError(
                f"--baseline {path} has not answered the rows of {benchmark.key} that this run has; give a run with "
                "the same rows and profile, or a file of answers."
            )
        return Baseline(records[0].model, {r.sample_id: r.response for r in records if r.sample_idx == 0}, {})
    if not path.is_file():
        raise UserError(f"--baseline {path} does not exist; give a file of answers, or the directory of a run.")
    question_by_id = {example.id: _spaced(question_of(example)) for example in benchmark.examples}
    by_id: dict[str, str] = {}
    by_question: dict[str, list[str]] = defaultdict(list)
    name = ""
    for number, entry in enumerate(_entries(path), 1):
        answer = answer_of(entry)
        if answer is None:
            raise UserError(
                f"--baseline {path}: entry {number} has no answer (`output`, `choices` or `messages`; it has "
                f"{', '.join(entry)}); mend it."
            )
        name = name or str(entry.get("generator") or entry.get("model_id") or entry.get("model") or path.stem)
        row_id = next((str(entry[key]) for key in ("question_id", "uid", "id") if key in entry), None)
        question = _question_text(entry)
        if row_id in question_by_id and question in (None, question_by_id[row_id]):
            by_id[row_id] = answer
        if question is not None:
            by_question[question].append(answer)
    return Baseline(name, by_id, by_question)


def _question_text(entry: Mapping[str, Any]) -> str | None:
    """The question that an entry answers, by itself or as the user's last turn; None: it does not say."""
    turns = [turn.get("content") for turn in entry.get("messages") or () if turn.get("role") == "user"]
    question = entry.get("instruction") or entry.get("prompt") or entry.get("question") or (turns and turns[-1])
    return _spaced(question) or None if isinstance(question, str) else None


def _spaced(text: str) -> str:
    return " ".join(text.split())


def _entries(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".json":
        entries = parse_json(path.read_text(encoding="utf-8"), str(path))
    else:
        entries = [parse_json(line, f"{path}:{number}") for number, line in numbered_lines(path)]
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"--baseline {path} must hold a list of entries with answers; mend it.")
    return entries


def answer_of(entry: Mapping[str, Any]) -> str | None:
    """The answer in an entry of AlpacaEval (``output``) or of either version of Arena-Hard's files."""
    try:
        if "choices" in entry:
            answer: Any = entry["choices"][0]["turns"][0]["content"]
        elif "messages" in entry:
            answer = entry["messages"][-1]["content"]
        else:
            answer = entry.get("output", entry.get("answer"))
    except (KeyError, IndexError, TypeError):
        return None
    answer = answer.get("answer") if isinstance(answer, Mapping) else answer
    return answer if isinstance(answer, str) else None


def load_rows(spec: BenchmarkSpec, records: Sequence[Record]) -> Benchmark:
    """The benchmark with the rows that were answered, all of them or those of a run with a limit.

    Raises:
        UserError: if the rows have changed since.
    """
    profile: Any = records[0].profile
    for limit in (None, len({record.group_id for record in records})):
        benchmark = load_benchmark(spec, profile, limit=limit)
        if benchmark.fingerprint == records[0].fingerprint:
            return benchmark
    raise UserError(
        f"The rows of {spec.key} are not those that the run has answered; pin hub.revision to theirs in a YAML file of "
        "your own and name it by --benchmark, or evaluate again."
    )


def judged_rows(benchmark: Benchmark, records: Sequence[Record | Answer], baseline: Baseline | None) -> list[JudgedRow]:
    """What the judge is shown of each answer.

    Args:
        benchmark: with its rows.
        records: the answers.
        baseline: None: answers are compared with the right one.

    Raises:
        UserError: if the baseline lacks an answer.
    """
    numbers = {example.id: i for i, example in enumerate(benchmark.examples)}
    others = _right_answers(benchmark) if baseline is None else _baseline_answers(benchmark, baseline)

    def judged_row(record: Record | Answer) -> JudgedRow:
        example = benchmark.examples[numbers[record.sample_id]]
        prompts = own_prompts(example.row)
        return JudgedRow(
            sample_id=record.sample_id,
            sample_idx=record.sample_idx,
            number=int(record.sample_id) if record.sample_id.isdigit() else numbers[record.sample_id],
            question=question_of(example),
            answer=record.response,
            other=others[record.sample_id],
            objects=_objects(example.gold),
            kinds=_kinds(example.row),
            rubric=str(example.row.get("rubric", "")),
            own_prompts=prompts,
            filled_prompts=tuple(prompt.fill(example.turns, record.response) for prompt in prompts),
        )

    return [judged_row(record) for record in sorted(records, key=lambda r: (numbers[r.sample_id], r.sample_idx))]


def _right_answers(benchmark: Benchmark) -> dict[str, str]:
    """The gold answers as MM-Vet's evaluator shows them, with blanks around the signs that join their parts."""
    golds = {example.id: str(example.gold) for example in benchmark.examples}
    return {name: gold.replace("<AND>", " <AND> ").replace("<OR>", " <OR> ") for name, gold in golds.items()}


def _baseline_answers(benchmark: Benchmark, baseline: Baseline) -> dict[str, str]:
    unused = {question: deque(answers) for question, answers in baseline.by_question.items()}
    answers: dict[str, str] = {}
    missing = []
    for example in benchmark.examples:
        same_text = unused.get(_spaced(question_of(example)))
        if example.id in baseline.by_id:
            answers[example.id] = baseline.by_id[example.id]
        elif same_text:
            answers[example.id] = same_text.popleft() if len(same_text) > 1 else same_text[0]
        else:
            missing.append(example.id)
    if missing:
        raise UserError(
            f"--baseline {baseline.name} has no answer to {len(missing)} of {len(benchmark.examples)} questions of "
            f"{benchmark.key} (the first is row {missing[0]}); give a file with all of them, with the rows' own texts "
            "where it has texts of questions."
        )
    return answers


def _objects(gold: Any) -> tuple[str, ...]:
    """The annotated classes of a picture, where the right answer is those."""
    return tuple(gold.get("objects", ())) if isinstance(gold, Mapping) else ()


def _kinds(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The kind of a question, or its capabilities from a list or from a text with commas."""
    cell = row.get("kind", row.get("capability"))
    names = cell.split(",") if isinstance(cell, str) else cell or ()
    return tuple(str(name).strip() for name in names)
