"""Scores against enumeration from first principles."""

import itertools
import json
import math
import random
from dataclasses import replace
from typing import Any

import pytest

from lit_uniopd.benchmarks.metrics import build_metrics
from lit_uniopd.benchmarks.metrics.health import health_of, is_repetitive
from lit_uniopd.benchmarks.metrics.intervals import interval, paired_difference, resampled_weights
from lit_uniopd.benchmarks.metrics.scorecard import score_benchmark, stats_of
from lit_uniopd.benchmarks.metrics.sum_metric import SumMetric
from lit_uniopd.benchmarks.records import Record, grouped
from lit_uniopd.benchmarks.registry import expand, find_spec
from lit_uniopd.benchmarks.report.means import THE_16, domain_means, mean16
from lit_uniopd.errors import UserError


def record(row: str, k: int = 0, right: bool | None = True, **changes: Any) -> Record:
    base = Record(
        benchmark="b",
        protocol="p",
        version=1,
        profile="paper",
        fingerprint="f",
        sample_id=row,
        group_id=row,
        sample_idx=k,
        prompt_hash="h",
        generation_hash="g",
        weights="w",
        model="m",
        step=0,
        correct=right,
        score=float(bool(right)),
        reason="ok",
        grader="exact",
        n_tokens=3,
    )
    return replace(base, **changes)


def scores(records: list[Record], name: str, n: int = 1, **arguments: Any) -> dict[str, float]:
    metric = SumMetric(build_metrics([{"name": name, **arguments}], n))
    for group in grouped(records):
        metric.update(group)
    return metric.compute()


def answers(row: str, verdicts: str, **changes: Any) -> list[Record]:
    """``110`` is right, right, wrong."""
    return [record(row, k, mark == "1", **changes) for k, mark in enumerate(verdicts)]


# --- answers to a row ------------------------------------------------------------------------------------------------


def test_avg_is_the_mean_over_rows_also_when_they_have_unequally_many_answers():
    results = scores(answers("a", "10") + answers("b", "1110"), "avg", n=4)
    assert results == {"avg@4": pytest.approx((0.5 + 0.75) / 2)}
    assert scores([record("a"), record("b", right=None)], "avg") == {"accuracy": 0.5}  # no verdict counts as wrong


@pytest.mark.parametrize("right", range(7))
@pytest.mark.parametrize("k", [1, 2, 5, 6])
def test_pass_at_k_is_the_share_of_draws_with_a_right_answer(right, k):
    verdicts = "1" * right + "0" * (6 - right)
    draws = list(itertools.combinations(verdicts, k))
    expected = sum("1" in draw for draw in draws) / len(draws)
    assert scores(answers("a", verdicts), "pass_at", n=6, k=k)[f"pass@{k}"] == pytest.approx(expected)


def test_pass_at_k_beyond_the_answers_is_refused_but_left_out_where_a_profile_took_answers_away():
    with pytest.raises(UserError, match="not defined for 4"):
        build_metrics([{"name": "pass_at", "k": 5}], 4)
    assert build_metrics([{"name": "pass_at", "k": 8}], 1, spec_n=32) == []


@pytest.mark.parametrize(
    ("votes", "expected"),
    [
        ([("7", True), ("7", True), ("8", False)], 1.0),
        ([("8", False), ("8", False), ("7", True)], 0.0),
        ([("7", True), ("8", False)], 1.0),  # a tie goes to the first seen
        ([("8", False), ("7", True)], 0.0),
        ([(None, False), (None, False), ("7", True)], 1.0),  # none does not vote
        ([(None, False)], 0.0),
    ],
)
def test_majority(votes, expected):
    records = [record("a", k, right, extracted=text) for k, (text, right) in enumerate(votes)]
    assert scores(records, "majority", n=len(votes))[f"maj@{len(votes)}"] == expected


def test_marks_of_the_grader_and_of_further_graders():
    records = [record("a", score=0.25, also={"x": 1.0}), record("b", score=0.75, also={"x": 0.0})]
    assert scores(records, "mean_score", label="anls") == {"anls": 0.5}
    assert scores(records, "also", grader="x", label="other") == {"other": 0.5}


def test_ifeval_counts_prompts_and_instructions_strictly_and_loosely():
    records = [record("a", extracted="11|11"), record("b", extracted="101|111"), record("c", extracted="0|1")]
    assert scores(records, "ifeval") == {
        "prompt_strict": pytest.approx(1 / 3),
        "prompt_loose": 1.0,
        "instruction_strict": pytest.approx(4 / 6),
        "instruction_loose": 1.0,
    }


# --- yes and no ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("positive", ["yes", "no"])
def test_yes_no_against_counting(positive):
    rng = random.Random(1)
    pairs = [(rng.choice(["yes", "no"]), rng.choice(["yes", "no", None])) for _ in range(200)]
    records = [record(str(i), right=g == p, gold=g, extracted=p) for i, (g, p) in enumerate(pairs)]
    results = scores(records, "yes_no", positive=positive, primary="f1")
    hits = sum(g == p == positive for g, p in pairs)
    precision = hits / sum(p == positive for _, p in pairs)
    recall = hits / sum(g == positive for g, _ in pairs)
    assert next(iter(results)) == "f1"
    assert results["accuracy"] == pytest.approx(sum(g == p for g, p in pairs) / 200)
    assert results["precision"] == pytest.approx(precision)
    assert results["recall"] == pytest.approx(recall)
    assert results["f1"] == pytest.approx(2 * precision * recall / (precision + recall))
    assert results["yes_ratio"] == pytest.approx(sum(p == "yes" for _, p in pairs) / 200)


def test_yes_no_without_any_positive_is_zero_not_nan():
    results = scores([record("a", gold="no", extracted="no")], "yes_no", positive="yes")
    assert (results["precision"], results["recall"], results["f1"], results["accuracy"]) == (0, 0, 0, 1)


def test_hallusion_counts_questions_figures_and_pairs():
    grid = {("f0", "q0"): True, ("f0", "q1"): True, ("f1", "q0"): True, ("f1", "q1"): False}
    records = [
        record(f"{f}{q}", right=right, group_id="g", breakdown={"figure": f, "question_pair": q})
        for (f, q), right in grid.items()
    ]
    assert scores(records, "hallusion") == {"aAcc": 0.75, "qAcc": 0.5, "fAcc": 0.5}


# --- problems of several rows ----------------------------------------------------------------------------------------


def test_dynamath_average_and_worst():
    records = [
        record(f"{g}{v}", right=mark == "1", group_id=g)
        for g, row in (("a", "110"), ("b", "1"))  # a mean of means: not 3 of 4
        for v, mark in enumerate(row)
    ]
    assert scores(records, "group_worst") == {"average": pytest.approx(5 / 6), "worst": 0.5}


def we_math_by_hand(problems: list[tuple[list[bool], bool]]) -> dict[str, float]:
    """(steps right, problem right) of each problem, judged by the words of the paper."""
    count = {"IK": 0, "IG": 0, "CM": 0, "RM": 0, "CM loose": 0, "RM loose": 0}
    for steps, problem_right in problems:
        if not problem_right:
            count["IG" if all(steps) else "IK"] += 1
            continue
        count["CM" if all(steps) else "RM"] += 1
        count["CM loose" if any(steps) else "RM loose"] += 1
    share = {name: number / len(problems) for name, number in count.items()}
    return {
        "strict": share["CM"] + share["IG"] / 2,
        "loose": share["CM loose"] + share["IG"] / 2,
        "insufficient_knowledge": share["IK"],
        "inadequate_generalisation": share["IG"],
        "complete_mastery_strict": share["CM"],
        "complete_mastery_loose": share["CM loose"],
        "rote_memorisation_strict": share["RM"],
        "rote_memorisation_loose": share["RM loose"],
    }


def test_we_math_against_the_words_of_the_paper():
    rng = random.Random(2)
    problems = [([rng.random() < 0.6 for _ in range(rng.choice([2, 3]))], rng.random() < 0.5) for _ in range(300)]
    records = []
    for i, (steps, problem_right) in enumerate(problems):
        rows = [(f"{len(steps)}steps_{j + 1}", right) for j, right in enumerate(steps)] + [
            (f"{len(steps)}steps_multi", problem_right)
        ]
        records += [record(f"{i}{key}", right=right, group_id=str(i), breakdown={"key": key}) for key, right in rows]
    results = scores(records, "we_math")
    assert results.pop("accuracy") == pytest.approx(sum(bool(r.correct) for r in records) / len(records))
    assert results == {name: pytest.approx(value) for name, value in we_math_by_hand(problems).items()}


# --- captions --------------------------------------------------------------------------------------------------------


def test_chair_has_two_denominators():
    counts = [
        {"mentions": 4, "hallucinated": 1, "hit": 2, "truth": 3},
        {"mentions": 0, "hallucinated": 0, "hit": 0, "truth": 2},
        {"mentions": 2, "hallucinated": 0, "hit": 1, "truth": 1},
    ]
    records = [record(str(i), extracted=json.dumps(c), response="a b c") for i, c in enumerate(counts)]
    assert scores(records, "chair") == {
        "chair_i": pytest.approx(1 / 6),
        "chair_s": pytest.approx(1 / 3),
        "chair_s_refined": 0.5,
        "recall": 0.5,
        "words": 3.0,
    }


# --- sums, ranks, intervals ------------------------------------------------------------------------------------------


def test_sums_over_ranks_are_the_sums_over_all():
    rng = random.Random(3)
    records = [r for i in range(31) for r in answers(str(i), "".join(rng.choices("01", k=4)))]
    metrics: Any = [{"name": "avg"}, {"name": "pass_at", "k": 2}]
    groups = grouped(records)
    overall, first, second = (SumMetric(build_metrics(metrics, 4)) for _ in range(3))
    for i, group in enumerate(groups):
        overall.update(group)
        (first if i < 11 else second).update(group)
    first.sums += second.sums
    assert first.compute() == pytest.approx(overall.compute())


def test_an_unknown_metric_or_argument_is_named():
    with pytest.raises(UserError, match="no metric 'acc'"):
        build_metrics([{"name": "acc"}], 1)
    with pytest.raises(UserError, match="avg does not take"):
        build_metrics([{"name": "avg", "k": 3}], 1)


def test_resampling_draws_each_problem_equally_often():
    weights = resampled_weights(5, 4000, seed=0)
    assert (weights.sum(dim=1) == 5).all()
    assert weights.mean(dim=0).sub(1).abs().max() < 0.05


def test_the_interval_of_a_mean_is_that_of_the_binomial():
    (statistic,) = build_metrics([{"name": "avg"}], 1)
    groups = grouped([record(str(i), right=i % 10 < 3) for i in range(400)])
    low, high = interval(stats_of(groups, statistic), statistic)["accuracy"]
    half = 1.96 * math.sqrt(0.3 * 0.7 / 400)
    assert low == pytest.approx(0.3 - half, abs=0.01)
    assert high == pytest.approx(0.3 + half, abs=0.01)
    assert interval(stats_of(groups[:1], statistic), statistic) == {}


def test_a_paired_difference_is_narrower_than_two_intervals():
    (statistic,) = build_metrics([{"name": "avg"}], 1)
    rng = random.Random(4)
    first = [rng.random() < 0.5 for _ in range(300)]
    second = [right or i % 20 == 0 for i, right in enumerate(first)]  # the same, and some more right
    a, b = (stats_of(grouped([record(str(i), right=r) for i, r in enumerate(v)]), statistic) for v in (first, second))
    difference, low, high = paired_difference(a, b, statistic)["accuracy"]
    assert difference == pytest.approx((sum(second) - sum(first)) / 300)
    assert 0 < low < difference < high < 0.08
    with pytest.raises(ValueError, match="same problems"):
        paired_difference(a, b[:5], statistic)


# --- cards and means -------------------------------------------------------------------------------------------------


def test_a_card_has_scores_breakdown_health_and_counts():
    spec = find_spec("chartqa")
    records = [
        record(
            str(i),
            score=float(i < 3),
            right=i < 3,
            breakdown={"type": "human" if i % 2 else "augmented"},
            also={"chartqa_normalised": 1.0},
        )
        for i in range(4)
    ]
    card = score_benchmark(records, spec, spec.generation)
    assert card.primary == "relaxed_accuracy"
    assert card.scores == {"relaxed_accuracy": 0.75, "relaxed_normalised": 1.0}
    assert card.breakdown == {"type": {"augmented": 1.0, "human": 0.5}}
    assert (card.answers, card.groups) == (4, 4)
    assert card.interval["relaxed_accuracy"][0] <= 0.75 <= card.interval["relaxed_accuracy"][1]


def test_health():
    records = [
        record("a", finish="length", reason="truncated", right=False, n_tokens=10),
        record("b", reason="error", right=None, n_tokens=2),
        record("c", reason="no_answer", right=False, n_tokens=2),
        record("d", response="ha" * 200, n_tokens=2),
    ]
    health = health_of(records)
    assert {name: health[name] for name in ("truncated", "no_answer", "error", "unknown", "repetitive")} == {
        "truncated": 0.25,
        "no_answer": 0.5,
        "error": 0.25,
        "unknown": 0.25,
        "repetitive": 0.25,
    }
    assert (health["length_mean"], health["length_p95"]) == (4.0, 10.0)
    assert not is_repetitive("".join(map(chr, range(200, 500))))
    assert health_of([]) == {}


def test_means_only_of_what_is_complete():
    specs = {spec.key: spec for spec in expand(["uni_opd"])}
    complete = {key: i / 100 for i, key in enumerate(specs)}
    assert sorted({spec.id for spec in specs.values()}) == sorted(THE_16)
    assert mean16(complete, specs) == pytest.approx(sum(complete.values()) / 16)
    assert domain_means(complete, specs)["math"] == pytest.approx(sum(list(complete.values())[:4]) / 4)
    incomplete = {key: value for key, value in complete.items() if key != "aime24@gopd"}
    assert mean16(incomplete, specs) is None
    assert domain_means(incomplete, specs)["math"] is None
    assert domain_means(incomplete, specs)["code"] is not None
    both = {**specs, "mathvision@direct": find_spec("mathvision@direct")}
    assert mean16({**complete, "mathvision@direct": 0.5}, both) is None  # two variants of one: which of them?
