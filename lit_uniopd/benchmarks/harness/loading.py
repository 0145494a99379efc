"""From a name to benchmarks, one for each task of lm-eval or lmms-eval behind it."""

from collections.abc import Iterator
from dataclasses import asdict, replace
from importlib.metadata import version
from typing import Any

from lit_uniopd.benchmarks.harness.args import LMMS_PREFIX, PREFIX, HarnessArgs
from lit_uniopd.benchmarks.harness.lmms_task import LmmsTask, TaskPicture, decoding
from lit_uniopd.benchmarks.harness.lmms_tasks import check_lmms_name, is_judged, load_lmms_tasks, silent
from lit_uniopd.benchmarks.harness.scored_task import ScoredTask
from lit_uniopd.benchmarks.harness.tasks import check_name, load_tasks, quiet, seeded
from lit_uniopd.benchmarks.profiles import PROFILES
from lit_uniopd.benchmarks.records import content_hash
from lit_uniopd.benchmarks.spec import (
    Benchmark,
    BenchmarkSpec,
    Example,
    Generation,
    HubData,
    ProfileName,
    PromptFormat,
    Report,
    Scoring,
)
from lit_uniopd.errors import UserError

ADAPTER = "harness"


def is_harness(spec: BenchmarkSpec) -> bool:
    """Whether a spec stands for a name of a harness, whose tasks are found when its rows are loaded."""
    return spec.adapter == ADAPTER


def harness_spec(name: str, args: HarnessArgs) -> BenchmarkSpec:
    """The spec of a name, until its rows are loaded.

    Args:
        name: with the prefix.
        args: how tasks are asked.

    Raises:
        UserError: if the harness is missing, or does not know the name.
    """
    if name.startswith(LMMS_PREFIX):
        check_lmms_name(name.removeprefix(LMMS_PREFIX), args)
    else:
        check_name(name.removeprefix(PREFIX), args)
    return _spec(name, ADAPTER, name, {"args": args})


def load_harness(spec: BenchmarkSpec, profile: ProfileName, limit: int | None = None) -> list[Benchmark]:
    """A benchmark for each task behind a name, with its documents.

    Args:
        spec: of the name.
        profile: how much of each; the first documents, as the harnesses' `--limit`.
        limit: at most so many documents of each.

    Raises:
        UserError: if a task cannot be had, or asks for what is not done here.
    """
    if profile == "fixture":
        raise UserError(f"Benchmark {spec.id} has no bundled rows; choose another --data.profile than fixture.")
    args: HarnessArgs = spec.adapter_args["args"]
    if spec.id.startswith(LMMS_PREFIX):
        tasks = load_lmms_tasks(spec.id.removeprefix(LMMS_PREFIX), args)
        return [_lmms_benchmark(task, args, profile, limit) for task in tasks]
    loaded = load_tasks(spec.id.removeprefix(PREFIX), args)
    groups = tuple(loaded.groups.values())
    return [_benchmark(task, args, groups, profile, limit) for task in loaded.tasks.values()]


def _benchmark(
    task: Any, args: HarnessArgs, groups: tuple[Any, ...], profile: ProfileName, limit: int | None
) -> Benchmark:
    from lit_uniopd.benchmarks.harness.language_model import decoding
    from lit_uniopd.benchmarks.harness.task import HarnessTask

    chosen = PROFILES[profile]
    count = _count(task, profile, limit)
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
        **{name: value for name, value in asdict(args).items() if name != "model_name"},
        "num_fewshot": task.get_config("num_fewshot") or 0,
    }
    limited = replace(chosen.limit(generation), n=repeats)  # filters may need all of them
    most_tokens = limited.max_new_tokens if generates else chosen.tokens or 2**31
    harness = HarnessTask(task, args, count, most_tokens, groups)
    examples = list(_examples(task, count))
    harness.try_scoring(task.eval_docs[0], repeats)
    return _loaded(harness, settings, profile, generation, limited, examples)


def _lmms_benchmark(task: LmmsTask, args: HarnessArgs, profile: ProfileName, limit: int | None) -> Benchmark:
    config = task.task.get_config
    kwargs = config("generation_kwargs") or {}
    generation = Generation(n=config("repeats") or 1, **decoding(kwargs, task.name))
    settings = {
        "lmms_eval": version("lmms_eval"),
        "task_version": str(task.task.VERSION),
        "generation_kwargs": kwargs,
        "include_path": args.include_path,
        "system_instruction": args.system_instruction,
        "num_fewshot": config("num_fewshot") or 0,
        "fewshot_random_seed": args.fewshot_random_seed,
        "model_name": args.model_name,
    }
    limited = replace(PROFILES[profile].limit(generation), n=generation.n)  # filters may need all of them
    if not is_judged(task):
        task.try_results(task.answered(0, [""] * generation.n))
    with silent(), seeded():
        examples = [_lmms_example(task, number) for number in range(_count(task.task, profile, limit))]
    return _loaded(task, settings, profile, generation, limited, examples)


def _lmms_example(task: LmmsTask, number: int) -> Example:
    messages, pictures = task.chat(number)
    return Example(
        id=str(number),
        messages=messages,
        gold=_plain(task.task.doc_to_target(task.task.eval_docs_no_media[number])),
        images=tuple(
            picture if isinstance(picture, str) else TaskPicture(task, number, place)
            for place, picture in enumerate(pictures)
        ),
    )


def _count(task: Any, profile: ProfileName, limit: int | None) -> int:
    """Documents of a profile: the first ones."""
    chosen, total = PROFILES[profile], len(task.eval_docs)
    count = total if chosen.rows is None or total <= chosen.whole_below else chosen.rows
    return min(count, limit or count)


def _loaded(
    harness: ScoredTask,
    settings: dict[str, Any],
    profile: ProfileName,
    generation: Generation,
    limited: Generation,
    examples: list[Example],
) -> Benchmark:
    spec = _spec(harness.name, settings["task_version"], harness.task.task_name, {}, settings, generation)
    return Benchmark(
        spec=replace(spec, modality="image" if any(example.images for example in examples) else "text"),
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
    package = name.partition(":")[0]
    return BenchmarkSpec(
        id=name,
        protocol=protocol,
        version=1,
        title=title,
        domain=package,
        modality="text",
        hub=HubData(id=name),
        prompt=PromptFormat(chat={}),  # as the harnesses ask: the policy's own options alone
        scoring=Scoring(grader=None, options=settings or {}),
        report=Report(metrics=(), weight=0.0),  # the harnesses' groups say what is averaged
        adapter=ADAPTER if settings is None else "columns",
        adapter_args=adapter_args,
        generation=generation,
        source=f"{package.replace('_', '-')} {version(package)}",
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
