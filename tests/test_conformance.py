"""Suites of other projects: ours gives what they expect, or a case says why not."""

import pytest

from benchmarks.conformance import BEGIN, END, PAGE, passes, read_suites, table
from lit_uniopd.rewards import GraderPool

SUITES = read_suites()


@pytest.fixture(scope="module")
def results():
    with GraderPool(workers=1, time_limit=120.0) as pool:
        return {suite: passes(suite, pool) for suite in SUITES}


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.repository)
def test_ours_agrees_or_says_why_not(suite, results):
    verdicts = dict(zip((case["id"] for case in suite.cases), results[suite], strict=True))
    assert len(verdicts) == len(suite.cases)
    assert [name for name, right in verdicts.items() if not right] == [
        case["id"] for case in suite.cases if "differs" in case
    ]


def test_the_page_is_the_scripts(results):
    page = PAGE.read_text(encoding="utf-8")
    assert page.partition(BEGIN)[2].partition(END)[0] == table(results)
