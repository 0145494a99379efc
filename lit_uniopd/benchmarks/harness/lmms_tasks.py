"""Finding and loading lmms-eval's tasks, before any model is loaded."""

import inspect
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from lit_uniopd.benchmarks.harness.args import LMMS_PREFIX, HarnessArgs
from lit_uniopd.benchmarks.harness.lmms_task import LmmsGroup, LmmsTask, lmms_eval
from lit_uniopd.benchmarks.harness.tasks import check_include_path, configure, quiet, seeded
from lit_uniopd.errors import UserError, first_line
from lit_uniopd.utils.near_names import did_you_mean

log = logging.getLogger(__name__)

JUDGED = re.compile(r"OPENAI_API_KEY|AZURE_API_KEY|JUDGE_API_KEY|llm_judge|OpenAIVerifier")
"""What a task's code names if a model on the web judges its answers."""
KEYS = ("OPENAI_API_KEY", "AZURE_API_KEY", "JUDGE_API_KEY")
"""Where such code finds its key, in the environment."""


def check_lmms_name(name: str, args: HarnessArgs) -> None:
    """Check that there is a task, group or tag of this name.

    Args:
        name: without the prefix.
        args: say where further tasks are.

    Raises:
        UserError: if not.
    """
    check_include_path(args)
    _manager_for(name, args)


def load_lmms_tasks(name: str, args: HarnessArgs) -> list[LmmsTask]:
    """Build the tasks that a name stands for, with their rows.

    Raises:
        UserError: if one cannot be had, or asks for what is not done here.
    """
    manager = _manager_for(name, args)
    try:
        with silent(), seeded():
            tree = manager.load_task_or_group([name], task_type="chat")
            outputs = lmms_eval("evaluator_utils").get_task_list(tree)
    except Exception as error:  # the hub, the network, functions of tasks and the builders fail in many ways
        cause = _cause(error)
        raise UserError(
            f"Benchmark {LMMS_PREFIX}{name} cannot be loaded ({type(cause).__name__}: {first_line(cause)[:200]}); "
            "install what it names, check the network, HF_HOME for a copy of its data set, or the task's file."
        ) from error
    groups = tuple(_groups(tree))
    tasks = [LmmsTask(output.task, groups, args.system_instruction) for output in outputs]
    for task in tasks:
        _check(task)
        configure(task.task, args)
        task.task.set_fewshot_seed(args.fewshot_random_seed)
        if args.num_fewshot and task.task.get_config("doc_to_visual") is not None:
            log.warning("%s: lmms-eval asks tasks with pictures without examples; num_fewshot is left out.", task.name)
        if task.task.get_config("auto_strip_thinking") and task.task.get_config("reasoning_tags") is None:
            for ensemble in task.task._filters:
                ensemble.filters.insert(0, lmms_eval("filters.transformation").StripThinkingFilter())
    return tasks


def is_judged(task: LmmsTask) -> bool:
    """Whether the code that scores names a judge on the web: its files, and those that they import names from."""
    functions = [task.task.get_config("process_results"), *task.task.aggregation().values()]
    scoring = [inspect.unwrap(function) for function in functions if inspect.isfunction(function)]
    imported = [value for function in scoring for value in function.__globals__.values() if _has_file(value)]
    files = {inspect.getsourcefile(part) for part in (*scoring, *imported)}
    tasks = Path(lmms_eval("tasks").__file__ or "").parent
    return any(
        JUDGED.search(Path(file).read_text(encoding="utf-8"))
        for file in files
        if file is not None and (tasks in Path(file).parents or "lmms_eval" not in Path(file).parts)
    )


def _has_file(value: Any) -> bool:
    """Whether it is a part of lmms-eval's own code."""
    module = value.__name__ if inspect.ismodule(value) else getattr(value, "__module__", None)
    of_lmms = str(module).startswith("lmms_eval.tasks")
    return of_lmms and (inspect.ismodule(value) or inspect.isfunction(value) or inspect.isclass(value))


def _check(task: LmmsTask) -> None:
    kind = task.task.OUTPUT_TYPE if hasattr(task.task, "doc_to_messages") else "a class of its own"
    if kind != "generate_until":
        raise UserError(
            f"Benchmark {task.name} is {kind}, which lmms-eval's chat models do not answer either; take a task that "
            "writes one answer (`output_type: generate_until`)."
        )
    if is_judged(task) and not any(os.environ.get(key) for key in KEYS):
        raise UserError(
            f"Benchmark {task.name} has code that asks a judge on the web, and without a key scores 0; set "
            f"{', '.join(KEYS[:-1])} or {KEYS[-1]} (to any word, if you know that the judge is not asked), or leave it "
            "out."
        )


def _groups(tree: Mapping[Any, Any]) -> Iterator[LmmsGroup]:
    """All groups of lmms-eval's tree, those in groups included."""
    for group, members in tree.items():
        if isinstance(members, dict):
            yield LmmsGroup(group, members)
            yield from _groups(members)


def _cause(error: BaseException) -> BaseException:
    """What was raised at the last of several tries."""
    while (attempt := getattr(error, "last_attempt", None)) is not None and attempt.failed:
        error = attempt.exception()
    return error


@contextmanager
def silent() -> Iterator[None]:
    """Neither bars nor lines of lmms-eval, which has a logger of another kind than Python's."""
    from loguru import logger  # type: ignore[import-not-found]  # of lmms-eval

    logger.disable("")
    try:
        with quiet():
            yield
    finally:
        logger.enable("")


@cache
def _manager(include_path: str | None, model_name: str | None, defaults: bool) -> Any:
    task_manager = lmms_eval("tasks").TaskManager
    folder = None if include_path is None else str(Path(include_path).expanduser())
    with silent():
        return task_manager(include_path=folder, include_defaults=defaults, model_name=model_name)


def _manager_for(name: str, args: HarnessArgs) -> Any:
    """A manager that knows the name; reading the files of all of lmms-eval's tasks takes seconds.

    Raises:
        UserError: if none does.
    """
    manager = _manager(args.include_path, args.model_name, False)
    if name in manager.task_index:
        return manager
    manager = _manager(args.include_path, args.model_name, True)
    if name not in manager.task_index:
        hint = did_you_mean(name, manager.all_tasks, prefix=LMMS_PREFIX)
        raise UserError(
            f"`benchmarks` names {LMMS_PREFIX + name!r}, which lmms-eval does not know{hint}; choose one of `lmms-eval "
            "--tasks list`, or give the folder of your task files by --data.harness.include_path."
        )
    return manager
