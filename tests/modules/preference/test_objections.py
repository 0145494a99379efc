"""Pair losses whose parts never act, always act, or cannot be reached; and the shipped ones, which are left alone."""

import json
import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pairs_data import ROWS, data, omni
from tiny import trainer

from datamodules import PairWeightArgs
from lit_uniopd.functional.preference import omni_dpo_loss
from lit_uniopd.modules.preference.losses import PairLossArgs
from lit_uniopd.modules.preference.objections import loss_objections, score_objections
from lit_uniopd.types import EncodedPair, PreferencePair, Prompt

ROOT = Path(__file__).parents[3]
SHIPPED = {
    path.stem + str(i): settings
    for i, path in enumerate(sorted(ROOT.glob("configs/**/*.yaml")))
    if (settings := (yaml.safe_load(path.read_text()).get("model") or {}).get("init_args", {}).get("loss"))
    and path.parts[-2] in ("omni_dpo", "sentinel")
}


def said(objections: Any) -> list[str]:
    return [objection.message for objection in objections]


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_losses_are_left_alone(name):
    assert said(loss_objections(PairLossArgs(**SHIPPED[name]))) == []


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"kind": "dpo", "beta": 0.1},
        {"kind": "dpo", "average": True},
        {"kind": "ipo", "beta": 0.1},
        {"kind": "simpo"},
        {"kind": "orpo", "beta": 0.1},
        {"kind": "hinge", "beta": 0.05},
        {"kind": "robust", "beta": 0.1, "label_smoothing": 0.1},
        {"kind": "dpo_positive", "beta": 0.1, "penalty": 5.0},
        {"kind": "kto_pair", "beta": 0.1},
        {"performance": "off", "gamma": 100.0},
        {"kind": "dpo", "beta": 0.1, "gamma": 100.0},  # omni_dpo's own options may stand beside a baseline
    ],
)
def test_usual_losses_are_left_alone(settings):
    assert said(loss_objections(PairLossArgs(**settings))) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gamma": 50.0}, "a pair that the policy finds equally likely weighs 1.6e-07, so hardly anything is learned"),
        ({"tau_ref": -5.0}, "so hardly anything is learned"),
        ({"gamma": 0.0}, "the performance weight is 1 for every pair"),
        ({"tau_ref": 100.0}, "the performance weight is 1 for every pair"),
        ({"kind": "dpo", "beta": 2.0}, "--model.loss.beta 2.0 multiplies sums of log-probs"),
        ({"beta": 0.1}, "--model.loss.beta 0.1 multiplies means of token log-probs, for which 2 to 10 is usual"),
        ({"kind": "dpo", "beta": 0.1, "average": True}, "multiplies means of token log-probs"),
        ({"kind": "simpo", "gamma_beta_ratio": 9.0}, "wants a margin of 9 nats per token"),
        ({"kind": "ipo", "beta": 0.01}, "wants a margin of 50 nats per token"),
        ({"label_smoothing": 0.1}, "--model.loss.label_smoothing 0.1 is not used by --model.loss.kind omni_dpo"),
        ({"kind": "ipo", "penalty": 3.0}, "--model.loss.penalty 3 is not used by --model.loss.kind ipo"),
        ({"gamma_beta_ratio": 1.0}, "--model.loss.gamma_beta_ratio 1 is not used by"),
        ({"kind": "robust", "beta": 0.1}, "robust with label_smoothing 0 is plain DPO"),
        ({"kind": "dpo_positive", "beta": 0.1, "penalty": 0.0}, "dpo_positive with penalty 0 is plain DPO"),
    ],
)
def test_parts_that_never_act_or_are_never_reached(settings, message):
    messages = said(loss_objections(PairLossArgs(**settings)))
    assert len(messages) == 1 + ("not used" in message and "penalty 0" in message), messages
    assert message in messages[0]


def test_the_weight_that_is_told_is_that_of_the_loss():
    even = torch.tensor([-1.0])
    for gamma, tau_ref in ((50.0, 1.0), (3.0, -5.0)):
        result = omni_dpo_loss(*[even] * 4, *[torch.tensor([4.0])] * 2, beta=2.0, gamma=gamma, tau_ref=tau_ref)
        [message] = said(loss_objections(PairLossArgs(gamma=gamma, tau_ref=tau_ref)))
        assert f"weighs {float(result.terms['w_performance']):.1e}" in message


def scored(*chosen: float) -> list[EncodedPair]:
    prompt = Prompt(id="p", messages=({"role": "user", "content": "x"},))
    return [
        EncodedPair(PreferencePair(prompt, "a", "b", score_chosen=score, score_rejected=0.0), (1,), (2,), (3,))
        for score in chosen
    ]


@pytest.mark.parametrize(
    ("scores", "settings", "eta", "words"),
    [
        ((1.0, 5.0, 9.0), {}, 0.7, None),
        (
            (0.0, 1.0, 1.0),
            {},
            0.7,
            "The NLL can never act: no chosen answer scores --model.loss.tau_good 3.2 (the best",
        ),
        (
            (5.0, 7.0, 9.0),
            {},
            0.7,
            "The NLL holds on to every chosen answer: all score --model.loss.tau_good 3.2 or more",
        ),
        ((5.0, 7.0, 9.0), {"tau_good": 8.0}, 0.7, None),
        ((10.0, 10.0), {"tau_good": 7.0}, 0.7, None),
        ((10.0, 10.0), {}, 0.7, "The NLL holds on to every chosen answer"),
        ((5.0, 7.0, 9.0), {"tau_good": -math.inf}, 0.7, None),
        ((0.0, 1.0, 1.0), {"use_nll": False}, 0.7, None),
        ((0.0, 1.0, 1.0), {"lam": 0.0}, 0.7, None),
        ((0.0, 1.0, 1.0), {"kind": "dpo"}, 0.7, None),
        ((1.0, 5.0, 9.0), {}, 0.0, "With --data.weighting.eta 0 every pair weighs 0.5"),
        ((1.0, 5.0, 9.0), {"use_quality": False}, 0.0, None),
        ((1.0, math.nan), {}, 0.7, "Omni-DPO needs scores"),
    ],
)
def test_thresholds_beside_the_scores(scores, settings, eta, words):
    messages = said(score_objections(PairLossArgs(**settings), scored(*scores), eta))
    assert len(messages) == (words is not None), messages
    assert words is None or words in messages[0]


def test_fit_says_it_once(model_dirs, tmp_path, caplog):
    rows = [{**row, "score_chosen": 1, "score_rejected": i / 3} for i, row in enumerate(ROWS)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs = data(tmp_path / "pairs.jsonl", weighting=PairWeightArgs(eta=2.0))
    with caplog.at_level(logging.WARNING):
        trainer(tmp_path, max_steps=1).fit(omni(model_dirs["student"]), pairs)
    assert caplog.text.count("The NLL can never act") == 1


@pytest.mark.parametrize(("scores", "remedy"), [((100, 0), "lower eta"), ((0.011, 0.01), "raise eta")])
def test_quality_weights_that_saturate_or_do_not_move(model_dirs, tmp_path, scores, remedy):
    rows = [{**row, "score_chosen": scores[0], "score_rejected": scores[1] + i / 1e4} for i, row in enumerate(ROWS)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.warns(UserWarning, match=f"All quality weights of --data.train are about .*{remedy}, or set"):
        trainer(tmp_path, max_steps=1).fit(omni(model_dirs["student"]), data(tmp_path / "pairs.jsonl"))
