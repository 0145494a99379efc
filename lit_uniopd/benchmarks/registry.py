"""The registry of benchmarks: one YAML file for each benchmark and protocol."""

import difflib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from lit_uniopd.benchmarks.harness.args import PREFIXES, HarnessArgs
from lit_uniopd.benchmarks.harness.loading import harness_spec
from lit_uniopd.benchmarks.harness.wording import given_words
from lit_uniopd.benchmarks.parse import SPECS, read_spec
from lit_uniopd.benchmarks.spec import BenchmarkSpec
from lit_uniopd.errors import UserError
from lit_uniopd.utils.strict_yaml import read_yaml


@cache
def _files() -> dict[str, Path]:
    """Name or name@protocol -> file."""
    return {path.stem: path for path in sorted(SPECS.glob("*.yaml")) if not path.stem.startswith("_")}


@cache
def _spec(path: Path) -> BenchmarkSpec:
    return read_spec(path)


def all_specs() -> list[BenchmarkSpec]:
    """Every benchmark under every protocol, the default protocol of each first."""
    return [_spec(path) for path in _files().values()]


@cache
def groups() -> dict[str, tuple[str, ...]]:
    """Names that stand for several benchmarks."""
    return {name: tuple(members) for name, members in read_yaml(SPECS / "_groups.yaml").items()}


def find_spec(name: str) -> BenchmarkSpec:
    """One benchmark.

    Args:
        name: ``chartqa`` (its default protocol), ``chartqa@lmms``, or the path of a YAML file.

    Raises:
        UserError: if there is none of this name.
    """
    if name.endswith((".yaml", ".yml")):
        return _own_spec(Path(name).expanduser())
    if name in _files():
        return _spec(_files()[name])
    by_key = {spec.key: spec for spec in all_specs()}
    if name in by_key:
        return by_key[name]
    names = [*groups(), *_files(), *by_key]
    close_matches = difflib.get_close_matches(name, names, n=3)
    hint = f" (did you mean {' or '.join(close_matches)}?)" if close_matches else ""
    raise UserError(f"`benchmarks` names {name!r}, which does not exist{hint}; `uniopd benchmarks` lists all.")


def _own_spec(path: Path) -> BenchmarkSpec:
    """A benchmark of a user's file.

    Raises:
        UserError: if it has another protocol than that of ours which is called the same.
    """
    spec = read_spec(path)
    ours = next((each for each in all_specs() if each.key == spec.key), spec)
    for section in ("prompt", "generation", "scoring"):
        if getattr(ours, section) != getattr(spec, section):
            raise UserError(
                f"{path} has another `{section}` than {spec.key}, and the same name; give it an `id` or a `protocol` "
                "of its own, so that its scores are not taken for those."
            )
    return spec


def expand(names: Sequence[str], harness: HarnessArgs = HarnessArgs()) -> list[BenchmarkSpec]:  # noqa: B008  # frozen
    """Benchmarks of names, groups, domains and files, and names of harnesses; each once, in order.

    Args:
        names: those that begin with ``lm_eval:`` or ``lmms_eval:`` are a harness's, whose groups are looked
            into when rows are loaded.
        harness: how harnesses' tasks are asked; its system message may be the one that some of ours are asked with.

    Raises:
        UserError: if one is unknown, or there is none.
    """
    specs: dict[str, BenchmarkSpec] = {}
    for name in names:
        if name.startswith(PREFIXES):
            specs.setdefault(name, harness_spec(name, harness))
            continue
        for member in groups().get(name, (name,)):
            spec = given_words(find_spec(member), harness)
            specs.setdefault(spec.key, spec)
    if not specs:
        raise UserError("No benchmark is named; give names to `benchmarks` (`uniopd benchmarks` lists them).")
    return list(specs.values())
