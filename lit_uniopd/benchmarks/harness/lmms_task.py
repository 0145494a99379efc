"""One task of lmms-eval behind a benchmark: its documents as chats with pictures, its verdicts and scores."""

import importlib
import inspect
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

from lit_uniopd.benchmarks.harness.args import LMMS_PREFIX
from lit_uniopd.benchmarks.harness.scored_task import ScoredTask, is_number
from lit_uniopd.errors import UserError, first_line

TRIED = "0.7.3"
"""The version that the tests run."""
NEUTRAL: dict[str, float] = {"num_beams": 1, "repetition_penalty": 1}
"""Of a task's `generation_kwargs` what our engines do not do, and the value that changes nothing."""
LONGEST_ANSWER = 4096
"""Tokens, where a task does not say: of lmms-eval's own Hugging Face chat model."""


def lmms_eval(module: str) -> Any:
    """A module of lmms-eval, which silences all of Python's warnings when it is imported: those come back.

    Raises:
        UserError: if it is not installed.
    """
    try:
        with warnings.catch_warnings():
            return importlib.import_module(f"lmms_eval.{module}")
    except ImportError as error:
        raise UserError(
            f"`benchmarks` names a task of lmms-eval, which is not installed with all that it needs "
            f"({first_line(error)}); install it by `pip install --no-deps lmms-eval=={TRIED}`, and what it needs by "
            "`pip install 'lit-uniopd[harness]'`."
        ) from error


@dataclass(eq=False)
class LmmsTask(ScoredTask):
    """A task of lmms-eval, asked as its chat models ask: `doc_to_messages`, then the chat template."""

    prefix: ClassVar[str] = LMMS_PREFIX
    harness: ClassVar[str] = "lmms-eval"
    package: ClassVar[str] = "lmms_eval"
    renders: ClassVar[bool] = False

    task: Any
    """`lmms_eval.api.task.ConfigurableMessagesTask`."""
    groups: tuple[Any, ...] = ()
    """`LmmsGroup` of the names that brought it."""
    system_instruction: str | None = None
    """System message, in the place of the task's own."""

    def chat(self, number: int) -> tuple[tuple[dict[str, Any], ...], list[Any]]:
        """Messages of a document, and the pictures of their places.

        Raises:
            UserError: if they cannot be built, or have something else than texts and pictures.
        """
        try:
            messages = self.task.doc_to_messages(self.task.eval_docs[number])
            turns = lmms_eval("protocol").ChatMessages(messages=messages).messages
        except Exception as error:  # functions of tasks fail in many ways
            raise UserError(
                f"Benchmark {self.name}: the messages of document {number} cannot be built ({type(error).__name__}: "
                f"{first_line(error)[:200]}); mend the task, or its columns."
            ) from error
        pictures: list[Any] = []
        chat: list[dict[str, Any]] = []
        for turn in turns:
            content: list[dict[str, str]] = []
            for part in turn.content:
                if part.type not in ("text", "image"):
                    raise UserError(
                        f"Benchmark {self.name} has {part.type}, which is not asked here; leave the benchmark out."
                    )
                content.append({"type": "text", "text": part.text} if part.type == "text" else {"type": "image"})
                pictures += [] if part.type == "text" else [part.url]
            chat.append({"role": turn.role, "content": content})
        if self.system_instruction:  # in the place of the task's own, as its chat models do
            system = {"role": "system", "content": [{"type": "text", "text": self.system_instruction}]}
            chat = [system, *chat[chat[0]["role"] == "system" :]]
        return tuple(chat), pictures

    # --- verdicts and scores ---

    def answered(self, document: int, answers: Sequence[str]) -> list[Any]:
        """See ``ScoredTask``."""
        origin = {"task": self.task.task_name, "doc_id": document, "repeats": len(answers)}
        return [lmms_eval("api.instance").Instance("generate_until", (), 0, metadata=origin, resps=list(answers))]

    def filter(self, instances: Sequence[Any]) -> None:
        """See ``ScoredTask``."""
        documents = [self._document(instance) for instance in instances]
        for ensemble in self.task._filters:
            ensemble.apply(instances, documents)

    def results(self, instances: Sequence[Any], name: str) -> Mapping[str, Any]:
        """See ``ScoredTask``."""
        reasoning = lmms_eval("api.reasoning")
        tags = reasoning.parse_reasoning_tags_config(task_value=self.task.get_config("reasoning_tags"))

        def without_reasoning(reply: Any) -> Any:
            if isinstance(reply, list):
                return [without_reasoning(part) for part in reply]
            return reasoning.strip_reasoning_tags(reply, tags) if tags is not None and isinstance(reply, str) else reply

        replies = [without_reasoning(instance.filtered_resps[name]) for instance in instances]
        # Without its five tries, which take eight seconds to tell of a mistake, and hide what it is.
        process_results = inspect.unwrap(type(self.task).process_results)
        return process_results(self.task, self._document(instances[0]), replies)

    def value(self, result: Any) -> Any:
        """The number of a document's result; of several, the one by which lmms-eval tells right from wrong."""
        return result.get(self.task.get_config("score_key")) if isinstance(result, Mapping) else result

    def aggregate(self, metric: str, values: list[Any], directory: Path | None) -> Any:
        """See ``ScoredTask``."""
        function = self.task.aggregation().get(metric)
        if function is None:
            return None
        if "args" not in inspect.signature(function).parameters:
            return function(values)
        folder = (directory or Path()) / self.package
        folder.mkdir(parents=True, exist_ok=True)
        return function(values, args=SimpleNamespace(output_path=str(folder)))

    def standard_error(self, metric: str, values: list[Any]) -> Any:
        """Of means: others lmms-eval draws by processes that it forks, which may hang beside threads."""
        metrics = lmms_eval("api.metrics")
        return metrics.mean_stderr(values) if self.task.aggregation().get(metric) is metrics.mean else None

    def _document(self, instance: Any) -> Any:
        """What is judged by: without its pictures, unless the task's file says that it needs them."""
        return self.task.eval_docs_no_media[instance.doc_id]


@dataclass(frozen=True)
class TaskPicture:
    """A picture of a document, decoded when a model reads it: thousands of those do not fit in memory."""

    task: LmmsTask
    document: int
    place: int

    def __call__(self) -> Any:
        """The picture."""
        return self.task.chat(self.document)[1][self.place]

    def tobytes(self) -> bytes:
        """Its pixels."""
        return self().tobytes()


@dataclass(frozen=True)
class LmmsGroup:
    """A group of lmms-eval's, as lm-eval has them."""

    group: Any
    """`lmms_eval.api.group.ConfigurableGroup`."""
    members: Mapping[Any, Any]
    """Of lmms-eval's tree: groups and tasks by their names."""

    @property
    def name(self) -> str:
        """By lmms-eval."""
        return self.group.group_name

    @property
    def has_aggregation(self) -> bool:
        """Whether it has scores of its own."""
        return self.group.config["aggregate_metric_list"] is not None

    def get_all_tasks(self) -> list[Any]:
        """Its tasks, those of groups in it included."""
        return [output.task for output in lmms_eval("evaluator_utils").get_task_list(self.members)]

    def aggregate(self, table: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
        """Its scores.

        Args:
            table: task -> score -> value, with its `sample_len`.
        """
        results: defaultdict[str, dict[str, Any]] = defaultdict(dict)
        for name, scores in table.items():
            results[name] = {"samples" if key == "sample_len" else key: value for key, value in scores.items()}
        lmms_eval("evaluator_utils").consolidate_group_results(results, defaultdict(dict), {self.group: self.members})
        return results[self.name]


def decoding(generation_kwargs: Mapping[str, Any], task: str) -> dict[str, Any]:
    """A task's decoding settings, as lmms-eval's chat models read them.

    Temperature 0 is greedy, whatever `do_sample` says; `until` ends nothing.

    Args:
        generation_kwargs: as the task's file has them.
        task: its name, for messages.

    Raises:
        UserError: if they ask for what our engines do not do.
    """
    for name, value in NEUTRAL.items():
        given = generation_kwargs.get(name)
        if given is not None and not (is_number(given) and float(given) == value):
            raise UserError(
                f"Benchmark {task}: its generation_kwargs ask for {name} {given}, which our engines do not do; leave "
                "the task out, or set another in a copy of its file, which is then another protocol."
            )
    temperature = float(generation_kwargs.get("temperature") or 0.0)
    sampled = {"top_p": float, "top_k": int} if temperature > 0 else {}
    return {
        "max_new_tokens": int(generation_kwargs.get("max_new_tokens") or LONGEST_ANSWER),
        "temperature": temperature,
        **{name: kind(value) for name, kind in sampled.items() if (value := generation_kwargs.get(name)) is not None},
    }
