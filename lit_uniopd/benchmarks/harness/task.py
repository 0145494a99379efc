"""One task of lm-eval behind a benchmark: its documents as rows, its requests, its verdicts and scores."""

import heapq
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

from lit_uniopd.benchmarks.fingerprint import noise_key
from lit_uniopd.benchmarks.harness.args import PREFIX, HarnessArgs
from lit_uniopd.benchmarks.harness.scored_task import DRAWS, ScoredTask
from lit_uniopd.benchmarks.harness.tasks import quiet, seeded
from lit_uniopd.benchmarks.records import content_hash
from lit_uniopd.benchmarks.spec import Benchmark, Example
from lit_uniopd.errors import UserError, first_line
from lit_uniopd.policy.args import PolicyArgs
from lit_uniopd.policy.backbone import unwrap
from lit_uniopd.policy.policy import Policy
from lit_uniopd.sampling.args import SamplingArgs

log = logging.getLogger(__name__)


@dataclass(eq=False)
class HarnessTask(ScoredTask):
    """A task of lm-eval with its requests.

    Requests are built for all documents in lm-eval's order, on each rank: examples are drawn from a running state.
    """

    prefix: ClassVar[str] = PREFIX
    harness: ClassVar[str] = "lm-eval"
    package: ClassVar[str] = "lm_eval"
    renders: ClassVar[bool] = True

    task: Any
    """`lm_eval.api.task.Task`."""
    args: HarnessArgs
    documents: int
    """So many of its documents, from the first, as lm-eval's `--limit`."""
    most_tokens: int
    """Of an answer, as the profile limits it."""
    groups: tuple[Any, ...] = ()
    """`lm_eval.api.group.Group` of the names that brought it."""
    _models: "WeakKeyDictionary[Policy, Any]" = field(default_factory=WeakKeyDictionary)
    _built: dict[str, dict[int, list[Any]]] = field(default_factory=dict)
    _checked: set[tuple[str, int]] = field(default_factory=set)

    # --- requests ---

    def model(self, policy: Policy) -> Any:
        """lm-eval's view of a policy."""
        if policy not in self._models:
            self._models[policy] = self.tokenizing(
                policy.processor, unwrap(policy.model).config, policy.args.chat_template_kwargs
            )
            penalty = getattr(unwrap(policy.model).generation_config, "repetition_penalty", None)
            if penalty not in (None, 1.0):
                log.warning(
                    "The model's generation config has repetition_penalty %s, which lm-eval's own model obeys and our "
                    "engines do not: texts may differ from its.",
                    penalty,
                )
        return self._models[policy]

    def tokenizing(self, processor: Any, config: Any, chat_template_kwargs: dict[str, Any]) -> Any:
        """lm-eval's view of a tokenizer.

        Raises:
            UserError: if it has no chat template, which was asked for.
        """
        from lit_uniopd.benchmarks.harness.language_model import HarnessModel

        model = HarnessModel(processor, config, chat_template_kwargs, self.task.task_name)
        if self.args.apply_chat_template and model.tokenizer.chat_template is None:
            raise UserError(
                "--data.harness.apply_chat_template is set, and the tokenizer has no chat template; set it to false, "
                "or take a chat model."
            )
        return model

    def requests(self, model: Any) -> dict[int, list[Any]]:
        """Number of a document -> its requests, in the words that a model reads."""
        template = [model.tokenizer.chat_template, model.chat_template_args, model.tokenizer.special_tokens_map]
        key = content_hash(template) if self.args.apply_chat_template else ""
        if key not in self._built:
            self._built[key] = self._build(model)
        if (key, model.max_length) not in self._checked:
            self._check(model, (request for group in self._built[key].values() for request in group))
            self._checked.add((key, model.max_length))
        return self._built[key]

    def _build(self, model: Any) -> dict[int, list[Any]]:
        templated = self.args.apply_chat_template
        self.task.set_fewshot_seed(seed=self.args.fewshot_random_seed)
        try:
            with quiet(), seeded():
                self.task.build_all_requests(
                    limit=self.documents,
                    system_instruction=self.args.system_instruction,
                    apply_chat_template=templated,
                    fewshot_as_multiturn=self.args.fewshot_as_multiturn and templated,
                    chat_template=model.apply_chat_template if templated else None,
                    tokenizer_name="",
                )
        except UserError:
            raise
        except Exception as error:  # templates and functions of tasks fail in many ways
            raise UserError(
                f"Benchmark {PREFIX}{self.task.task_name}: its prompts cannot be built ({type(error).__name__}: "
                f"{first_line(error)[:200]}); mend the task, or its columns."
            ) from error
        built: dict[int, list[Any]] = {}
        for instance in self.task.instances:
            built.setdefault(instance.doc_id, []).append(instance)
        for instances in built.values():
            instances.sort(key=lambda instance: instance.idx)
        return built

    def _any_requests(self) -> dict[int, list[Any]]:
        """Requests in the words of any model: documents and their order are the same in all."""
        return next(iter(self._built.values()))

    def requests_hash(self, policy: Policy, example: Example) -> str:
        """Of everything that a row asks."""
        requests = self.requests(self.model(policy))[int(example.id)]
        return content_hash([(request.request_type, list(request.args)) for request in requests])

    def longest(self, processor: Any, config: Any, args: PolicyArgs) -> int:
        """Tokens of the longest context, as far as those of most characters tell, and no more than the model has."""
        model = self.tokenizing(processor, config, args.chat_template_kwargs)
        requests = [request for group in self.requests(model).values() for request in group]
        longest = heapq.nlargest(4, requests, key=lambda request: len(str(request.args[0])))
        return min(model.max_length, max(len(model.tok_encode("".join(map(str, r.args[:1])))) for r in longest))

    def _check(self, model: Any, requests: Iterable[Any]) -> None:
        """Count what is cut, before anything is answered.

        Raises:
            UserError: if a request scores nothing, or its answer leaves no room for a context.
        """
        sizes = [model.measure(r, self.most_tokens) for r in requests if r.request_type != "loglikelihood_rolling"]
        if too_long := sum(size > model.max_length for size in sizes):
            log.warning(
                "lm_eval:%s: %d of %d requests do not fit in the %d positions of the model and are cut on the left, as "
                "lm-eval does.",
                self.task.task_name,
                too_long,
                len(sizes),
                model.max_length,
            )

    # --- answers ---

    def answer(
        self,
        policy: Policy,
        benchmark: Benchmark,
        examples: Sequence[Example],
        sampling: SamplingArgs,
        *,
        rows: int,
        seed: int,
    ) -> list[tuple[str, int, str]]:
        """Answers with their tokens and ends, ``n`` to each row, side by side.

        An answer is the text where a row asks for one text, else a JSON list with what each of its requests got: a
        text, a log-prob, or a log-prob and whether the continuation is what greedy decoding writes.

        Args:
            policy: answers.
            benchmark: of this task.
            examples: rows of it.
            sampling: whose engine writes.
            rows: texts of a batch whose log-probs are computed together.
            seed: of the sampling noise.
        """
        model, n = self.model(policy), benchmark.generation.n
        model.rows = rows
        model.policy = policy  # for this batch: held for longer, it would never be freed
        requests = self.requests(model)
        asked_rows = [
            [(example, k, request) for request in requests[int(example.id)]] for example in examples for k in range(n)
        ]
        flat = [entry for row in asked_rows for entry in row]
        replies: dict[int, Any] = {}
        for kind in {request.request_type for *_, request in flat}:
            chosen = [i for i, (*_, request) in enumerate(flat) if request.request_type == kind]
            of_kind = [flat[i][2] for i in chosen]
            # Whose bars cannot be switched off.
            with quiet() if kind == "loglikelihood_rolling" else nullcontext():
                if kind == "generate_until":
                    keys = [noise_key(benchmark.spec.id, f"{flat[i][0].id}/{flat[i][1]}") for i in chosen]
                    replies_of_kind = model.write(of_kind, sampling, keys, seed=seed, most_tokens=self.most_tokens)
                else:
                    replies_of_kind = getattr(model, kind)(of_kind)
            replies |= dict(zip(chosen, replies_of_kind, strict=True))
        model.policy = None
        ordered = iter(replies[i] for i in range(len(flat)))
        return [_as_answer([next(ordered) for _ in row]) for row in asked_rows]

    # --- verdicts and scores ---

    def answered(self, document: int, answers: Sequence[str]) -> list[Any]:
        """See ``ScoredTask``."""
        return _answered(self._any_requests()[document], answers)

    def filter(self, instances: Sequence[Any]) -> None:
        """See ``ScoredTask``."""
        for ensemble in self.task._filters:
            ensemble.apply(instances)

    def results(self, instances: Sequence[Any], name: str) -> Mapping[str, Any]:
        """See ``ScoredTask``."""
        with quiet():
            return self.task.process_results(
                instances[0].doc, [instance.filtered_resps[name] for instance in instances]
            )

    def extracted(self, instances: Sequence[Any]) -> str:
        """What the first filter made of the answer; of choices the most probable one."""
        if self.task.OUTPUT_TYPE != "multiple_choice":
            return super().extracted(instances)
        name = next(iter(instances[0].filtered_resps))
        choices = self.task.doc_to_choice(instances[0].doc)
        logps = [instance.filtered_resps[name][0] for instance in instances[: len(choices)]]
        return str(choices[logps.index(max(logps))])

    def aggregate(self, metric: str, values: list[Any], directory: Path | None) -> Any:
        """See ``ScoredTask``."""
        return self._aggregation(metric)(values)

    def standard_error(self, metric: str, values: list[Any]) -> Any:
        """See ``ScoredTask``."""
        from lm_eval.api.metrics import stderr_for_metric

        error = stderr_for_metric(metric=self._aggregation(metric), bootstrap_iters=DRAWS)
        if error is None:
            return None
        with quiet(), _in_this_process():
            return error(values)

    def _aggregation(self, metric: str) -> Any:
        from lm_eval.api.metrics import mean

        return self.task.aggregation().get(metric, mean)

    def try_scoring(self, document: Any, repeats: int) -> None:
        """Score an empty text, before a model is loaded: what scoring needs may have to be downloaded.

        Raises:
            UserError: if that fails.
        """
        from lm_eval.api.instance import Instance

        if self.task.OUTPUT_TYPE != "generate_until":
            return
        instance = Instance("generate_until", document, ("", {}), 0, (self.task.task_name, 0, repeats))
        self.try_results(_answered([instance], [""] * repeats))


@contextmanager
def _in_this_process() -> Iterator[None]:
    """lm-eval's bootstrap without its pool of forks, which may hang in a process that has threads."""
    before = os.environ.get("DISABLE_MULTIPROC")
    os.environ["DISABLE_MULTIPROC"] = "1"
    try:
        yield
    finally:
        os.environ.pop("DISABLE_MULTIPROC")
        if before is not None:
            os.environ["DISABLE_MULTIPROC"] = before


def _answered(instances: Sequence[Any], answers: Sequence[str]) -> list[Any]:
    """Copies of a document's requests with the replies of its answers."""
    replies = [_as_replies(instances, answer) for answer in answers]
    answered = []
    for i, instance in enumerate(instances):
        answered.append(copy(instance))
        answered[-1].resps = [each[i] for each in replies]
        answered[-1].filtered_resps = {}
    return answered


def _as_answer(replies: Sequence[Any]) -> tuple[str, int, str]:
    texts: list[Any] = [reply if isinstance(reply, int | float | tuple) else reply.text for reply in replies]
    written = [reply for reply in replies if not isinstance(reply, int | float | tuple)]
    plain = len(texts) == 1 and bool(written)
    finish = "length" if any(reply.finish == "length" for reply in written) else "stop"
    return texts[0] if plain else json.dumps(texts), sum(reply.tokens for reply in written), finish


def _as_replies(instances: Sequence[Any], answer: str) -> list[Any]:
    if len(instances) == 1 and instances[0].request_type == "generate_until":
        return [answer]
    return [tuple(reply) if isinstance(reply, list) else reply for reply in json.loads(answer)]
