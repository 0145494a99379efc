"""Outcome graders: is a response right?

`GRADERS` maps names to graders; `GraderPool` judges many answers at once in processes that can be killed. Nothing here
imports torch.
"""

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from lit_uniopd.grade import Grade as Grade
from lit_uniopd.rewards.code import check_sandbox as check_sandbox
from lit_uniopd.rewards.custom import is_custom as is_custom
from lit_uniopd.rewards.custom import load_grader
from lit_uniopd.rewards.custom import named_grader as named_grader
from lit_uniopd.rewards.grade import Grader as Grader
from lit_uniopd.rewards.grade import guarded
from lit_uniopd.rewards.pool import GradeItem as GradeItem
from lit_uniopd.rewards.pool import GraderPool as GraderPool
from lit_uniopd.rewards.registry import IN_THREAD, IN_WORKER, INLINE
from lit_uniopd.rewards.registry import check_grader as check_grader


@functools.cache
def _shared_pool() -> GraderPool:
    return GraderPool(workers=1)


def _pooled(name: str, grade: Callable[..., Grade]) -> Grader:
    @functools.wraps(grade)
    def call(gold: Any, prediction: str, row: Mapping[str, Any] | None = None, **options: Any) -> Grade:
        return _shared_pool().grade([GradeItem(name, gold, prediction, row, options)])[0]

    return guarded(name, call)


GRADERS: Mapping[str, Grader] = MappingProxyType(
    {
        **INLINE,
        **{name: _pooled(name, grade) for name, grade in IN_WORKER.items()},
        **{name: guarded(name, grade) for name, grade in IN_THREAD.items()},
    }
)
"""Every grader by name. Those that hostile answers could stall run in one process shared by all callers; each program
runs in a sandbox of its own."""


def get_grader(name: str) -> Grader:
    """The grader of this name, ours or a user's.

    Raises:
        UserError: with all existing names, if there is none of this name.
    """
    check_grader(name)
    return _pooled(name, load_grader(named_grader(name)).call) if is_custom(name) else GRADERS[name]
