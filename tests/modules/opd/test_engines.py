"""Training on answers of an engine with kernels of its own."""

import math
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from lightning import Callback
from modules.opd.test_uni_opd import run
from tiny import Prompts, module, prompts, trainer, weights

from lit_uniopd.errors import UserError
from lit_uniopd.modules import LossArgs
from lit_uniopd.policy import LoraArgs, PolicyArgs
from lit_uniopd.sampling import ColocateArgs, SamplingArgs, engine_loop, engine_vllm_colocated
from lit_uniopd.sampling.args import ServerArgs

VLLM = SamplingArgs(n=3, max_new_tokens=6, engine="vllm")
FAR = SamplingArgs(n=3, max_new_tokens=6, engine="vllm", colocate=ColocateArgs(max_drift=None))


def answered_by_the_loop(monkeypatch: Any, first: float, second: float) -> None:
    """In vLLM's place: the loop, with other log-probs of the first and the second token of each answer."""

    def write(request: Any) -> Any:
        buffer = engine_loop.write(request)
        buffer.logps_BT[:, 0] += first
        buffer.logps_BT[:, 1] -= second
        return buffer

    monkeypatch.setattr(engine_vllm_colocated, "check_installed", lambda: None)
    monkeypatch.setattr(engine_vllm_colocated, "write", write)


def test_the_trainer_computes_the_log_probs_again_and_logs_how_far_off_the_engine_is(model_dirs, tmp_path, monkeypatch):
    answered_by_the_loop(monkeypatch, 1e-5, 1e-5)
    _, own = run(model_dirs, tmp_path / "own", sampling=VLLM)
    exact, metrics = own.rollouts[0], own.metrics[0]
    torch.testing.assert_close(exact.sampler_logps_BT, exact.student_logps_BT, atol=1e-4, rtol=0)
    assert not torch.equal(exact.sampler_logps_BT, exact.student_logps_BT)  # not merely copied
    assert 0 < metrics["rollout/engine_drift"] < metrics["rollout/engine_drift_max"] < 1e-4
    assert 0 <= metrics["rollout/engine_kl"] < 1e-8
    assert metrics["rollout/engine_drift_above_0.1"] == metrics["rollout/engine_drift_above_1"] == 0

    answered_by_the_loop(monkeypatch, 1.5, 0.5)
    off, other = run(model_dirs, tmp_path / "off", sampling=FAR)
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

    weighted, last = run(model_dirs, tmp_path / "weighted", sampling=FAR, loss=LossArgs(importance_cap=1.2))
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


# ------------------------------------------------------------------------------------------------------- vLLM servers


def from_servers(rollout_servers: Any, tmp_path: Any, **options: Any) -> SamplingArgs:
    server = {"urls": rollout_servers.all, "model": "student", "directory": str(tmp_path / "weights"), "retries": 1}
    own = {name: options.pop(name) for name in ("sync", "max_drift") if name in options}
    settings: dict[str, Any] = {"n": 3, "max_new_tokens": 6, **options}
    return SamplingArgs(**settings, engine="vllm", server=ServerArgs(**server | own))


@pytest.mark.parametrize("lora", [None, LoraArgs(rank=4, alpha=8)])
@pytest.mark.thinned(2)
def test_servers_sample_from_the_student_of_every_step(rollout_servers, model_dirs, tmp_path, lora) -> None:
    student = PolicyArgs(path=model_dirs["student"], lora=lora)
    options: dict[str, Any] = {"student": student, "optimizer": large_steps, "count": 12}
    _, recorder = run(model_dirs, tmp_path, sampling=from_servers(rollout_servers, tmp_path), **options)
    assert len(recorder.metrics) == 3
    assert all(metrics["rollout/engine_drift_max"] < 1e-3 for metrics in recorder.metrics)
    assert len(list((tmp_path / "weights").glob("uniopd-*"))) == 1
    first, last = recorder.rollouts[0], recorder.rollouts[-1]
    assert set(first.finish) <= {"stop", "length"}
    expected = (last.teacher_logps_BT - last.student_logps_BT) * last.mask_BT
    torch.testing.assert_close(last.advantages_BT, expected)


def large_steps(params: Any) -> torch.optim.Optimizer:
    """Stale weights would show in the log-probs."""
    return torch.optim.AdamW(params, lr=0.03)


@pytest.mark.parametrize("sync", ["adapter", "reload"])
def test_a_server_that_goes_on_with_old_weights_stops_the_run(rollout_servers, model_dirs, tmp_path, sync) -> None:
    student = PolicyArgs(path=model_dirs["student"], lora=LoraArgs(rank=4, alpha=8))
    sampling = from_servers(rollout_servers, tmp_path, sync=sync, max_drift=0.02)

    class Stale(Callback):
        def on_train_batch_end(self, *_: Any, **__: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
            for url in rollout_servers.all:
                rollout_servers.misbehave(url, "stale")

    options: dict[str, Any] = {"student": student, "optimizer": large_steps, "count": 12, "callbacks": (Stale(),)}
    with pytest.raises(
        UserError, match=r"^The server http\S+ kept old weights: the student's log-probs have changed and the engine's"
    ):
        run(model_dirs, tmp_path, sampling=sampling, **options)


def test_a_server_of_another_model_is_noticed_before_any_model_is_loaded(rollout_servers, model_dirs, tmp_path) -> None:
    student = PolicyArgs(path="./no-such-model")
    sampling = from_servers(rollout_servers, tmp_path)
    assert sampling.server is not None
    sampling.server.model = "another"
    model = module(model_dirs, student=student, sampling=sampling)
    model.prepare_data = lambda: None  # type: ignore[method-assign]
    with pytest.raises(UserError, match=r"serves student, not sampling\.server\.model another"):
        trainer(tmp_path).fit(model, Prompts(prompts(4)))


def test_a_teacher_that_writes_does_not_write_on_the_students_servers(rollout_servers, model_dirs, tmp_path) -> None:
    with pytest.raises(
        UserError, match=r"^--model\.sampling\.engine vllm serves the student; with --model\.writer teacher"
    ):
        module(
            model_dirs, sampling=from_servers(rollout_servers, tmp_path), writer="teacher", loss=LossArgs(kind="jsd")
        )


# ------------------------------------------------------------------------------------------------ vLLM in this process


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed; tests/engines runs it")
def test_without_vllm_the_run_stops_before_a_model_is_loaded(model_dirs, tmp_path) -> None:
    student = PolicyArgs(path=model_dirs["student"])
    model = module(model_dirs, student=student, sampling=SamplingArgs(n=2, max_new_tokens=4, engine="vllm"))
    with pytest.raises(
        UserError, match=r"needs vLLM in this environment; install it by `pip install 'lit_uniopd\[vllm\]'`, name"
    ):
        trainer(tmp_path).fit(model, Prompts(prompts(4)))
    assert "policy" not in model._modules


@pytest.mark.parametrize(
    ("field", "value"),
    [("gpu_memory_utilization", 0.0), ("kv_cache_gib", 0), ("max_model_len", 1), ("max_drift", -1.0)],
)
def test_a_wrong_option_of_it_is_named(field: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"^sampling\.colocate\.{field} must be"):
        ColocateArgs(**{field: value})


@pytest.mark.parametrize("engine", ["loop", "generate"])
def test_its_options_do_nothing_elsewhere_and_are_refused_there(engine: Any) -> None:
    with pytest.raises(UserError, match=r"^sampling\.colocate is of vLLM in this process; set sampling\.engine=vllm"):
        SamplingArgs(engine=engine, colocate=ColocateArgs(max_model_len=100))
