"""Training on answers of an engine with kernels of its own."""

import math
from typing import Any

import pytest
import torch
from modules.test_uni_opd import run
from tiny import weights

from lit_uniopd.engines import continuous
from lit_uniopd.errors import UserError
from lit_uniopd.modules import LossArgs
from lit_uniopd.sampling import SamplingArgs

CB = SamplingArgs(n=3, max_new_tokens=6, engine="cb")


def test_the_trainer_computes_the_log_probs_again_and_logs_how_far_off_the_engine_is(model_dirs, tmp_path, monkeypatch):
    _, own = run(model_dirs, tmp_path / "own", sampling=CB)
    exact, metrics = own.rollouts[0], own.metrics[0]
    torch.testing.assert_close(exact.sampler_logps_BT, exact.student_logps_BT, atol=1e-4, rtol=0)
    assert not torch.equal(exact.sampler_logps_BT, exact.student_logps_BT)  # not merely copied
    assert 0 < metrics["rollout/engine_drift"] < metrics["rollout/engine_drift_max"] < 1e-4
    assert 0 <= metrics["rollout/engine_kl"] < 1e-8
    assert metrics["rollout/engine_drift_above_0.1"] == metrics["rollout/engine_drift_above_1"] == 0

    write = continuous.write

    def drifting(run_: Any) -> None:
        write(run_)
        run_.logps_BT[:, 0] += 1.5  # the first token of each answer
        run_.logps_BT[:, 1] -= 0.5

    monkeypatch.setattr(continuous, "write", drifting)
    off, other = run(model_dirs, tmp_path / "off", sampling=CB)
    tokens, metrics = int(other.rollouts[0].mask_BT.sum()), other.metrics[0]
    first, second = 12, int(other.rollouts[0].mask_BT[:, 1].sum())
    torch.testing.assert_close(other.rollouts[0].student_logps_BT, exact.student_logps_BT)
    torch.testing.assert_close(other.rollouts[0].advantages_BT, exact.advantages_BT)
    assert metrics["rollout/engine_drift"] == pytest.approx((1.5 * first + 0.5 * second) / tokens, abs=1e-5)
    assert metrics["rollout/engine_drift_max"] == pytest.approx(1.5, abs=1e-5)
    assert metrics["rollout/engine_drift_above_1"] == pytest.approx(first / tokens)
    assert metrics["rollout/engine_drift_above_0.1"] == pytest.approx((first + second) / tokens)
    kl = first * (math.exp(-1.5) - 1 + 1.5) + second * (math.exp(0.5) - 1 - 0.5)
    assert metrics["rollout/engine_kl"] == pytest.approx(kl / tokens, abs=1e-5)

    weighted, last = run(model_dirs, tmp_path / "weighted", sampling=CB, loss=LossArgs(importance_cap=1.2))
    total = first * math.exp(-1.5) + second * 1.2 + (tokens - first - second)
    assert last.metrics[0]["train/importance_weight"] == pytest.approx(total / tokens, abs=1e-4)
    assert last.metrics[0]["train/importance_truncated"] == pytest.approx(second / tokens)
    assert last.metrics[0]["train/loss"] != pytest.approx(metrics["train/loss"], rel=1e-2)
    assert any(not torch.equal(p, weights(off)[name]) for name, p in weights(weighted).items())


def test_weights_of_an_engine_without_drift_change_nothing(model_dirs, tmp_path):
    plain, _ = run(model_dirs, tmp_path / "plain")
    weighted, recorder = run(model_dirs, tmp_path / "weighted", loss=LossArgs(importance_cap=2.0))
    assert recorder.metrics[0]["train/importance_weight"] == 1
    assert recorder.metrics[0]["train/importance_truncated"] == 0
    assert "rollout/engine_drift" not in recorder.metrics[0]
    assert all(torch.equal(p, weights(plain)[name]) for name, p in weights(weighted).items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"importance_cap": 0.0}, r"^--model\.loss\.importance_cap must be positive or null, got 0\.0\.$"),
        ({"importance_cap": 2.0, "kind": "jsd"}, r"^--model\.loss\.importance_cap has no meaning for .* jsd"),
    ],
)
def test_mistakes_are_named(options: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        LossArgs(**options)
