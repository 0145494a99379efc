"""Finding and loading lm-eval's tasks, before any model is loaded."""

import importlib
import logging
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

from lit_uniopd.benchmarks.harness.args import PREFIX, HarnessArgs
from lit_uniopd.errors import UserError, first_line
from lit_uniopd.utils.near_names import did_you_mean

NEEDS_CODE = ("code_eval",)
"""Metrics that run what a model has written."""


@dataclass(frozen=True, slots=True)
class LoadedTasks:
    """What a name stands for."""

    tasks: Mapping[str, Any]
    """Name -> `lm_eval.api.task.Task`."""
    groups: Mapping[str, Any]
    """Name -> `lm_eval.api.group.Group`."""


def require_lm_eval() -> None:
    """Check that lm-eval and what its tasks need are installed.

    Raises:
        UserError: naming the extra.
    """
    for module in ("lm_eval.tasks", "lm_eval.models.huggingface"):
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise UserError(
                f"`benchmarks` names a task of lm-eval, which is not installed with all that it needs "
                f"({first_line(error)}); install that by `pip install 'lit-uniopd[harness]'`."
            ) from error


def check_name(name: str, args: HarnessArgs) -> None:
    """Check that there is a task, group, tag or file of this name, and that it runs no code of the model.

    Args:
        name: without the prefix.
        args: say where further tasks are.

    Raises:
        UserError: if not.
    """
    require_lm_eval()
    check_include_path(args)
    manager = _manager_for(name, args.include_path)
    for task, config in _members(name, manager):
        metrics = [metric.get("metric") for metric in config.get("metric_list") or () if isinstance(metric, Mapping)]
        if config.get("unsafe_code") or any(code in str(metrics) for code in NEEDS_CODE):
            raise UserError(
                f"Benchmark {PREFIX}{task} runs programs that the model has written, outside of our sandbox; take "
                "humaneval_plus, mbpp_plus or livecodebench, which run them inside, or leave it out."
            )


def check_include_path(args: HarnessArgs) -> None:
    """Check that the folder of further tasks is one.

    Raises:
        UserError: if not.
    """
    if args.include_path is not None and not Path(args.include_path).expanduser().is_dir():
        raise UserError(
            f"--data.harness.include_path {args.include_path} is no folder; give the folder of your task files."
        )


def load_tasks(name: str, args: HarnessArgs) -> LoadedTasks:
    """Build the tasks that a name stands for, with their rows.

    Raises:
        UserError: if one cannot be had, or asks for what is not done here.
    """
    check_name(name, args)
    manager = _manager_for(name, args.include_path)
    try:
        with quiet(), seeded():
            loaded = manager.load([_spec(name)])
    except Exception as error:  # the hub, the network, functions of tasks and the builders fail in many ways
        raise UserError(
            f"Benchmark {PREFIX}{name} cannot be loaded ({type(error).__name__}: {first_line(error)[:200]}); check the "
            "network, HF_HOME for a copy of its data set, or the task's file."
        ) from error
    for task_name, task in loaded["tasks"].items():
        if getattr(task, "MULTIMODAL", False):
            raise UserError(
                f"Benchmark {PREFIX}{task_name} has pictures or sound, which are not asked for through lm-eval here; "
                "take lmms-eval's task (`lmms_eval:NAME`), or leave it out."
            )
        if getattr(task, "UNSAFE_CODE", False):
            raise UserError(f"Benchmark {PREFIX}{task_name} runs programs that the model has written; leave it out.")
        configure(task, args)
    return LoadedTasks(loaded["tasks"], loaded.get("groups") or {})


def configure(task: Any, args: HarnessArgs) -> None:
    """Number of examples, by the harnesses' own rule: a task that says 0 keeps it."""
    if args.num_fewshot is not None and task.get_config("num_fewshot") != 0:
        task.set_config(key="num_fewshot", value=args.num_fewshot)
    elif task.get_config("num_fewshot") is None:
        task.set_config(key="num_fewshot", value=0)


@contextmanager
def seeded() -> Iterator[None]:
    """lm-eval's default seeds, by which tasks shuffle their choices; the states before come back after it."""
    import numpy as np  # here: `uniopd benchmarks`, which lists, takes no seconds
    import torch
    from lightning.pytorch.utilities.seed import isolate_rng

    with isolate_rng():
        random.seed(0)
        np.random.seed(1234)
        torch.manual_seed(1234)
        yield


@contextmanager
def quiet() -> Iterator[None]:
    """Neither bars nor lines of lm-eval, whose warnings are about what it thinks of its own tasks."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stderr(StringIO()), redirect_stdout(StringIO()):
            yield
    finally:
        logger.setLevel(level)


def _is_file(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def _spec(name: str) -> str:
    """A name, or the whole path of a file."""
    return str(Path(name).expanduser().resolve()) if _is_file(name) else name


@cache
def _manager(include_path: str | None, defaults: bool) -> Any:
    from lm_eval.tasks import TaskManager

    folder = None if include_path is None else str(Path(include_path).expanduser())
    with quiet():
        return TaskManager(include_path=folder, include_defaults=defaults)


def _manager_for(name: str, include_path: str | None) -> Any:
    """A manager that knows the name and its members; reading the files of all of lm-eval's tasks takes seconds.

    Raises:
        UserError: if none does.
    """
    user_tasks = _manager(include_path, False)
    if _knows(user_tasks, name):
        return user_tasks
    manager = _manager(include_path, True)
    if _entry(manager, name) is None:
        hint = did_you_mean(name, manager.all_tasks, prefix=PREFIX)
        raise UserError(
            f"`benchmarks` names {PREFIX + name!r}, which lm-eval does not know{hint}; choose one of `lm-eval ls "
            "tasks`, or give the path of a .yaml file, or its folder by --data.harness.include_path."
        )
    return manager


def _knows(manager: Any, name: str) -> bool:
    return _entry(manager, name) is not None and all(config is not None for _, config in _walk(name, manager))


def _entry(manager: Any, name: str) -> Any:
    """lm-eval's entry of a name or file; None: there is none.

    Raises:
        UserError: if the file is none of a task.
    """
    from lm_eval.tasks._index import TaskIndex

    if not _is_file(name):
        return manager.task_index.get(name)
    try:
        return TaskIndex.entry_from_path(Path(name))
    except Exception as error:  # YAML's own errors, includes that are not there, keys that are missing
        raise UserError(
            f"Benchmark {PREFIX}{name} is not the file of a task of lm-eval ({first_line(error)[:200]}); mend it."
        ) from error


def _members(name: str, manager: Any) -> list[tuple[str, Mapping[str, Any]]]:
    """Names and configs of the tasks behind a name, as far as they are files."""
    return [(member, config) for member, config in _walk(name, manager) if config is not None]


def _walk(name: str, manager: Any) -> Iterator[tuple[str, Mapping[str, Any] | None]]:
    """Tasks behind a name with their configs; None where a group names what is not known."""
    from lm_eval.tasks._yaml_loader import load_yaml

    entry = _entry(manager, name)
    if entry is None:
        yield name, None
        return
    config = entry.cfg if entry.cfg is not None else {}
    if not config and entry.yaml_path is not None:
        config = load_yaml(entry.yaml_path, resolve_func=False)
    yield name, config
    members = [*entry.tags] if config == {} else config.get("task")
    for member in members if isinstance(members, list) else ():
        if isinstance(member, str):
            yield from _walk(member, manager)
        elif isinstance(member.get("task"), str) and _entry(manager, member["task"]) is not None:
            yield member["task"], member
            yield from _walk(member["task"], manager)
        else:  # defined where it is named
            yield str(member.get("task") or member.get("group")), member
            for inner in member["task"] if isinstance(member.get("task"), list) else ():
                yield from _walk(inner, manager) if isinstance(inner, str) else [(str(inner.get("task")), inner)]
