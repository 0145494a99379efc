import itertools
import json
import multiprocessing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from lit_uniopd.functional.grouped_returns import trajectory_returns
from lit_uniopd.functional.margin import greedy_drops, margin_discard, margin_mask, margin_shift
from lit_uniopd.functional.order import order_consistency

GOLDEN = Path(__file__).parents[1] / "golden"
SHIFT, MASK = (json.loads((GOLDEN / f"uni_opd_margin_{name}.json").read_text()) for name in ("shift", "mask"))
SIDES = [("group", "mean"), ("group", "minmax"), ("global", "mean"), ("global", "minmax")]


def pad(rows: list[list[float]], value=0.0) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([row + [value] * (width - len(row)) for row in rows])


def inputs(golden: dict) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Advantages, mask, outcomes, groups."""
    rows = golden["inputs"]["token_advantages"]
    outcome = [{True: 1, False: 0, None: -1}[c] for c in golden["inputs"]["response_correct"]]
    mask = pad([[1.0] * len(row) for row in rows]).bool()
    return pad(rows), mask, torch.tensor(outcome), torch.tensor(golden["inputs"]["group_index"])


def one_token(returns: list[float], outcome: list[int], group: list[int] | None = None):
    """Samples of one token each, so that the return is the advantage."""
    advantages = torch.tensor(returns, dtype=torch.float64)[:, None]
    group = [0] * len(returns) if group is None else group
    return advantages, torch.ones_like(advantages, dtype=torch.bool), torch.tensor(outcome), torch.tensor(group)


@pytest.mark.parametrize("case", SHIFT["cases"], ids=[c["name"] for c in SHIFT["cases"]])
def test_official_shifts(case):
    advantages, mask, outcome, group = inputs(SHIFT)
    result = margin_shift(
        advantages,
        mask,
        outcome,
        group,
        scope=case["scope"],
        statistic=case["mode"],
        direction=case["direction"],
        delta=case["delta"],
    )
    torch.testing.assert_close(result.advantages, pad(case["token_advantages_out"]), rtol=0, atol=1e-6)
    torch.testing.assert_close(result.shift_B, torch.tensor(case["per_sample_shift"]), rtol=0, atol=1e-6)
    assert not result.masked_B.any()
    torch.testing.assert_close(
        result.margin_after, result.margin_before.clamp(min=case["delta"]), rtol=0, atol=1e-9
    )  # a violated margin becomes delta, others stay


def test_the_text_setting_in_detail():
    result = margin_shift(*inputs(SHIFT))  # the defaults: group, mean, both, 0.4
    assert result.groups.tolist() == [10, 11, 14, 15]  # 12 is all correct, 13 all wrong
    # Group 10: (-.2 - .05)/2 - (-.1 + .1)/2; 11: .6 + .2; 14: .1 - .1, its unknown sample ignored; 15: .25 - .05.
    expected = torch.tensor([-0.125, 0.8, 0.0, 0.2], dtype=torch.float64)
    torch.testing.assert_close(result.margin_before, expected, rtol=0, atol=1e-7)
    assert result.violations == 3
    assert result.n_groups == 6


def test_the_multimodal_setting_lifts_only_the_violated_group():
    result = margin_shift(*inputs(SHIFT), direction="correct_up", delta=0.0)
    shift = [0.125, 0, 0.125] + [0] * 15  # the correct samples of group 10, by its margin of -0.125
    torch.testing.assert_close(result.shift_B, torch.tensor(shift), rtol=0, atol=1e-6)


@pytest.mark.parametrize("direction", ["correct_up", "incorrect_down", "both"])
@pytest.mark.parametrize(("scope", "statistic"), SIDES)
def test_every_direction_moves_the_sets_it_names(scope, statistic, direction):
    # Group 0: correct 0, 1 and wrong 0.5; group 1: correct 2 and wrong 0, 1.
    batch = one_token([0, 1, 0.5, 2, 0, 1], [1, 1, 0, 1, 0, 0], [0, 0, 0, 1, 1, 1])
    delta = 2.0
    margins = {  # per group or of the batch: mean .5 - .5, 2 - .5, 1 - .5; minmax 0 - .5, 2 - 1, 0 - 1
        ("group", "mean"): [0.0, 1.5],
        ("group", "minmax"): [-0.5, 1.0],
        ("global", "mean"): [0.5],
        ("global", "minmax"): [-1.0],
    }[scope, statistic]
    result = margin_shift(*batch, scope=scope, statistic=statistic, direction=direction, delta=delta)
    assert result.groups.tolist() == ([0, 1] if scope == "group" else [0])
    assert result.margin_before.tolist() == margins
    up, down = {"correct_up": (1, 0), "incorrect_down": (0, -1), "both": (0.5, -0.5)}[direction]
    gaps = [delta - m for m in margins] if scope == "group" else [delta - margins[0]] * 2
    expected = [up, up, down, up, down, down]
    assert result.shift_B.tolist() == [side * gaps[i // 3] for i, side in enumerate(expected)]
    assert result.margin_after.tolist() == [delta] * len(margins)


@pytest.mark.parametrize("case", MASK["cases"], ids=[c["name"] for c in MASK["cases"]])
def test_official_masks(case):
    result = margin_mask(
        *inputs(MASK),
        scope=case["scope"],
        statistic=case["mode"],
        delta=case["delta"],
        min_retain=case["min_retain_ratio"],
    )
    assert result.masked_B.nonzero()[:, 0].tolist() == case["masked_sample_indices_1rank"]
    torch.testing.assert_close(result.advantages, pad(case["token_advantages_out"]), rtol=0, atol=1e-7)
    assert not result.shift_B.any()


@pytest.mark.parametrize(
    ("statistic", "delta", "min_retain", "masked"),
    [  # the official function on group 20: correct -.6, -.1, .2, .3 and wrong .5, 0, -.2, -.4 (indices 0 to 7)
        ("mean", 0.4, 0.25, [0, 1, 4]),
        ("mean", 0.4, 0.75, [0, 4]),
        ("mean", 0.0, 0.25, [0]),
        ("minmax", 0.4, 0.25, [0, 1, 4, 5]),
    ],
)
def test_official_masks_of_the_overlapping_group(statistic, delta, min_retain, masked):
    batch = [tensor[:8] for tensor in inputs(MASK)]
    result = margin_mask(*batch, statistic=statistic, delta=delta, min_retain=min_retain)
    assert result.masked_B.nonzero()[:, 0].tolist() == masked
    rest_correct = [v for i, v in enumerate([-0.6, -0.1, 0.2, 0.3]) if i not in masked]
    rest_wrong = [v for i, v in enumerate([0.5, 0.0, -0.2, -0.4], start=4) if i not in masked]
    if statistic == "mean":
        after = sum(rest_correct) / len(rest_correct) - sum(rest_wrong) / len(rest_wrong)
    else:
        after = min(rest_correct) - max(rest_wrong)
    assert result.margin_after.item() == pytest.approx(after, abs=1e-6)


def naive_greedy(correct, incorrect, statistic, delta, min_retain):
    """The official loop, on lists that really shrink; exact for the dyadic numbers it is given."""

    def margin(c, i):
        return min(c) - max(i) if statistic == "minmax" else sum(c) / len(c) - sum(i) / len(i)

    c, i = sorted(correct), sorted(incorrect, reverse=True)
    min_c, min_i = max(1, int(len(c) * min_retain)), max(1, int(len(i) * min_retain))
    while margin(c, i) < delta:
        now = margin(c, i)
        a = margin(c[1:], i) if len(c) > min_c else -1e9
        b = margin(c, i[1:]) if len(i) > min_i else -1e9
        if max(a, b) <= now:
            break
        c, i = (c[1:], i) if a >= b else (c, i[1:])
    return len(correct) - len(c), len(incorrect) - len(i)


@pytest.mark.parametrize("statistic", ["mean", "minmax"])
def test_greedy_drops_against_the_literal_loop(statistic):
    generator = torch.Generator().manual_seed(0)
    dropped = 0
    for n_correct, n_incorrect in itertools.product((1, 2, 4, 8), repeat=2):
        for _ in range(10):
            correct, incorrect = (
                sorted((torch.randint(-4, 5, (n,), generator=generator) / 4).tolist()) for n in (n_correct, n_incorrect)
            )
            incorrect.reverse()
            for delta, min_retain in ((0.5, 0.25), (0.5, 0.75), (0.0, 0.0), (3.0, 0.25)):
                got = greedy_drops(correct, incorrect, statistic=statistic, delta=delta, min_retain=min_retain)
                assert got == naive_greedy(correct, incorrect, statistic, delta, min_retain)
                dropped += sum(got)
    assert dropped > 100


def test_equal_returns_are_never_dropped_for_a_rounding_error():
    # Removing one of eleven equal numbers gains nothing; sums of floats sometimes claim it gains 1e-17.
    for value in (0.1, 0.3, -0.7):
        for n in range(2, 20):
            assert greedy_drops([value] * n, [value] * n, statistic="mean", delta=0.4, min_retain=0.0) == (0, 0)


DISCARD_CASES = {
    # Group 1: -0.2 against -0.1, the paper's example. Group 2: 0.5 and 0.1 against 0.0. Group 3: right answers alone.
    # Group 4: means of 0.5 and 0.2, and 0.1 is below 0.2. Group 5: a tie. The last of groups 1 and 2 are unknown.
    ("minmax", 0.0): [1, 4],
    ("minmax", 0.05): [1, 4, 5],
    ("minmax", 0.2): [1, 2, 4, 5],
    ("mean", 0.0): [1],
    ("mean", 0.35): [1, 2, 4, 5],
}
"""Statistic and delta -> the groups that are left out, by hand."""


@pytest.mark.parametrize(("statistic", "delta"), DISCARD_CASES)
def test_a_group_in_the_wrong_order_is_left_out_whole(statistic, delta):
    returns = [-0.2, -0.1, 9.0, 0.5, 0.1, 0.0, 3.0, 0.7, 0.1, 0.9, 0.2, 0.4, 0.4]
    outcome = [1, 0, -1, 1, 1, 0, -1, 1, 1, 1, 0, 1, 0]
    group = [1, 1, 1, 2, 2, 2, 2, 3, 4, 4, 4, 5, 5]
    result = margin_discard(*one_token(returns, outcome, group), statistic=statistic, delta=delta)
    dropped = DISCARD_CASES[statistic, delta]
    assert result.masked_B.tolist() == [number in dropped for number in group]
    expected = [0.0 if number in dropped else value for value, number in zip(returns, group, strict=True)]
    assert result.advantages[:, 0].tolist() == expected
    assert result.groups.tolist() == [1, 2, 4, 5]
    margins = {"minmax": [-0.1, 0.1, -0.1, 0.0], "mean": [-0.1, 0.3, 0.3, 0.0]}[statistic]
    assert result.margin_before.tolist() == pytest.approx(margins)
    left = [m for m, number in zip(margins, (1, 2, 4, 5), strict=True) if number not in dropped]
    assert result.margin_after.tolist() == pytest.approx(left)
    assert (result.violations, result.n_groups) == (len(dropped), 5)
    assert not result.shift_B.any()


def test_an_answer_outside_of_the_margin_is_left_out_with_its_group():
    batch = one_token([-0.2, -0.1, -5.0, 1.0], [1, 0, 1, 0], [0, 0, 0, 1])
    include_B = torch.tensor([True, True, False, True])
    result = margin_discard(*batch, include_B=include_B)
    assert result.margin_before.tolist() == pytest.approx([-0.1])
    assert result.masked_B.tolist() == [True, True, True, False]


@pytest.mark.parametrize("function", [margin_shift, margin_mask])
def test_padding_and_empty_answers_change_nothing(function):
    advantages, mask, outcome, group = inputs(SHIFT)
    expected = function(advantages, mask, outcome, group)
    wide_mask = torch.nn.functional.pad(mask, (0, 3))
    wide = torch.nn.functional.pad(advantages, (0, 3)).masked_fill(~wide_mask, torch.nan)
    # An empty correct answer in group 10, and one that would make group 13 mixed if it counted.
    empty = torch.full((2, wide.shape[1]), torch.nan)
    got = function(
        torch.cat([empty, wide]),
        torch.cat([torch.zeros_like(wide_mask[:2]), wide_mask]),
        torch.cat([torch.tensor([1, 1]), outcome]),
        torch.cat([torch.tensor([10, 13]), group]),
    )
    torch.testing.assert_close(got.advantages[2:][wide_mask], expected.advantages[mask])
    torch.testing.assert_close(got.margin_before, expected.margin_before)
    torch.testing.assert_close(got.margin_after, expected.margin_after)
    assert got.groups.tolist() == expected.groups.tolist()
    assert got.shift_B[:2].tolist() == [0, 0]
    assert not got.masked_B[:2].any()


@pytest.mark.parametrize("function", [margin_shift, margin_mask])
def test_excluded_samples_are_as_good_as_absent(function):
    advantages, mask, outcome, group = inputs(SHIFT)
    include = torch.ones(18, dtype=torch.bool)
    include[[1, 2, 15]] = False  # 15 is the only correct sample of its group
    got = function(advantages, mask, outcome, group, include_B=include)
    expected = function(advantages[include], mask[include], outcome[include], group[include])
    torch.testing.assert_close(got.advantages[include], expected.advantages)
    torch.testing.assert_close(got.advantages[~include], advantages[~include])
    assert got.groups.tolist() == expected.groups.tolist() == [10, 11, 14]


def test_batches_without_a_mixed_group():
    for outcome in ([1, 1], [0, 0], [-1, -1], [1, -1]):
        for function in (margin_shift, margin_mask):
            advantages, *arguments = one_token([0.1, 0.2], outcome)
            result = function(advantages, *arguments)
            assert result.advantages.tolist() == advantages.tolist()
            assert result.groups.numel() == result.margin_before.numel() == result.violations == 0
    nothing = margin_shift(torch.zeros(0, 3), torch.zeros(0, 3), torch.zeros(0).long(), torch.zeros(0).long())
    assert nothing.advantages.shape == (0, 3)


def test_inputs_stay_as_they_are():
    batch = inputs(SHIFT)
    copies = [tensor.clone() for tensor in batch]
    margin_shift(*batch)
    margin_mask(*batch, statistic="minmax")
    assert all(torch.equal(a, b) for a, b in zip(batch, copies, strict=True))


def test_trajectory_returns():
    nan = float("nan")
    got = trajectory_returns(torch.tensor([[1.0, 2.0, nan], [nan, nan, nan]]), torch.tensor([[1, 1, 0], [0, 0, 0]]))
    assert got.tolist() == [1.5, 0.0]
    assert got.dtype == torch.float32


def test_order_consistency_of_the_golden_groups():
    returns = torch.tensor(SHIFT["inputs"]["sample_mean_advantage"], dtype=torch.float64)
    _, _, outcome, group = inputs(SHIFT)
    report = order_consistency(returns, outcome, group)
    assert report.groups.tolist() == [10, 11, 14, 15]
    assert report.margin_minmax.tolist() == pytest.approx([-0.3, 0.6, 0.0, 0.2])
    assert report.margin_mean.tolist() == pytest.approx([-0.125, 0.8, 0.0, 0.2])
    assert report.inversions.tolist() == [3, 0, 0, 0]  # a tie, as in group 14, is no inversion
    assert report.pairs.tolist() == [4, 4, 1, 2]
    assert report.consistent_share == 0.75
    assert report.inversion_rate == pytest.approx(3 / 11)
    assert (report.n_groups, report.all_correct, report.all_incorrect) == (6, 1, 1)


def test_order_consistency_without_mixed_groups():
    report = order_consistency(torch.tensor([1.0, 2.0]), torch.tensor([1, -1]), torch.tensor([0, 1]))
    assert (report.n_groups, report.all_correct, report.all_incorrect) == (1, 1, 0)
    assert report.consistent_share != report.consistent_share  # NaN: there is nothing to be in order
    assert report.inversion_rate != report.inversion_rate


def test_mistakes_name_the_argument():
    advantages, mask, outcome, group = one_token([0.1, 0.2], [1, 0])
    cases = [
        (lambda: margin_shift(advantages, mask[:1], outcome, group), "mask_BT"),
        (lambda: margin_shift(advantages, mask, outcome[:1], group), "outcome_B"),
        (lambda: margin_shift(advantages, mask, outcome + 1, group), "outcome_B"),
        (lambda: margin_shift(advantages, mask, outcome, group[:1]), "group_B"),
        (lambda: margin_shift(advantages, mask, outcome, group, include_B=mask), "include_B"),
        (lambda: margin_shift(advantages, mask, outcome, group, scope="batch"), "scope"),  # type: ignore[arg-type]
        (lambda: margin_shift(advantages, mask, outcome, group, statistic="median"), "statistic"),  # type: ignore[arg-type]
        (lambda: margin_shift(advantages, mask, outcome, group, direction="up"), "direction"),  # type: ignore[arg-type]
        (lambda: margin_mask(advantages, mask, outcome, group, scope="batch"), "scope"),  # type: ignore[arg-type]
        (lambda: margin_mask(advantages, mask, outcome, group, statistic="median"), "statistic"),  # type: ignore[arg-type]
        (lambda: margin_mask(advantages, mask, outcome, group, min_retain=1.5), "min_retain"),
        (lambda: order_consistency(advantages[:, 0], outcome[:1], group), "outcome_B"),
        (lambda: order_consistency(advantages[:, 0], outcome + 5, group), "outcome_B"),
        (lambda: order_consistency(advantages[:, 0], outcome, group[:1]), "group_B"),
    ]
    for call, name in cases:
        with pytest.raises(ValueError, match=name):
            call()


def _rank(rank: int, store: str, out: str) -> None:
    """Every third sample on rank 0: groups straddle the ranks, which hold different numbers of samples."""
    timeout = timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2, timeout=timeout)
    results = {}
    for name, golden, function in (("shift", SHIFT, margin_shift), ("mask", MASK, margin_mask)):
        batch = inputs(golden)
        local = (torch.arange(len(batch[0])) % 3 == 0) == (rank == 0)
        for scope, statistic in SIDES:
            options: dict[str, Any] = {"scope": scope, "statistic": statistic, "process_group": dist.group.WORLD}
            result = function(*(t[local] for t in batch), **options)
            results[name, scope, statistic] = (local, result.advantages, result.margin_before, result.margin_after)
    result = margin_discard(*(t[local] for t in batch), delta=0.1, process_group=dist.group.WORLD)
    results["discard"] = (local, result.advantages, result.margin_before, result.margin_after)
    torch.save(results, f"{out}/{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_give_what_one_gives(tmp_path):
    scope: Any
    statistic: Any
    args = (str(tmp_path / "store"), str(tmp_path))
    other = multiprocessing.get_context("spawn").Process(target=_rank, args=(1, *args))
    other.start()
    _rank(0, *args)  # this process is the first rank: starting one more costs less than starting two
    other.join()
    assert other.exitcode == 0
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    whole = margin_discard(*inputs(MASK), delta=0.1)
    assert 0 < whole.masked_B.sum() < len(whole.masked_B)
    for results in ranks:
        local, advantages, before, after = results["discard"]
        torch.testing.assert_close(advantages, whole.advantages[local], rtol=0, atol=1e-7)
        torch.testing.assert_close(before, whole.margin_before, rtol=0, atol=1e-12)
        torch.testing.assert_close(after, whole.margin_after, rtol=0, atol=1e-12)
    for name, golden, function in (("shift", SHIFT, margin_shift), ("mask", MASK, margin_mask)):
        for scope, statistic in SIDES:
            expected = function(*inputs(golden), scope=scope, statistic=statistic)
            for results in ranks:
                local, advantages, before, after = results[name, scope, statistic]
                torch.testing.assert_close(advantages, expected.advantages[local], rtol=0, atol=1e-7)
                torch.testing.assert_close(before, expected.margin_before, rtol=0, atol=1e-12)
                torch.testing.assert_close(after, expected.margin_after, rtol=0, atol=1e-12)
