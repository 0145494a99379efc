"""From a name to benchmarks, one for each task of lm-eval behind it."""

from collections.abc import Iterator
from dataclasses import asdict, replace
from importlib.metadata import version
from typing import Any

from lit_uniopd.benchmarks.harness.args import PREFIX, HarnessArgs
from lit_uniopd.benchmarks.harness.tasks import check_name, load_tasks, quiet
from lit_uniopd.benchmarks.profiles import PROFILES
from lit_uniopd.benchmarks.records import content_hash
from lit_uniopd.benchmarks.spec import (
    Benchmark,
    BenchmarkSpec,
    Example,
    Generation,
    HubData,
    ProfileName,
    Report,
    Scoring,
)
from lit_uniopd.errors import UserError

DOMAIN = "lm_eval"
ADAPTER = "lm_eval"


def is_harness(spec: BenchmarkSpec) -> bool:
    """Whether a spec stands for a name of lm-eval's, whose tasks are found when its rows are loaded."""
    return spec.adapter == ADAPTER


def harness_spec(name: str, args: HarnessArgs) -> BenchmarkSpec:
    """The spec of a name, until its rows are loaded.

    Args:
        name: with the prefix.
        args: how tasks are asked.

    Raises:
        UserError: if lm-eval is missing, or does not know the name.
    """
    check_name(name.removeprefix(PREFIX), args)
    return _spec(name, ADAPTER, name, {"args": args})


def load_harness(spec: BenchmarkSpec, profile: ProfileName, limit: int | None = None) -> list[Benchmark]:
    """A benchmark for each task behind a name, with its documents.

    Args:
        spec: of the name.
        profile: how much of each; the first documents, as lm-eval's `--limit`.
        limit: at most so many documents of each.

    Raises:
        UserError: if a task cannot be had, or asks for what is not done here.
    """
    if profile == "fixture":
        raise UserError(f"Benchmark {spec.id} has no bundled rows; choose another --data.profile than fixture.")
    args: HarnessArgs = spec.adapter_args["args"]
    loaded = load_tasks(spec.id.removeprefix(PREFIX), args)
    groups = tuple(loaded.groups.values())
    return [_benchmark(task, args, groups, profile, limit) for task in loaded.tasks.values()]


def _benchmark(
    task: Any, args: HarnessArgs, groups: tuple[Any, ...], profile: ProfileName, limit: int | None
) -> Benchmark:
    from lit_uniopd.benchmarks.harness.language_model import decoding
    from lit_uniopd.benchmarks.harness.task import HarnessTask

    name = f"{PREFIX}{task.task_name}"
    chosen = PROFILES[profile]
    total = len(task.eval_docs)
    count = total if chosen.rows is None or total <= chosen.whole_below else chosen.rows
    count = min(count, limit or count)
    kwargs = task.get_config("generation_kwargs") or {}
    generates = task.OUTPUT_TYPE == "generate_until"
    setting = decoding(kwargs, task.task_name) if generates else {"until": [], "max_gen_toks": 1, "temperature": 0.0}
    repeats = task.get_config("repeats") or 1
    generation = Generation(
        n=repeats,
        max_new_tokens=setting["max_gen_toks"],
        temperature=setting["temperature"],
        top_p=setting.get("top_p", 1.0),
        top_k=setting.get("top_k", 0),
        stop=tuple(setting["until"]),
    )
    settings = {
        "lm_eval": version("lm_eval"),
        "task_version": str(task.VERSION),
        "output_type": task.OUTPUT_TYPE,
        "generation_kwargs": kwargs if generates else {},
        **asdict(args),
        "num_fewshot": task.get_config("num_fewshot") or 0,
    }
    limited = replace(chosen.limit(generation), n=repeats)  # filters may need all of them
    most_tokens = limited.max_new_tokens if generates else chosen.tokens or 2**31
    spec = _spec(name, str(task.VERSION), task.task_name, {}, settings, generation)
    examples = list(_examples(task, count))
    harness = HarnessTask(task, args, count, most_tokens, groups)
    harness.try_scoring(task.eval_docs[0], repeats)
    return Benchmark(
        spec=spec,
        profile=profile,
        generation=limited,
        examples=examples,
        fingerprint=content_hash(settings, [(e.id, list(e.messages), e.gold) for e in examples]),
        harness=harness,
    )


def _spec(
    name: str,
    protocol: str,
    title: str,
    adapter_args: dict[str, Any],
    settings: dict[str, Any] | None = None,
    generation: Generation = Generation(),  # noqa: B008  # frozen
) -> BenchmarkSpec:
    return BenchmarkSpec(
        id=name,
        protocol=protocol,
        version=1,
        title=title,
        domain=DOMAIN,
        modality="text",
        hub=HubData(id=name),
        scoring=Scoring(grader=None, options=settings or {}),
        report=Report(metrics=(), weight=0.0),  # lm-eval's groups say what is averaged
        adapter=ADAPTER if settings is None else "columns",
        adapter_args=adapter_args,
        generation=generation,
        source=f"lm-eval {version('lm_eval')}",
    )


def _examples(task: Any, count: int) -> Iterator[Example]:
    """Documents as rows, for tables: what a model reads are the requests."""
    with quiet():
        documents = list(task.doc_iterator(limit=count))
    for number, document in documents:
        question = task.doc_to_text(document)
        yield Example(
            id=str(number),
            messages=({"role": "user", "content": question if isinstance(question, str) else str(document)},),
            gold=_plain(task.doc_to_target(document)),
        )


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
