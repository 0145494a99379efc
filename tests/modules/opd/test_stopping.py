"""SIGTERM at every place of a run, and the resumed run that must equal an unbroken one."""

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from serving import ModelServers
from tiny import adam, module, prompts, trainer, weights

from datamodules import PairSourceArgs, PreferenceDataModule, PromptDataModule, SourceArgs
from lit_uniopd.errors import UserError
from lit_uniopd.modules import OmniDPO, PairLossArgs, UniOPD
from lit_uniopd.policy import LoraArgs, Policy, PolicyArgs
from lit_uniopd.sampling import engine_loop
from lit_uniopd.schedules import WarmupCosine
from lit_uniopd.teachers import HttpArgs, TeacherArgs
from lit_uniopd.teachers.pool import TeacherPool
from lit_uniopd.utils.stop_request import Stopped


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


class Steps(Callback):
    """What happened when: x-axis of the curves, optimizer steps, what was said of them, and whole validations."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.step = trainer.global_step

    def on_train_batch_end(self, trainer: Any, *_: Any, **__: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        # Values are logged when the optimizer steps, of all batches that were accumulated.
        values = of_kind(trainer, "train/") if trainer.global_step > self.step else None
        self.step = trainer.global_step
        self.seen.append((trainer.fit_loop.epoch_loop._batches_that_stepped, trainer.global_step, values))

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        self.seen.append(("validated", trainer.global_step, of_kind(trainer, "val/")))


def of_kind(trainer: Trainer, kind: str) -> dict[str, float]:
    return {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith(kind)}


class At:
    """Sends the signal at the n-th call of a method."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, call: int) -> None:
        original, self.calls = getattr(owner, name), 0

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if self.calls == call:
                terminate()
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, wrapped)


def fit(
    root: Path, model: Any, data: Any, ckpt_path: Any = None, saves: dict[str, Any] | None = None, **options: Any
) -> Steps:
    steps = Steps()
    saver = ModelCheckpoint(root / "ckpt", save_last=True, **(saves or {"every_n_train_steps": 1000}))
    settings = {"enable_checkpointing": True, "callbacks": [saver, steps], "max_epochs": 2, **options}
    run: Trainer = trainer(root, **settings)
    run.fit(model, data, ckpt_path=ckpt_path, weights_only=True)
    return steps


def stopped(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, call: int, *args: Any, **kwargs: Any) -> Stopped:
    """``fit`` until the signal comes."""
    with monkeypatch.context() as patch:
        At(patch, owner, name, call)
        with pytest.raises(Stopped) as stop:
            fit(*args, **kwargs)
    return stop.value


def questions(root: Path) -> PromptDataModule:
    """10 rows in batches of 4: two rollouts in an epoch, and two rows that open the next."""
    rows = [
        {"prompt": p.messages[0]["content"], "answer": p.gold, "domain": p.domain, "grader": "exact"}
        for p in prompts(10)
    ]
    path = root / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = SourceArgs(path=str(path))
    return PromptDataModule(train=source, val=SourceArgs(path=str(path), limit=3), batch_size=4, seed=3)


EACH_STEP: dict[str, Any] = {"limit_val_batches": 1.0, "num_sanity_val_steps": 0, "val_check_interval": 1}


def reused(model_dirs: dict[str, str]) -> dict[str, Any]:
    """Options of a run that makes three updates of each rollout, in several micro-batches."""
    student = PolicyArgs(path=model_dirs["student"], lora=LoraArgs(rank=4, alpha=8, dropout=0.1))
    schedule = {"optimizer": adam, "lr_scheduler": lambda optimizer: WarmupCosine(optimizer, 0.25)}
    return {"student": student, "updates_per_rollout": 3, "micro_batch_tokens": 40, **schedule}


@pytest.fixture(scope="module")
def unbroken(model_dirs: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What happens, and where it ends, if nobody stops it."""
    root = tmp_path_factory.mktemp("unbroken")
    torch.set_num_threads(1)
    model = module(model_dirs, **reused(model_dirs))
    seen = fit(root, model, questions(root), **EACH_STEP).seen
    assert [step for _, step, _ in seen] == [3, 3, 6, 6, 9, 9, 12, 12]
    return seen, weights(model)


@pytest.mark.parametrize(
    ("place", "call", "step", "words"),
    [
        ((UniOPD, "answer"), 1, 0, "at step 0: nothing was trained yet"),
        ((UniOPD, "answer"), 3, 6, "at step 6; saved"),
        ((UniOPD, "score"), 2, 3, "at step 3; saved"),
        ((UniOPD, "on_train_batch_start"), 3, 6, "at step 6; saved"),
        ((UniOPD, "visit"), 1, 0, r"at step 0 \(0 of 3 updates"),
        ((UniOPD, "clip"), 1, 1, r"at step 1 \(1 of 3 updates"),
        ((UniOPD, "clip"), 5, 5, r"at step 5 \(2 of 3 updates"),  # in the last batch of an epoch
        ((UniOPD, "micro_loss"), 9, 4, r"at step 4 \(1 of 3 updates"),  # between two micro-batches
        ((UniOPD, "validation_step"), 1, 3, "at step 3; saved"),
        ((UniOPD, "validation_step"), 2, 6, "at step 6; saved"),
    ],
)
@pytest.mark.thinned(6)
def test_sigterm_anywhere_loses_nothing(model_dirs, unbroken, tmp_path, monkeypatch, caplog, place, call, step, words):
    options = reused(model_dirs)
    model = module(model_dirs, **options)
    stop = stopped(monkeypatch, *place, call, tmp_path / "first", model, questions(tmp_path), **EACH_STEP)
    assert stop.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert re.search(f"Stopped by SIGTERM {words}", caplog.text)
    last = tmp_path / "first/ckpt/last.ckpt"
    torch.rand(5)
    if "nothing was trained" in words:
        assert not last.exists()
        return
    assert torch.load(last, weights_only=True)["global_step"] == step

    second = module(model_dirs, **options)
    resumed = fit(tmp_path / "second", second, questions(tmp_path), ckpt_path=last, **EACH_STEP)
    seen, ended = unbroken
    assert resumed.seen == seen[-len(resumed.seen) :]
    assert all(torch.equal(p, ended[name]) for name, p in weights(second).items())


def test_a_checkpoint_of_a_validations_end_does_not_validate_again(model_dirs, tmp_path):
    limits = {
        "limit_val_batches": 1.0,
        "num_sanity_val_steps": 0,
        "val_check_interval": 3,
        "check_val_every_n_epoch": None,
    }
    saves = {"monitor": "val/accuracy", "save_top_k": -1, "filename": "{step}"}
    whole = fit(tmp_path / "whole", module(model_dirs, optimizer=adam), questions(tmp_path), saves=saves, **limits)
    last = tmp_path / "whole/ckpt/step=3.ckpt"
    resumed = fit(tmp_path / "second", module(model_dirs, optimizer=adam), questions(tmp_path), last, saves, **limits)
    assert resumed.seen == whole.seen[-len(resumed.seen) :]
    assert [step for _, step, _ in whole.seen] == [1, 2, 3, 3, 4]
    assert [step for _, step, _ in resumed.seen] == [4]


def preferences(root: Path) -> PreferenceDataModule:
    rows = [
        {"prompt": f"{i}=", "chosen": "a" * (i + 1), "rejected": "b", "score_chosen": i, "score_rejected": i / 2}
        for i in range(9)
    ]
    (root / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = PairSourceArgs(path=str(root / "pairs.jsonl"))
    return PreferenceDataModule(train=source, val=source, batch_size=2, val_batch_size=4, seed=5)


@pytest.mark.parametrize(
    ("place", "call", "step"), [("training_step", 3, 1), ("training_step", 4, 2), ("validation_step", 2, 2)]
)
def test_automatic_optimization_stops_where_no_gradient_is_lost(
    model_dirs, tmp_path, monkeypatch, caplog, place, call, step
):
    """4 batches in an epoch, gradients of two of them accumulated; the third batch's are given up and made again."""

    def model() -> OmniDPO:
        policy = PolicyArgs(path=model_dirs["student"], lora=LoraArgs(rank=4, alpha=8, dropout=0.1))
        return OmniDPO(policy, PairLossArgs(lam=0.2, tau_good=1.0), optimizer=adam, seed=3)

    limits = {"limit_val_batches": 1.0, "num_sanity_val_steps": 0, "accumulate_grad_batches": 2}
    whole = model()
    unbroken = fit(tmp_path / "whole", whole, preferences(tmp_path), **limits)
    stopped(monkeypatch, OmniDPO, place, call, tmp_path / "first", model(), preferences(tmp_path), **limits)
    assert f"at step {step}; saved" in caplog.text
    second = model()
    resumed = fit(tmp_path / "second", second, preferences(tmp_path), tmp_path / "first/ckpt/last.ckpt", **limits)
    assert resumed.seen == unbroken.seen[-len(resumed.seen) :]
    assert resumed.seen[0][1] == step
    for (name, p), q in zip(whole.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(p, q), name


def test_a_signal_ends_sampling_at_the_next_token_and_prediction_without_a_checkpoint(
    model_dirs, tmp_path, monkeypatch, caplog
):
    drawn = At(monkeypatch, engine_loop, "sample_token", 3)
    with pytest.raises(Stopped) as stop:
        trainer(tmp_path).predict(module(model_dirs), questions(tmp_path))
    assert stop.value.code == 143
    assert drawn.calls == 3
    assert "Stopped by SIGTERM before the end; what is recorded is kept" in caplog.text


def test_ctrl_c_saves_and_a_second_one_stops_at_once(model_dirs, tmp_path, monkeypatch):
    saver = ModelCheckpoint(dirpath=tmp_path / "ckpt", save_last=True, every_n_train_steps=1000)
    run = trainer(tmp_path, enable_checkpointing=True, callbacks=[saver])
    monkeypatch.setattr(UniOPD, "visit", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Stopped) as stop:
        run.fit(module(model_dirs), questions(tmp_path))
    assert stop.value.code == 130
    assert (tmp_path / "ckpt/last.ckpt").exists()

    went_on = []

    def twice(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        went_on.append(True)

    monkeypatch.setattr(UniOPD, "visit", twice)
    with pytest.raises(SystemExit) as stop:
        trainer(tmp_path).fit(module(model_dirs), questions(tmp_path))
    assert stop.value.code == 1  # Lightning's, for a KeyboardInterrupt
    assert not went_on
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning leaves it ignored


def test_a_rollout_left_over_from_other_batches_is_written_anew(model_dirs, tmp_path, monkeypatch):
    options: dict[str, Any] = {"updates_per_rollout": 3}
    stopped(monkeypatch, UniOPD, "clip", 2, tmp_path / "first", module(model_dirs, **options), questions(tmp_path))
    last = tmp_path / "first/ckpt/last.ckpt"
    data = questions(tmp_path)
    data.batch_size = 5
    with pytest.warns(UserWarning, match="after 2 of 3 updates .* the answers to this batch are written anew"):
        resumed = fit(tmp_path / "second", module(model_dirs, **options), data, last, max_epochs=1)
    assert [step for _, step, _ in resumed.seen] == [5, 8]


def test_only_checkpoints_between_updates_hold_rollouts(model_dirs, tmp_path, monkeypatch):
    fit(tmp_path, module(model_dirs), questions(tmp_path), max_epochs=1)
    assert "rollouts" not in torch.load(tmp_path / "ckpt/last.ckpt", weights_only=True)
    stopped(monkeypatch, UniOPD, "visit", 1, tmp_path / "stopped", module(model_dirs), questions(tmp_path))
    left = torch.load(tmp_path / "stopped/ckpt/last.ckpt", weights_only=True)["rollouts"]
    assert left[0]["rollouts"]["tokens_BT"].shape[0] == 12
    assert len(left[0]["prompts"]) == 4


def test_a_dead_teacher_stops_the_run_in_one_sentence_after_the_last_whole_checkpoint(
    model_dirs, tmp_path, monkeypatch
):
    """A server process with the teacher behind it, which is killed in the third step."""
    monkeypatch.setattr("lit_uniopd.utils.http.time.sleep", lambda _: None)
    servers = ModelServers([("math", model_dirs["math"])])
    http = HttpArgs(urls=servers.urls["math"], retries=1)
    model = module(model_dirs, teachers={"default": TeacherArgs(placement="http", http=http)})
    saver = ModelCheckpoint(dirpath=tmp_path / "ckpt", save_last=True, every_n_train_steps=1)
    score = TeacherPool.score

    def score_until_dead(pool: TeacherPool, *args: Any, **kwargs: Any) -> Any:
        if model.global_step == 2:
            servers.close()
        return score(pool, *args, **kwargs)

    monkeypatch.setattr(TeacherPool, "score", score_until_dead)
    run = trainer(tmp_path, enable_checkpointing=True, callbacks=[saver], max_epochs=2)
    with pytest.raises(UserError, match=r"could not score 100% of the answers of step 2 .*; mend the teacher"):
        run.fit(model, questions(tmp_path))
    assert servers.process.returncode is not None
    assert torch.load(tmp_path / "ckpt/last.ckpt", weights_only=True)["global_step"] == 2


def test_teachers_stay_as_they_are_and_out_of_optimizer_and_checkpoint(model_dirs, tmp_path):
    """Peers' bugs: teachers that are trained, get optimizer states, or lie in every checkpoint."""
    student = PolicyArgs(path=model_dirs["student"], lora=LoraArgs(rank=2))
    model = module(model_dirs, student=student, optimizer=adam, updates_per_rollout=3)
    fit(tmp_path, model, questions(tmp_path))
    assert model.training
    for name in model.teachers:
        fresh = dict(Policy.load(PolicyArgs(path=model_dirs[name]), trainable=False).named_parameters())
        for key, p in model.teachers[name].named_parameters():
            assert not p.requires_grad
            assert torch.equal(p, fresh[key])
    checkpoint = torch.load(tmp_path / "ckpt/last.ckpt", weights_only=True)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert sorted(checkpoint["state_dict"]) == sorted(trained)
    assert len(checkpoint["optimizer_states"][0]["state"]) == len(trained)
    numbers = 3 * sum(p.numel() for p in model.parameters() if p.requires_grad)  # weights and Adam's two moments
    assert (tmp_path / "ckpt/last.ckpt").stat().st_size < 4 * numbers + 100_000  # and a kilobyte of pickle a tensor
