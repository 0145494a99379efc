"""What tasks of lm-eval and of lmms-eval have in common: their verdicts on answers, their scores and their groups."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

from lit_uniopd.benchmarks.records import Record
from lit_uniopd.errors import UserError, first_line

log = logging.getLogger(__name__)

DRAWS = 1000
"""Bootstrap draws behind the standard errors that the harnesses do not have in closed form."""


@dataclass(frozen=True, slots=True)
class TaskScores:
    """Scores of one task, by the harnesses' names: ``acc,none`` is the metric, then the filter."""

    values: dict[str, float]
    errors: dict[str, float]
    """Standard errors, of the scores that have one."""
    documents: int


class ScoredTask(ABC):
    """A task of a harness, which judges and scores answers by its own code.

    Attributes:
        task: the harness's own object.
        groups: of the names that brought it; each has a ``name``, ``get_all_tasks()``, ``has_aggregation`` and
            ``aggregate(table)``, as lm-eval's have.
    """

    prefix: ClassVar[str]
    """Begins the names of the harness's tasks."""
    harness: ClassVar[str]
    """Who judged, in the records."""
    package: ClassVar[str]
    """Whose version stands in the records."""
    renders: ClassVar[bool]
    """Whether the task puts its requests into a model's words itself; else its rows are chats, rendered as others."""

    task: Any
    groups: tuple[Any, ...]

    @property
    def name(self) -> str:
        """The task's name here."""
        return f"{self.prefix}{self.task.task_name}"

    # --- what the harnesses do differently ---

    @abstractmethod
    def answered(self, document: int, answers: Sequence[str]) -> list[Any]:
        """Requests of a document with the replies of its answers."""

    @abstractmethod
    def filter(self, instances: Sequence[Any]) -> None:
        """Let the task's filters extract answers from replies."""

    @abstractmethod
    def results(self, instances: Sequence[Any], name: str) -> Mapping[str, Any]:
        """Metric -> value of one document, whose replies a filter of this name has filtered."""

    @abstractmethod
    def aggregate(self, metric: str, values: list[Any], directory: Path | None) -> Any:
        """One value of a metric over all documents; None: it is not aggregated."""

    @abstractmethod
    def standard_error(self, metric: str, values: list[Any]) -> Any:
        """Of the aggregate; None: it has none."""

    def value(self, result: Any) -> Any:
        """The number of a document's result, where it has one."""
        return result

    def extracted(self, instances: Sequence[Any]) -> str:
        """What the first filter made of the answer."""
        name = next(iter(instances[0].filtered_resps))
        replies = [instance.filtered_resps[name] for instance in instances]
        return str(replies[0] if len(replies) == 1 else replies)

    # --- verdicts ---

    def judged(self, records: Sequence[Record]) -> list[Record]:
        """The records of one row's answers with the harness's verdict on them, which is on all of them together."""
        instances = self.answered(int(records[0].sample_id), [record.response for record in records])
        try:
            results = self.filtered_results(instances)
        except Exception as error:  # functions of tasks fail in many ways
            raise UserError(
                f"Benchmark {self.name} broke down on the answer to document {records[0].sample_id} "
                f"({type(error).__name__}: {first_line(error)[:200]}); mend the task and run the same command again, "
                "which takes the answers over."
            ) from error
        values = {",".join(name): self.value(result) for name, result in results.items()}
        numbers = {name: float(value) for name, value in values.items() if is_number(value)}
        name, first = next(iter(values.items()), ("score", None))
        score = float(first) if is_number(first) else 0.0  # type: ignore[arg-type]
        correct = bool(score) if is_number(first) and score in (0.0, 1.0) else None
        return [
            replace(
                record,
                correct=correct,
                score=score,
                extracted=self.extracted(instances),
                reason="ok" if correct or correct is None else "wrong",
                grader=self.harness,
                grader_version=version(self.package),
                also=numbers,
                options={**record.options, "score": name},
            )
            for record in records
        ]

    def try_results(self, instances: Sequence[Any]) -> None:
        """Judge an empty answer, before a model is loaded: what that needs may have to be downloaded.

        Raises:
            UserError: if that fails.
        """
        try:
            self.filtered_results(instances)
        except Exception as error:
            raise UserError(
                f"Benchmark {self.name} cannot score an empty answer ({type(error).__name__}: "
                f"{first_line(error)[:200]}); install or download what it names, or mend the task."
            ) from error

    def filtered_results(self, instances: Sequence[Any]) -> dict[tuple[str, str], Any]:
        """(metric, filter) -> value of one document, whose requests have replies. Filters are applied here."""
        self.filter(instances)
        return self._results(instances)

    def _results(self, instances: Sequence[Any]) -> dict[tuple[str, str], Any]:
        return {
            (metric, name): value
            for name in instances[0].filtered_resps
            for metric, value in self.results(instances, name).items()
        }

    # --- scores ---

    def scores(self, answers: Mapping[tuple[str, int], str], directory: Path | None = None) -> TaskScores:
        """The harness's aggregates.

        Args:
            answers: (row, number of the answer) -> answer, of all ranks.
            directory: where tasks put what their authors' servers score.
        """
        if not answers:
            return TaskScores({}, {}, 0)
        by_document: dict[int, list[str]] = {}
        for (row, _), answer in sorted(answers.items(), key=lambda item: (int(item[0][0]), item[0][1])):
            by_document.setdefault(int(row), []).append(answer)
        documents = [self.answered(number, replies) for number, replies in by_document.items()]
        self.filter([instance for document in documents for instance in document])  # over all at once, as they do
        columns: dict[tuple[str, str], list[Any]] = {}
        for document in documents:
            for name, value in self._results(document).items():
                columns.setdefault(name, []).append(value)
        values: dict[str, float] = {}
        errors: dict[str, float] = {}
        for (metric, filter_name), column in columns.items():
            name = f"{metric},{filter_name}"
            try:
                value = self.aggregate(metric, column, directory)
            except Exception as failure:  # functions of tasks fail in many ways
                log.warning(
                    "%s: %s cannot aggregate %s (%s).", self.task.task_name, self.harness, metric, first_line(failure)
                )
                continue
            if is_number(value):
                values[name] = float(value)
                error: Any = self.standard_error(metric, column) if len(column) > 1 else None
                if is_number(error):
                    errors[name] = float(error)
            elif value is not None:
                log.info("%s: %s is no number, and in no chart: %s", self.name, name, value)
        return TaskScores(values, errors, max((len(column) for column in columns.values()), default=0))


def is_number(value: Any) -> bool:
    """Whether it is one number, of Python's or numpy's kinds."""
    if isinstance(value, str | bytes | tuple | list | dict) or value is None:
        return False
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True
