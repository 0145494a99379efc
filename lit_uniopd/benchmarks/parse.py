"""From YAML to specs: plain data, checked key by key."""

import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import yaml

from lit_uniopd.benchmarks.spec import BenchmarkSpec
from lit_uniopd.errors import UserError

T = TypeVar("T")


def read_spec(path: Path) -> BenchmarkSpec:
    """Read one YAML file.

    ``inherit: _base`` takes what ``_base.yaml`` beside it says, nested keys one by one; the file's own keys win.

    Raises:
        UserError: naming the file and the key, if it is no spec.
    """
    values = _inherited(path)
    spec = build(BenchmarkSpec, values, str(path))
    if spec.scoring.grader is None and spec.scoring.export is None:
        raise UserError(f"{path}: scoring has neither a grader nor an export format; give one of them.")
    return spec


def _inherited(path: Path) -> dict[str, Any]:
    values = _read(path)
    base = values.pop("inherit", None)
    if base is not None:
        values = _merged(_inherited(path.parent / f"{base}.yaml"), values)
    if "fixture" in values and values["fixture"] is not None:
        values["fixture"] = str((path.parent / values["fixture"]).resolve())
    return values


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); give the YAML file of a benchmark.") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML ({' '.join(str(error).split())}); mend it.") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} must hold keys and values, as the files in lit_uniopd/benchmarks/specs do.")
    return values


def _merged(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in own.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def build(kind: type[T], values: Any, where: str) -> T:
    """A dataclass from plain data.

    Args:
        kind: the dataclass.
        values: its fields by name.
        where: for messages: file and keys so far.

    Raises:
        UserError: an unknown or missing key, or a value of the wrong type.
    """
    if not isinstance(values, dict):
        raise UserError(f"{where} must hold keys and values, not {values!r}.")
    hints = get_type_hints(kind)
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise UserError(f"{where}: there is no key {key!r}; use one of {', '.join(known)}.")
    for f in known.values():
        if f.name not in values and f.default is MISSING and f.default_factory is MISSING:
            raise UserError(f"{where}: the key {f.name!r} is missing; add it.")
    return kind(**{key: _value(hints[key], value, f"{where}: {key}") for key, value in values.items()})


def _value(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        (hint,) = [argument for argument in arguments if argument is not type(None)]
        return _value(hint, value, where)
    if is_dataclass(hint) and isinstance(hint, type):
        return build(hint, value, where)
    if origin is Literal:
        return _checked(value in arguments, value, where, f"one of {', '.join(map(str, arguments))}")
    if origin is tuple:
        return tuple(_checked(isinstance(value, list), value, where, "a list"))
    if hint is float:
        return float(_checked(isinstance(value, int | float), value, where, "a number"))
    if isinstance(hint, type):
        return _checked(isinstance(value, hint), value, where, hint.__name__)
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return _checked(isinstance(value, dict), value, where, "keys and values")
    return value


def _checked(good: bool, value: Any, where: str, wanted: str) -> Any:
    if not good:
        raise UserError(f"{where} must be {wanted}, not {value!r}.")
    return value
