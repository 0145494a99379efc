"""The laboratory's pairs have the noise that its page says."""

from collections import Counter

import numpy as np
import pytest

from benchmarks.lab.pair_grid import ARMS, RIGHT, SETTINGS, TIED, WRONG, Judge, Run
from benchmarks.lab.pairs import HELDOUT, final_runs, make_pairs, pairs_file, tuning_runs
from lit_uniopd.types import Prompt

PROMPTS = [Prompt(id=str(i), messages=({"role": "user", "content": f"{i}"},)) for i in range(2000)]
ANSWERS = [[("yes", True), ("no", False), ("never", False), ("no", False), ("nowhere", False)]] * len(PROMPTS)


def pairs_of(judge: Judge, tied: float = 0.0) -> list[dict]:
    return make_pairs(PROMPTS, ANSWERS, judge, tied, seed=1)


def test_a_perfect_judge_prefers_the_right_answer():
    pairs = pairs_of(HELDOUT)
    assert len(pairs) == len(PROMPTS)
    assert {(pair["chosen"], pair["kind"]) for pair in pairs} == {("yes", "true")}
    assert {(pair["score_chosen"], pair["score_rejected"]) for pair in pairs} == {(RIGHT, WRONG)}


@pytest.mark.parametrize("setting", ["noisy", "heavy_tailed", "dealt_out"])
def test_noise_turns_round_as_many_pairs_as_it_should(setting):
    pairs = pairs_of(SETTINGS[setting])
    # P(N(3, 2.5 * sqrt 2) < 0) = 0.198; of Cauchy's, whose scales add up, 1/2 - atan(3 / (2 * 1.07)) / pi = 0.197
    assert Counter(pair["kind"] for pair in pairs)["wrong"] / len(pairs) == pytest.approx(0.198, abs=0.03)
    assert all(pair["score_chosen"] >= pair["score_rejected"] for pair in pairs)


def test_heavy_tails_have_the_quartiles_and_the_far_values_of_cauchys_distribution():
    errors = np.array([score - RIGHT for score in scores_of(SETTINGS["heavy_tailed"], "yes")])
    assert np.quantile(errors, [0.25, 0.75]) == pytest.approx([-1.07, 1.07], abs=0.2)
    assert np.mean(np.abs(errors) > 10.7) == pytest.approx(2 * np.arctan(0.1) / np.pi, abs=0.02)


def test_an_error_in_common_leaves_gaps_alone():
    clean, shared = (pairs_of(SETTINGS[setting]) for setting in ("clean", "shared_error"))
    gaps, levels = (
        [[f(pair["score_chosen"], pair["score_rejected"]) for pair in pairs] for pairs in (clean, shared)]
        for f in (lambda a, b: a - b, lambda a, b: (a + b) / 2)
    )
    assert np.std(gaps[1]) == pytest.approx(np.std(gaps[0]), abs=0.05)
    assert np.std(levels[0]) == pytest.approx(0.5 / 2**0.5, abs=0.03)
    assert np.std(levels[1]) == pytest.approx((2.5**2 + 0.5**2 / 2) ** 0.5, abs=0.15)


def test_scores_that_are_dealt_out_are_the_same_and_say_nothing_of_their_pair():
    informed, dealt = (pairs_of(SETTINGS[setting]) for setting in ("noisy", "dealt_out"))
    keys = ("score_chosen", "score_rejected")
    assert sorted(tuple(p[k] for k in keys) for p in dealt) == sorted(tuple(p[k] for k in keys) for p in informed)
    assert [p["chosen"] for p in dealt] == [p["chosen"] for p in informed]

    def difference(pairs):
        gaps = {kind: [p[keys[0]] - p[keys[1]] for p in pairs if p["kind"] == kind] for kind in ("true", "wrong")}
        return np.mean(gaps["true"]) - np.mean(gaps["wrong"])

    assert difference(informed) > 1.5
    assert abs(difference(dealt)) < 0.4


def scores_of(judge: Judge, answer: str) -> list[float]:
    sides = ("chosen", "rejected")
    return [pair[f"score_{side}"] for pair in pairs_of(judge) for side in sides if pair[side] == answer]


def test_flipped_pairs_keep_the_scores_of_their_places():
    pairs = pairs_of(SETTINGS["flipped"])
    wrong = [pair for pair in pairs if pair["kind"] == "wrong"]
    assert len(wrong) / len(pairs) == pytest.approx(0.25, abs=0.03)
    assert all(pair["rejected"] == "yes" for pair in wrong)
    assert min(pair["score_chosen"] - pair["score_rejected"] for pair in wrong) > 0


def test_tied_pairs_have_two_different_wrong_answers():
    tied = [pair for pair in pairs_of(HELDOUT, TIED) if pair["kind"] == "tied"]
    assert len(tied) / len(PROMPTS) == pytest.approx(2 * TIED, abs=0.03)
    assert all("yes" not in (pair["chosen"], pair["rejected"]) for pair in tied)
    assert all(pair["chosen"] != pair["rejected"] for pair in tied)


def test_runs_are_named_by_all_that_makes_them(monkeypatch):
    rates = dict.fromkeys(ARMS, 1e-4)
    runs = [*tuning_runs(), *final_runs(rates)]
    assert len({run.key for run in runs}) == len(runs) == 66 + 165
    assert not {run.seed for run in tuning_runs()} & {run.seed for run in final_runs(rates)}
    run = Run("noisy", "omni_dpo", 11, 1e-4)
    before, file = run.key, pairs_file("noisy", 11)
    monkeypatch.setitem(ARMS, "omni_dpo", ({"gamma": 1.0}, {}))
    with_other_loss = run.key
    monkeypatch.setitem(SETTINGS, "noisy", Judge(noise=2.0))
    assert len({before, with_other_loss, run.key}) == 3
    assert pairs_file("noisy", 11) != file
