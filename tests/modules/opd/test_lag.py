"""Lag of one rollout: the servers write the next one while this one is trained on."""

import math
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from modules.opd.test_engines import from_servers
from modules.opd.test_stopping import EACH_STEP, Steps, fit, questions, reused, stopped
from modules.opd.test_uni_opd import Recorder
from sampling.test_engines import teacher_forced
from tiny import Prompts, adam, module, prompts, trainer, weights
from transformers import AutoModelForCausalLM

from lit_uniopd.errors import UserError
from lit_uniopd.modules import LossArgs, UniOPD
from lit_uniopd.modules.opd import lag
from lit_uniopd.modules.opd.lag import LaggedRollouts
from lit_uniopd.sampling import SamplingArgs
from lit_uniopd.sampling.weight_sync import WeightSync
from lit_uniopd.types import PromptBatch

CAP = 1.02


def lagged(model_dirs: dict[str, str], servers: Any, tmp_path: Path, **options: Any) -> UniOPD:
    sampling = from_servers(servers, tmp_path, lag=1, max_drift=None)
    settings: dict[str, Any] = {"optimizer": adam, "loss": LossArgs(importance_cap=CAP, gap_threshold=None)}
    return module(model_dirs, sampling=sampling, **settings | options)


class Watch(Recorder):
    """Also the weights that each rollout was scored with."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[dict[str, torch.Tensor]] = []

    def on_rollouts_scored(self, trainer: Any, pl_module: Any, rollouts: Any) -> None:
        super().on_rollouts_scored(trainer, pl_module, rollouts)
        self.weights.append(weights(pl_module))


def logps_under(directory: str, state: dict[str, torch.Tensor], rollouts: Any) -> torch.Tensor:
    """Log-probs ``[B, T]`` by transformers alone."""
    model = AutoModelForCausalLM.from_pretrained(directory).eval()
    model.load_state_dict({name.removeprefix("policy.model."): p for name, p in state.items()}, strict=False)
    logps_BT = torch.zeros_like(rollouts.student_logps_BT)
    for row, (prompt, mask_T) in enumerate(zip(rollouts.prompt_tokens, rollouts.mask_BT, strict=True)):
        answer = rollouts.tokens_BT[row][mask_T].tolist()
        logps_BT[row, : len(answer)] = teacher_forced(model, prompt, answer, 1.0)
    return logps_BT


def rollout_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "rollout"]


def test_answers_are_those_of_the_step_before_and_weighted_by_the_student_of_now(
    rollout_servers, model_dirs, tmp_path, monkeypatch
):
    events: list[str] = []

    def noted(owner: Any, name: str, event: str) -> None:
        original = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args, **kwargs: (events.append(event), original(*args, **kwargs))[1])

    noted(lag, "begin_answers", "asked")
    noted(lag, "collect_answers", "waited")
    noted(UniOPD, "score", "scored")
    noted(UniOPD, "on_before_optimizer_step", "stepped")
    watch, model = Watch(), lagged(model_dirs, rollout_servers, tmp_path)
    steps = Steps()
    run = trainer(tmp_path, callbacks=[watch, steps], max_epochs=2)
    run.fit(model, questions(tmp_path))
    assert events == ["asked", "scored", "waited", "stepped"] * 3 + ["scored", "stepped"]
    assert rollout_threads() == []

    truncated = 0
    for step, (rollouts, metrics) in enumerate(zip(watch.rollouts, watch.metrics, strict=True)):
        now_BT = logps_under(model_dirs["student"], watch.weights[step], rollouts)
        wrote_BT = logps_under(model_dirs["student"], watch.weights[max(step - 1, 0)], rollouts)
        torch.testing.assert_close(rollouts.student_logps_BT, now_BT, atol=1e-4, rtol=0)
        torch.testing.assert_close(rollouts.sampler_logps_BT, wrote_BT, atol=1e-4, rtol=0)
        if step:
            assert float((now_BT - wrote_BT).abs().max()) > 1e-2  # else any weights would do
        advantages_BT = rollouts.teacher_logps_BT - now_BT
        weights_BT = (now_BT - wrote_BT).exp().clamp(max=CAP) * rollouts.mask_BT
        lengths_B = rollouts.mask_BT.sum(dim=1)
        loss = -((weights_BT * advantages_BT).sum(dim=1) / lengths_B).mean()
        assert metrics["train/loss"] == pytest.approx(float(loss), abs=1e-3)
        assert metrics["train/importance_weight"] == pytest.approx(float(weights_BT.sum() / lengths_B.sum()), abs=1e-4)
        assert 0 < metrics["time/rollout_overlapped"] < metrics["time/step"] or step == 3
        truncated += int((weights_BT == CAP).sum())
    assert truncated > 0


def goes_on(unbroken: UniOPD, seen: list[Any], second: UniOPD, *args: Any, **options: Any) -> None:
    """A resumed run sees and becomes what the unbroken one did."""
    again = fit(*args, **options).seen
    assert again == seen[-len(again) :]
    assert all(torch.equal(p, weights(unbroken)[name]) for name, p in weights(second).items())


@pytest.mark.slow
def test_a_checkpoint_keeps_the_rollout_that_was_written_ahead(rollout_servers, model_dirs, tmp_path, monkeypatch):
    """Of a step's end, and of a signal while the next rollout is waited for, which is then asked for again."""
    saves = {"every_n_train_steps": 1, "save_top_k": -1, "filename": "{step}"}
    whole, first, second, third = (lagged(model_dirs, rollout_servers, tmp_path) for _ in range(4))
    seen = fit(tmp_path / "whole", whole, questions(tmp_path), saves=saves).seen
    saved = [torch.load(tmp_path / f"whole/ckpt/step={step}.ckpt", weights_only=True) for step in (2, 4)]
    (state,) = saved[0]["lagged"]
    assert (state["step"], len(state["keys"]), len(state["finish"])) == (2, 4, 12)
    assert "lagged" not in saved[1]  # nothing comes after the last
    root = tmp_path / "second"
    goes_on(whole, seen, second, root, second, questions(tmp_path), tmp_path / "whole/ckpt/step=2.ckpt", saves)

    root = tmp_path / "stopped"
    stopped(monkeypatch, lag, "collect_answers", 2, root, first, questions(tmp_path))
    assert torch.load(root / "ckpt/last.ckpt", weights_only=True)["lagged"][0]["step"] == 1
    goes_on(whole, seen, third, root / "again", third, questions(tmp_path), root / "ckpt/last.ckpt")


@pytest.mark.slow
@pytest.mark.parametrize(("owner", "name", "call", "step"), [(UniOPD, "clip", 4, 4), (lag, "collect_answers", 2, 5)])
@pytest.mark.thinned(2)
def test_a_rollout_whose_weights_are_gone_is_written_to_its_end_before_the_run_stops(
    rollout_servers, model_dirs, tmp_path, monkeypatch, owner, name, call, step
):
    """After one and two of three updates; the servers also answer the held-out prompts between two steps."""
    options = reused(model_dirs)
    whole, first, second = (lagged(model_dirs, rollout_servers, tmp_path, **options) for _ in range(3))
    seen = fit(tmp_path / "whole", whole, questions(tmp_path), **EACH_STEP).seen
    root = tmp_path / "stopped"
    stopped(monkeypatch, owner, name, call, root, first, questions(tmp_path), **EACH_STEP)
    state = torch.load(root / "ckpt/last.ckpt", weights_only=True)
    assert (state["global_step"], state["lagged"][0]["step"]) == (step, 6)
    goes_on(whole, seen, second, root / "again", second, questions(tmp_path), root / "ckpt/last.ckpt", **EACH_STEP)


def test_servers_that_die_while_it_trains_are_told_in_one_sentence(rollout_servers, model_dirs, tmp_path, monkeypatch):
    publish, calls = WeightSync.publish, []

    def dying(*args: Any) -> str:
        calls.append(name := publish(*args))
        if len(calls) == 3:  # of the rollouts of the first two steps, and then of the third
            for url in rollout_servers.all:
                rollout_servers.misbehave(url, "drop")
        return name

    monkeypatch.setattr(WeightSync, "publish", dying)
    model = lagged(model_dirs, rollout_servers, tmp_path)
    expected = (
        r"^The server http\S+ broke off .*; no answer could be had from any of sampling\.server\.urls, so start it"
    )
    with pytest.raises(UserError, match=expected):
        fit(tmp_path, model, questions(tmp_path))
    assert model.trainer.global_step == 1  # the step that waits for them is not over
    for thread in rollout_threads():
        thread.join(timeout=5)
    assert rollout_threads() == []


# --------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lag": 2}, r"^sampling\.lag must be 0 or 1, got 2\.$"),
        ({"lag": 1}, r"^sampling\.lag 1 needs sampling\.server: an engine in this process would write"),
        ({"lag": 1, "engine": "vllm"}, r"^sampling\.lag 1 needs sampling\.server"),
    ],
)
def test_a_lag_that_cannot_be_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SamplingArgs(**options)


def test_the_sampled_loss_needs_weights_and_whole_distributions_do_not(rollout_servers, model_dirs, tmp_path):
    with pytest.raises(UserError, match=r"^--model\.sampling\.lag 1 trains on .*; set --model\.loss\.importance_cap 2"):
        lagged(model_dirs, rollout_servers, tmp_path, loss=LossArgs())
    model = lagged(model_dirs, rollout_servers, tmp_path, loss=LossArgs(kind="jsd"))
    assert model.val_sampling.lag == 0
    with pytest.raises(UserError, match=r"^--model\.val_sampling\.lag 1 has no meaning"):
        lagged(model_dirs, rollout_servers, tmp_path, val_sampling=model.sampling)


def test_a_loader_that_does_not_tell_what_comes_next_is_refused_before_anything_is_written(
    rollout_servers, model_dirs, tmp_path
):
    model = lagged(model_dirs, rollout_servers, tmp_path)
    rollout_servers.behave()
    with pytest.raises(UserError, match=r"^--model\.sampling\.lag 1 must know the next batch, which DataLoader does"):
        trainer(tmp_path).fit(model, Prompts(prompts(4)))
    assert [rollout_servers.counts(url)["requests"] for url in rollout_servers.all] == [0, 0]


# ------------------------------------------------------------------------------------------------ what may be taken up


def waiting(count: int, step: int = 5, ranks: int = 1) -> LaggedRollouts:
    """A rollout of ``count`` prompts in a checkpoint."""
    state = {
        "step": step,
        "keys": [prompt.teacher_key for prompt in prompts(count)],
        "seconds": 2.0,
        "finish": ["stop"] * count,
        "tokens": torch.ones(count, 1, dtype=torch.long),
        "mask": torch.ones(count, 1, dtype=torch.bool),
        "logps": torch.full((count, 1), -math.log(2)),
    }
    rollouts = LaggedRollouts()
    rollouts.load(training(), {"lagged": [state] * ranks})
    return rollouts


def training(step: int = 5, lag: int = 1) -> Any:
    """A module of one rank at a step."""
    loader = SimpleNamespace(upcoming=None)
    sampling = SimpleNamespace(lag=lag)
    return SimpleNamespace(
        phase=SimpleNamespace(sampling=sampling),
        sampling=sampling,
        trainer=SimpleNamespace(world_size=1, train_dataloader=loader),
        global_step=step,
        global_rank=0,
        device=torch.device("cpu"),
    )


def test_others_than_the_batch_of_the_step_are_written_anew():
    assert waiting(3).take(training(step=6), PromptBatch(prompts(3))) is None
    with pytest.warns(UserWarning, match="not to the prompts of this batch, .* written anew"):
        assert waiting(3).take(training(), PromptBatch(prompts(4))) is None
    with pytest.warns(UserWarning, match="that 2 rank.s. have written ahead, and now there are 1; it is written anew"):
        assert waiting(3, ranks=2).take(training(), PromptBatch(prompts(3))) is None


def test_what_has_been_trained_on_or_is_not_wanted_any_more_is_not_saved_again():
    checkpoint: dict[str, Any] = {}
    rollouts = waiting(3)
    rollouts.take(training(step=4), PromptBatch(prompts(3)))
    rollouts.save(training(step=6), checkpoint)
    assert checkpoint == {}
    rollouts.save(training(step=5), checkpoint)
    assert checkpoint["lagged"][0]["step"] == 5
    rollouts = LaggedRollouts()
    rollouts.load(training(lag=0), checkpoint)
    assert rollouts.states == []
