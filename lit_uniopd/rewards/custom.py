"""Graders that users write, named by their dotted path: ``my_module.is_right``.

They run in this process, as any module that a user has it import. Neither what models write nor what stands in a table
or a record chooses them: ``load_grader`` takes the names alone that configs and Python code have given. Torch-free, as
the other graders are.
"""

import asyncio
import hashlib
import importlib
import inspect
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeGuard

from lit_uniopd.errors import UserError, first_line
from lit_uniopd.grade import Grade
from lit_uniopd.rewards.grade import failed, unknown
from lit_uniopd.utils.near_names import did_you_mean

RIGHT_FROM = 0.5
"""A number counts as right from here on, as in ANLS and the soft accuracy of VQA."""
TEXT_NAMES = ("text", "response", "prediction", "preds", "solution_str")
GOLD_NAMES = ("gold", "target", "ground_truth")
ROW_NAMES = ("row", "extra_info")
PROMPT_NAMES = ("prompt", "messages")
BATCH_NAMES = ("completions", "completion_ids")
"""A function with one of these arguments has the signature of TRL's ``reward_funcs``: it is given many answers."""


class Item(Protocol):
    """What is known of an answer; see ``GradeItem``."""

    @property
    def gold(self) -> Any: ...
    @property
    def response(self) -> str: ...
    @property
    def row(self) -> Mapping[str, Any] | None: ...
    @property
    def options(self) -> Mapping[str, Any]: ...
    @property
    def messages(self) -> Sequence[Mapping[str, Any]]: ...


@dataclass(frozen=True, slots=True)
class CustomGrader:
    """A function of the user's, and how it is called."""

    name: str
    call: Callable[..., Any]
    parameters: Mapping[str, inspect.Parameter]

    @property
    def batched(self) -> bool:
        """Whether it takes many answers at once."""
        return any(name in self.parameters for name in BATCH_NAMES)

    def grade(self, items: Sequence[Item]) -> list[Grade]:
        """Judge answers; an error is counted under the grader's name and logged in one sentence, and never raised."""
        if self.batched:
            return self._grade_batch(items)
        return [self._grade_one(item) for item in items]

    def _grade_one(self, item: Item) -> Grade:
        try:
            return as_grade(self._called(self._arguments(item)))
        except Exception as error:
            return failed(self.name, type(error).__name__, str(error))

    def _grade_batch(self, items: Sequence[Item]) -> list[Grade]:
        try:
            rewards = self._called(self._batch_arguments(items))
            if isinstance(rewards, str | Mapping) or not isinstance(rewards, Iterable):
                raise TypeError(f"it returned {_shown(rewards)}, where a list of one number for each answer is meant")
            rewards = list(rewards)
            if len(rewards) != len(items):
                raise ValueError(f"it returned {len(rewards)} rewards for {len(items)} answers")
        except Exception as error:
            return [failed(self.name, type(error).__name__, str(error)) for _ in items]
        return [self._reward(reward) for reward in rewards]

    def _reward(self, reward: Any) -> Grade:
        if reward is None:  # TRL: the function does not apply to the row
            return unknown("not_judged")
        try:
            return as_grade(reward)
        except TypeError as error:
            return failed(self.name, "TypeError", str(error))

    def _called(self, arguments: Mapping[str, Any]) -> Any:
        result = self.call(**arguments)
        if _is_metric(metric := self.call):
            metric.reset()  # it would keep every answer
        if not inspect.isawaitable(result):
            return result

        async def awaited() -> Any:
            return await result

        with ThreadPoolExecutor(1) as thread:  # a notebook's own loop runs in this one
            return thread.submit(asyncio.run, awaited()).result()

    def _arguments(self, item: Item) -> dict[str, Any]:
        values = {**(item.row or {}), **item.options}
        values |= dict.fromkeys(TEXT_NAMES, item.response) | dict.fromkeys(GOLD_NAMES, item.gold)
        if item.messages:  # of a recorded answer they are unknown, which is not an empty conversation
            values |= dict.fromkeys(PROMPT_NAMES, tuple(item.messages))
        if item.row is not None:
            values |= dict.fromkeys(ROW_NAMES, item.row)
        return self._taken(values, set(item.options))

    def _batch_arguments(self, items: Sequence[Item]) -> dict[str, Any]:
        names = dict.fromkeys(name for item in items for name in item.row or {} if name not in ("prompt", "completion"))
        values: dict[str, Any] = {name: [(item.row or {}).get(name) for item in items] for name in names}
        values["gold"] = [item.gold for item in items]
        if all(item.row is not None for item in items):
            values["row"] = [item.row for item in items]
        columns = set(values)
        as_messages = self._takes_messages(items)
        if all(item.messages for item in items):
            values["prompts"] = [list(item.messages) if as_messages else _prompt_text(item) for item in items]
        values["completions"] = [
            [{"role": "assistant", "content": item.response}] if as_messages else item.response for item in items
        ]
        options = dict(items[0].options)  # those of a benchmark's YAML, the same for all
        return self._taken(values | options, columns | set(options) | {"prompts", "completions"})

    def _takes_messages(self, items: Sequence[Item]) -> bool:
        """As in TRL: completions are messages where the rows' prompts are, unless the annotation says what it takes."""
        annotation = str(getattr(self.parameters.get("completions"), "annotation", "")).lower()
        if "list[" in annotation:
            return "list[list[" in annotation or "dict" in annotation
        return any(map(_is_conversation, (items[0].row or {}).values()))

    def _taken(self, values: Mapping[str, Any], extra: set[str]) -> dict[str, Any]:
        """What of the values it takes by name; ``extra`` also go into its ``**kwargs``."""
        names = [p for p in self.parameters.values() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
        missing = [p.name for p in names if p.name not in values and p.default is p.empty]
        if missing:
            aliases = {*TEXT_NAMES[1:], *GOLD_NAMES[1:], *ROW_NAMES[1:], *PROMPT_NAMES[1:]}
            there = ", ".join(name for name in values if name not in aliases)
            raise TypeError(f"it takes {missing[0]!r}, which cannot be given to it (there are {there})")
        takes_all = any(p.kind is p.VAR_KEYWORD for p in self.parameters.values())
        taken = {p.name for p in names} | (extra if takes_all else set())
        return {name: value for name, value in values.items() if name in taken}


def as_grade(result: Any) -> Grade:
    """A verdict as a grade: a bool, a number (right from `RIGHT_FROM` on), or a grade as it is.

    Args:
        result: what a grader returned; scalars of numpy and torch are numbers.

    Raises:
        TypeError: saying what was returned instead.
    """
    if isinstance(result, Grade):
        return result
    value = result
    if callable(item := getattr(result, "item", None)):
        try:
            value = item()
        except (TypeError, ValueError, RuntimeError):  # of several elements
            value = result
    if not isinstance(value, bool | int | float) or math.isnan(value):
        raise TypeError(f"it returned {_shown(result)}, where a bool, a number or a Grade is meant")
    right = value if isinstance(value, bool) else value >= RIGHT_FROM
    return Grade(right, float(value), reason="ok" if right else "wrong")


def _is_metric(grader: Any) -> TypeGuard[Any]:
    """Whether it has the methods of a metric of torchmetrics."""
    return all(hasattr(grader, name) for name in ("update", "compute", "reset"))


def _shown(value: Any) -> str:
    text = " ".join(repr(value).split())
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"


def _is_conversation(value: Any) -> bool:
    turns = value if isinstance(value, list | tuple) else ()
    return bool(turns) and all(isinstance(turn, Mapping) and "role" in turn for turn in turns)


def _prompt_text(item: Item) -> Any:
    alone = len(item.messages) == 1 and isinstance(item.messages[0].get("content"), str)
    return item.messages[0]["content"] if alone else list(item.messages)


_LOADED: dict[str, CustomGrader] = {}
"""Graders of this process by name; those that were given as objects can be had by no import."""


_NAMED: set[str] = set()
"""Dotted paths that a config, an option or Python code has named. A row could name any function of any package."""


def is_custom(name: str) -> bool:
    """Whether a name is the path of a user's grader; ours have no dot."""
    return "." in name


def source_digest(name: str) -> str:
    """Names the text of the file that a user's grader stands in; empty where it cannot be read, as in a notebook."""
    try:
        source = inspect.getsource(sys.modules[load_grader(name).call.__module__])
    except (UserError, OSError, TypeError, KeyError, AttributeError):
        return ""
    return hashlib.blake2b(source.encode(), digest_size=4).hexdigest()


def named_grader(grader: str | Callable[..., Any]) -> str:
    """The name by which a grader can be given anywhere, in rows too from now on.

    Call it for what a user has chosen, and never for what stands in data.

    Args:
        grader: a name, or a function, class or object that takes some of ``text``, ``gold``, ``row`` and ``prompt``.

    Returns:
        Of an object its dotted path, under which this process, and no other, remembers it.

    Raises:
        UserError: if it cannot be called as a grader is.
    """
    if isinstance(grader, str):
        if is_custom(grader):
            _NAMED.add(grader)
        return grader
    label = grader if hasattr(grader, "__qualname__") else type(grader)
    base = name = f"{label.__module__}.{label.__qualname__}"
    while name in _LOADED and _LOADED[name].call is not grader:
        name = f"{base}_{sum(each.startswith(base) for each in _LOADED) + 1}"
    if name not in _LOADED:
        _LOADED[name] = _custom_grader(name, grader)
    _NAMED.add(name)
    return name


def load_grader(name: str) -> CustomGrader:
    """The grader behind a dotted path.

    Raises:
        UserError: if only data name it, there is none, or it cannot be called as a grader is.
    """
    if name not in _NAMED:
        raise UserError(
            f"`grader` {name!r} is named by data alone, and data choose no code; if it is yours, name it by "
            f"--data.train.row_graders [{name}] (`uniopd regrade`: --grader), or in Python by "
            "lit_uniopd.rewards.named_grader."
        )
    if name not in _LOADED:
        _LOADED[name] = _custom_grader(name, _imported(name))
    return _LOADED[name]


def _imported(name: str) -> Any:
    module_name, _, attribute = name.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise _broken_import(name, module_name, error) from error
        near = did_you_mean(name, [f"{path.stem}.{attribute}" for path in Path.cwd().glob("*.py")])
        raise UserError(
            f"`grader` {name!r}: there is no module {error.name!r}{near}, neither in {Path.cwd()} nor installed; name "
            "a function by its module, as in `grader: my_module.is_right`."
        ) from error
    except Exception as error:
        raise _broken_import(name, module_name, error) from error
    try:
        return getattr(module, attribute)
    except AttributeError as error:
        names = [each for each in dir(module) if each[0] != "_"]
        near = did_you_mean(attribute, names, prefix=f"{module_name}.")
        raise UserError(
            f"`grader` {name!r}: there is no {attribute} in {getattr(module, '__file__', module_name)}{near}; write it "
            "there, or name another."
        ) from error


def _broken_import(name: str, module_name: str, error: Exception) -> UserError:
    return UserError(
        f"`grader` {name!r}: importing {module_name} failed with {type(error).__name__}: {first_line(error)}; mend the "
        "module (--debug shows where)."
    )


def _custom_grader(name: str, grader: Any) -> CustomGrader:
    if inspect.isclass(grader):
        try:
            grader = grader()
        except Exception as error:
            raise UserError(
                f"`grader` {name!r} is a class that cannot be made without arguments ({first_line(error)}); name an "
                "object or a function of the module instead."
            ) from error
    if not callable(grader):
        raise UserError(f"`grader` {name!r} is {_shown(grader)}, which cannot be called; name a function or a class.")
    try:  # the call of a metric does not say what it takes
        parameters = inspect.signature(grader.update if _is_metric(grader) else grader).parameters
    except (ValueError, TypeError):
        parameters = {}
    named = [p for p in parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    known = {*TEXT_NAMES, *GOLD_NAMES, *ROW_NAMES, *PROMPT_NAMES, *BATCH_NAMES}
    if not any(p.name in known for p in named) or any(p.kind is p.POSITIONAL_ONLY for p in parameters.values()):
        takes = ", ".join(map(str, parameters.values())) or "nothing that can be named"
        raise UserError(
            f"`grader` {name!r} takes {takes}; name its arguments `text` (the answer) and, as it needs them, `gold`, "
            "`row` and `prompt`, or take `completions` as TRL's reward functions do."
        )
    if any(p.name == "answer" for p in named) and not any(p.name in BATCH_NAMES for p in named):
        raise UserError(
            f"`grader` {name!r} takes `answer`, the model's or the row's; name the model's `text` and the row's `gold`."
        )
    return CustomGrader(name, grader, parameters)
