"""Presets are added behind any other config; that of the released code gives the released code's numbers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from callbacks_data import rollouts

from callbacks import MarginCalibration, OrderDiagnostics
from datamodules.balancing import OnlineBalanceArgs, balance_rollouts
from lit_uniopd.cli import main

ROOT = Path(__file__).parents[2]
PRESETS = ROOT / "configs/uni_opd/presets"
GOLDEN = ROOT / "tests/golden"
ENDS = ("right", "wrong")
OUTCOMES = {True: 1, False: 0, None: -1}


def preset(name: str) -> tuple[MarginCalibration, OnlineBalanceArgs]:
    config = yaml.safe_load((PRESETS / f"{name}.yaml").read_text())
    (calibration,) = [
        entry["init_args"]
        for entry in config["trainer"]["callbacks+"]
        if entry["class_path"] == "callbacks.MarginCalibration"
    ]
    return MarginCalibration(**calibration), OnlineBalanceArgs(**config["data"]["init_args"]["online_balance"])


def golden(name: str) -> dict[str, Any]:
    return json.loads((GOLDEN / f"uni_opd_{name}.json").read_text())


def golden_rollouts(inputs: dict[str, Any]) -> Any:
    outcomes = [OUTCOMES[label] for label in inputs["response_correct"]]
    return rollouts(inputs["token_advantages"], outcomes, inputs["group_index"])


def test_the_released_preset_shifts_as_the_released_code_does():
    shift = golden("margin_shift")
    (case,) = [case for case in shift["cases"] if case["name"] == "text_main_setting"]
    calibration, _ = preset("released_code")
    result = calibration.calibrate(golden_rollouts(shift["inputs"]))
    torch.testing.assert_close(result.shift_B, torch.tensor(case["per_sample_shift"]), rtol=0, atol=1e-6)


def test_the_multimodal_preset_lifts_only_the_violated_group():
    """Group 10 has a margin of -.125; its correct answers are the first and the third."""
    calibration, _ = preset("paper_multimodal")
    result = calibration.calibrate(golden_rollouts(golden("margin_shift")["inputs"]))
    torch.testing.assert_close(result.shift_B, torch.tensor([0.125, 0, 0.125] + [0] * 15), rtol=0, atol=1e-6)


def test_the_equations_preset_is_the_official_function_but_for_delta():
    shift = golden("margin_shift")
    (case,) = [case for case in shift["cases"] if case["name"] == "group_minmax_correct_up_paper_eq11"]
    calibration, _ = preset("paper_equations")
    calibration.delta = case["delta"]  # the equations leave it open
    result = calibration.calibrate(golden_rollouts(shift["inputs"]))
    torch.testing.assert_close(result.shift_B, torch.tensor(case["per_sample_shift"]), rtol=0, atol=1e-6)


def test_the_first_version_drops_groups_in_the_wrong_order():
    """Of the golden groups, those whose worst right answer is below their best wrong one, counted one by one."""
    inputs = golden("margin_shift")["inputs"]
    batch = golden_rollouts(inputs)
    calibration, _ = preset("first_version")
    # As rollouts hold them: in float32, the mean of .3 and -.1 in group 14 is a little above .1.
    means = [np.float32(row).astype(float).mean() for row in inputs["token_advantages"]]
    labels = list(zip(inputs["group_index"], inputs["response_correct"], means, strict=True))
    inverted = {
        group
        for group, right, mean in labels
        if right is True and any(g == group and r is False and m > mean for g, r, m in labels)
    }
    dropped = calibration.calibrate(batch).masked_B.tolist()
    assert inverted
    assert dropped == [group in inverted for group in inputs["group_index"]]


def test_the_mask_preset_drops_whom_the_released_code_drops():
    mask = golden("margin_mask")
    (case,) = [case for case in mask["cases"] if case["name"] == "group_mean_d0.4_r0.25"]
    calibration, _ = preset("mask")
    result = calibration.calibrate(golden_rollouts(mask["inputs"]))
    assert result.masked_B.nonzero()[:, 0].tolist() == case["masked_sample_indices_1rank"]


def test_the_released_preset_balances_as_the_released_code_does():
    balance = golden("online_balance")
    (case,) = [case for case in balance["cases"] if (case["scope"], case["ratio"]) == ("sample", 1.0)]
    labels = [label for group in balance["groups"] for label in group]
    groups = [i for i, group in enumerate(balance["groups"]) for _ in group]
    batch = rollouts([[0.0]] * len(labels), [OUTCOMES[label] for label in labels], groups)
    _, args = preset("released_code")
    balance_rollouts(batch, args, seed=0)
    for group, expected in enumerate(case["kept_per_group"]):
        outcomes = batch.outcome_B[batch.keep_B & (batch.group_B == group)].tolist()
        correct = outcomes.count(1)
        assert (correct, len(outcomes) - correct) == (expected.get("correct", 0), expected.get("not_correct", 0))


def test_paper_and_released_code_differ_in_what_makes_a_margin():
    """Peers' traps C14 to C17: removed, unscored and gap-masked answers, and unknown outcomes."""
    paper, released = (preset(name) for name in ("paper_text", "released_code"))
    batch = rollouts([[0.1], [-0.1], [-9.0]], [1, 0, 1], [0, 0, 0])
    batch.keep_B[2] = False
    assert paper[0].calibrate(batch).margin_before.item() == pytest.approx(0.2)
    assert released[0].calibrate(batch).margin_before.item() == pytest.approx((0.1 - 9) / 2 + 0.1)
    assert (paper[1].unknown, released[1].unknown) == ("excluded", "incorrect")


@pytest.mark.parametrize("name", sorted(path.stem for path in PRESETS.glob("*.yaml")))
@pytest.mark.thinned(4)
def test_every_preset_parses_behind_the_quickstart(name, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "-c", "configs/quickstart.yaml", "-c", str(PRESETS / f"{name}.yaml"), "--print_config"])
    assert stopped.value.code == 0
    config = yaml.safe_load(capsys.readouterr().out)
    kinds = [entry["class_path"].rsplit(".", 1)[1] for entry in config["trainer"]["callbacks"]]
    assert "RolloutBrowser" in kinds  # those of the quickstart are still there
    if name in (shapes := {"offline_balance": "auto", **{f"drop_all_{end}": f"drop_all_{end}" for end in ENDS}}):
        assert config["data"]["init_args"]["difficulty"]["shape"] == shapes[name]
    else:
        assert kinds[-2:] == [MarginCalibration.__name__, OrderDiagnostics.__name__]
        assert config["data"]["init_args"]["online_balance"]["ratio"] == 1.0
    loss = config["model"]["init_args"]["loss"]
    assert (loss["gap_threshold"], loss["gap_mask_ends"]) == (10.0, name == "released_code")
