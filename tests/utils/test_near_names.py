"""Every name that a benchmark's file can get wrong is answered by the near one."""

import re
from dataclasses import replace

import pytest

from lit_uniopd.benchmarks.loading import load_benchmark
from lit_uniopd.benchmarks.metrics import build_metrics
from lit_uniopd.benchmarks.registry import find_spec
from lit_uniopd.errors import UserError


@pytest.mark.parametrize(
    ("ask", "near"),
    [
        (lambda: build_metrics([{"name": "pass_et"}], 1), "pass_at"),
        (lambda: load_benchmark(replace(find_spec("math500"), adapter="colums"), "fixture"), "columns"),
        (lambda: find_spec("math50"), "math500"),
    ],
    ids=["metric", "adapter", "benchmark"],
)
def test_the_near_name_is_suggested(ask, near):
    with pytest.raises(UserError, match=re.escape(f"(did you mean {near}")):
        ask()
