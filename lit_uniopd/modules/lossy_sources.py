"""Sources of which much is dropped or cut: what is left may be other data than the user means."""

from collections.abc import Iterator, Mapping
from typing import Any

from lit_uniopd.utils.objections import Objection

MANY = 0.1
"""Share of dropped rows, or of cut answers, that is worth a look."""
TOO_LONG, USELESS = ("too_long", "long_prompts"), ("identical", "empty")
"""Counters of what is dropped: for its length, and since nothing can be learnt from it."""


def source_objections(reports: Mapping[str, Any]) -> Iterator[Objection]:
    """What speaks against training on what is left of the rows.

    Args:
        reports: of a datamodule: option or split -> what became of the rows of its source, or of its sources.
    """
    sources = {flag: report if isinstance(report, list) else [report] for flag, report in reports.items()}
    for flag, report in ((flag, report) for flag, listed in sources.items() for report in listed):
        name = flag.removeprefix("--data.")
        long = sum(getattr(report, counter, 0) for counter in TOO_LONG)
        useless = sum(getattr(report, counter, 0) for counter in USELESS)
        useless += sum(getattr(report, "unusable", {}).values())
        dropped = long + useless
        if dropped > MANY * report.rows:
            remedies = ["raise --data.max_prompt_tokens (or max_length)"] * (long > 0)
            remedies += ["look at them by `uniopd data show PATH` and mend the rows"] * (useless > 0)
            yield Objection(
                "data",
                f"{name} loses {dropped / report.rows:.0%} of its rows: {report}; {', and '.join(remedies)}, so that "
                "what is left is the data you mean.",
            )
        cut, kept = getattr(report, "cut", 0), report.rows - dropped
        if cut > MANY * 2 * kept:
            yield Objection(
                "data",
                f"{name} has {cut / (2 * kept):.0%} of its answers cut by max_length, which are compared without their "
                "ends; raise --data.max_length.",
            )
