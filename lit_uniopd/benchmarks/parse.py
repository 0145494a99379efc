"""From YAML to specs: plain data, checked key by key.

Not by jsonargparse: that takes 60 times as long for all files, and its messages name its own parser.
"""

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from lit_uniopd.benchmarks.spec import BenchmarkSpec
from lit_uniopd.errors import UserError
from lit_uniopd.rewards.custom import named_grader
from lit_uniopd.utils.near_names import did_you_mean
from lit_uniopd.utils.strict_yaml import read_yaml

T = TypeVar("T")
SPECS = Path(__file__).parent / "specs"


def read_spec(path: Path) -> BenchmarkSpec:
    """Read one YAML file.

    ``inherit: _base`` starts from ``_base.yaml`` in the same directory, ``inherit: math500`` from the benchmark of that
    name; nested keys are merged one by one, and the file's own keys win. Other rows (``hub.id``), another grader or
    system message take nothing over of what was said about those of the base, and another name no published score.

    Raises:
        UserError: naming the file and the key, if it is no spec.
    """
    spec = build(BenchmarkSpec, _inherited(path), str(path))
    if spec.scoring.grader is None and spec.scoring.export is None:
        raise UserError(f"{path}: scoring has neither a grader nor an export format; give one of them.")
    for name in (spec.scoring.grader or "", *spec.scoring.also):
        named_grader(name)
    return spec


def _inherited(path: Path) -> dict[str, Any]:
    values = _read(path)
    base = values.pop("inherit", None)
    if base is not None:
        values = _merged(_applicable(_inherited(_base_file(path, str(base))), values), values)
    if values.get("fixture") is not None:
        values["fixture"] = str((path.parent / values["fixture"]).resolve())
    return values


def _base_file(path: Path, base: str) -> Path:
    """The file beside this one, else that of a benchmark that comes with us.

    Raises:
        UserError: if there is neither.
    """
    if (beside := path.parent / f"{base}.yaml").is_file():
        return beside
    if (packaged := SPECS / f"{base}.yaml").is_file():
        return packaged
    names = [file.stem for folder in (path.parent, SPECS) for file in folder.glob("*.yaml") if file != path]
    raise UserError(
        f"{path}: inherit names {base!r}, and there is neither {beside} nor a benchmark of this name"
        f"{did_you_mean(base, names)}; `uniopd benchmarks` lists them."
    )


def _applicable(base: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """What of a base holds for a file: nothing of what is said about rows or a grader that it replaces."""
    kept = dict(base)

    def replaces(section: str, key: str) -> bool:
        new, old = (each.get(section) for each in (values, base))
        return isinstance(new, dict) and isinstance(old, dict) and key in new and key in old and new[key] != old[key]

    if replaces("hub", "id"):
        columns = ("columns",) if "columns" in values else ()
        for key in ("hub", "size", "fixture", "licence", "source", "verified", "published", *columns):
            kept.pop(key, None)
    if replaces("scoring", "grader"):
        kept.pop("scoring")
    if replaces("prompt", "system"):
        kept["prompt"] = {key: value for key, value in kept["prompt"].items() if key != "wording"}
    if any(key in values and values[key] != base.get(key) for key in ("id", "protocol")):
        kept.pop("published", None)
    return kept


def _read(path: Path) -> dict[str, Any]:
    try:
        values = read_yaml(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); give the YAML file of a benchmark.") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} must hold keys and values, as the files in lit_uniopd/benchmarks/specs do.")
    return values


def _merged(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in overrides.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def build(cls: type[T], values: Any, where: str) -> T:
    """A dataclass from plain data.

    Args:
        cls: the dataclass.
        values: its fields by name.
        where: for messages: file and keys so far.

    Raises:
        UserError: an unknown or missing key, or a value of the wrong type.
    """
    if not isinstance(values, dict):
        raise UserError(f"{where} must hold keys and values, not {values!r}.")
    hints = get_type_hints(cls)
    for key in values:
        if key not in hints:
            raise UserError(
                f"{where}: there is no key {key!r}{did_you_mean(key, hints)}; use one of {', '.join(hints)}."
            )
    for f in fields(cls):  # type: ignore[arg-type]
        if f.name not in values and f.default is MISSING and f.default_factory is MISSING:
            raise UserError(f"{where}: the key {f.name!r} is missing; add it.")
    return cls(**{key: _value(hints[key], value, f"{where}: {key}") for key, value in values.items()})


_YAML_TYPES: dict[Any, tuple[Any, str]] = {
    tuple: (list, "a list"),
    float: (int | float, "a number"),
    Mapping: (dict, "keys and values"),
}
"""What YAML has in place of a field's type, and how messages call it."""


def _value(hint: Any, value: Any, where: str) -> Any:
    if is_dataclass(hint):
        return build(hint, value, where)  # type: ignore[arg-type]
    origin, arguments = get_origin(hint) or hint, get_args(hint)
    if origin is UnionType:  # X | None
        return None if value is None else _value(arguments[0], value, where)
    if origin is Literal:
        accepted, expected = value in arguments, f"one of {', '.join(map(str, arguments))}"
    else:
        yaml_type, expected = _YAML_TYPES.get(origin, (origin, origin.__name__))
        accepted = isinstance(value, yaml_type)
    if not accepted:
        raise UserError(f"{where} must be {expected}, not {value!r}.")
    return origin(value) if origin in (tuple, float) else value
