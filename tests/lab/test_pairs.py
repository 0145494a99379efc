"""The laboratory's pairs have the noise that its page says."""

from collections import Counter

import pytest

from benchmarks.lab.pairs import ARMS, RIGHT, SETTINGS, TIED, WRONG, Run, final_runs, make_pairs, tuning_runs
from lit_uniopd.types import Prompt

PROMPTS = [Prompt(id=str(i), messages=({"role": "user", "content": f"{i}"},)) for i in range(2000)]
ANSWERS = [[("yes", True), ("no", False), ("never", False), ("no", False), ("nowhere", False)]] * len(PROMPTS)


def pairs_of(**how: float) -> list[dict]:
    settings = {"noise": 0.0, "flipped": 0.0, "tied": 0.0} | how
    return list(make_pairs(PROMPTS, ANSWERS, seed=1, **settings))


def test_a_perfect_judge_prefers_the_right_answer():
    pairs = pairs_of()
    assert len(pairs) == len(PROMPTS)
    assert {(pair["chosen"], pair["kind"]) for pair in pairs} == {("yes", "true")}
    assert {(pair["score_chosen"], pair["score_rejected"]) for pair in pairs} == {(RIGHT, WRONG)}


def test_noise_turns_round_as_many_pairs_as_it_should():
    pairs = pairs_of(**SETTINGS["noisy"])
    # P(N(3, 2.5 * sqrt 2) < 0) = 0.198
    assert Counter(pair["kind"] for pair in pairs)["wrong"] / len(pairs) == pytest.approx(0.198, abs=0.03)
    assert all(pair["score_chosen"] >= pair["score_rejected"] for pair in pairs)


def test_flipped_pairs_keep_the_scores_of_their_places():
    pairs = pairs_of(**SETTINGS["flipped"])
    wrong = [pair for pair in pairs if pair["kind"] == "wrong"]
    assert len(wrong) / len(pairs) == pytest.approx(0.25, abs=0.03)
    assert all(pair["rejected"] == "yes" for pair in wrong)
    assert min(pair["score_chosen"] - pair["score_rejected"] for pair in wrong) > 0


def test_tied_pairs_have_two_different_wrong_answers():
    tied = [pair for pair in pairs_of(tied=TIED) if pair["kind"] == "tied"]
    assert len(tied) / len(PROMPTS) == pytest.approx(2 * TIED, abs=0.03)
    assert all("yes" not in (pair["chosen"], pair["rejected"]) for pair in tied)
    assert all(pair["chosen"] != pair["rejected"] for pair in tied)


def test_runs_are_named_by_all_that_makes_them(monkeypatch):
    rates = dict.fromkeys(ARMS, 1e-4)
    runs = [*tuning_runs(), *final_runs(rates)]
    assert len({run.key for run in runs}) == len(runs) == 66 + 165
    assert not {run.seed for run in tuning_runs()} & {run.seed for run in final_runs(rates)}
    run = Run("noisy", "omni_dpo", 11, 1e-4)
    before = run.key
    monkeypatch.setitem(ARMS, "omni_dpo", ({"gamma": 1.0}, {}))
    assert run.key != before
