"""Scores from records. A *statistic* says what a problem adds to the sums; `sum_metric` adds up over ranks."""

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from lit_uniopd.benchmarks.metrics.answers import Also, Avg, IFEval, Majority, MeanScore, PassAt
from lit_uniopd.benchmarks.metrics.captions import Amber, AmberVectors, Chair
from lit_uniopd.benchmarks.metrics.grouped import GroupWorst, WeMath
from lit_uniopd.benchmarks.metrics.statistic import Statistic as Statistic
from lit_uniopd.benchmarks.metrics.yes_no import Hallusion, YesNo
from lit_uniopd.errors import UserError
from lit_uniopd.utils.near_names import did_you_mean

log = logging.getLogger(__name__)

METRICS: dict[str, Callable[..., Statistic]] = {
    "avg": Avg,
    "pass_at": PassAt,
    "majority": Majority,
    "mean_score": MeanScore,
    "also": Also,
    "yes_no": YesNo,
    "hallusion": Hallusion,
    "group_worst": GroupWorst,
    "we_math": WeMath,
    "ifeval": IFEval,
    "chair": Chair,
    "amber": Amber,
    "amber_vectors": AmberVectors,
}
"""Name in YAML -> statistic; each takes the number of answers to a row, and its own arguments."""


def build_metrics(metrics: Iterable[Mapping[str, Any]], n: int, *, spec_n: int | None = None) -> list[Statistic]:
    """The statistics that a spec names.

    Args:
        metrics: each ``{name: key of METRICS, **arguments}``.
        n: answers to a row in this run.
        spec_n: answers to a row in the spec. A pass@k that only the profile's smaller n rules out is left out.

    Raises:
        UserError: an unknown name or argument, or a pass@k that even the spec's n does not define.
    """
    built: list[Statistic] = []
    for entry in metrics:
        arguments = {key: value for key, value in entry.items() if key != "name"}
        make = METRICS.get(entry.get("name", ""))
        if make is None:
            near = did_you_mean(str(entry.get("name")), METRICS)
            raise UserError(
                f"report.metrics: there is no metric {entry.get('name')!r}{near}; name one of {', '.join(METRICS)}."
            )
        if make is PassAt and n < arguments.get("k", 1) <= (spec_n or n):
            log.debug("pass@%d needs more than the %d answer(s) of this profile and is left out.", arguments["k"], n)
            continue
        try:
            built.append(make(n, **arguments))
        except TypeError as error:
            raise UserError(
                f"report.metrics: {entry['name']} does not take these arguments ({error}); remove or mend them."
            ) from error
    return built
