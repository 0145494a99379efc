"""The examples in the docstrings of the formulas run, and every formula has one."""

import doctest
import inspect
import pkgutil
from importlib import import_module
from types import ModuleType

import pytest

from lit_uniopd import functional

HELPERS = {"divergence_tiles", "pair_checks", "projection"}
"""Modules that hold no formula."""
NAMES = [module.name for module in pkgutil.iter_modules(functional.__path__) if module.name not in HELPERS]


def load(name: str) -> ModuleType:
    """By path: `functional.divergence` is the function of that name."""
    return import_module(f"lit_uniopd.functional.{name}")


@pytest.mark.parametrize("name", NAMES)
def test_examples_print_what_they_say(name):
    results = doctest.testmod(load(name))
    assert results.attempted > 0
    assert results.failed == 0, "see the captured output"


@pytest.mark.parametrize("name", NAMES)
def test_every_formula_has_an_example(name):
    module = load(name)
    formulas = [f for f in vars(module).values() if inspect.isfunction(f) and f.__module__ == module.__name__]
    public = {f.__name__: f.__doc__ or "" for f in formulas if not f.__name__.startswith("_")}
    assert public
    assert [name for name, text in public.items() if "Example:\n" not in text or ">>> " not in text] == []


def test_every_exported_formula_is_among_them():
    exported = [getattr(functional, name) for name in functional.__all__]
    modules = {f.__module__.rsplit(".", 1)[1] for f in exported if inspect.isfunction(f)}
    assert modules <= set(NAMES)
