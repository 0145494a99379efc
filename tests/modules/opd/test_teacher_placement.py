"""Training with teachers that live elsewhere is the same training."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from tiny import Memory, Prompts, adam, module, prompts, trainer, weights

from callbacks import BenchmarkEvaluation
from lit_uniopd.benchmarks.synthetic_images import draw
from lit_uniopd.errors import UserError
from lit_uniopd.modules import LossArgs, UniOPD
from lit_uniopd.policy import PolicyArgs
from lit_uniopd.sampling import SamplingArgs
from lit_uniopd.teachers import HttpArgs, TeacherArgs


@pytest.fixture(autouse=True)
def no_naps(monkeypatch) -> None:
    monkeypatch.setattr("lit_uniopd.utils.http.time.sleep", lambda _: None)


def fitted(paths: dict[str, str], tmp_path: Any, steps: int = 2, **options: Any) -> tuple[UniOPD, dict[str, float]]:
    model, memory = module(paths, **options), Memory()
    trainer(tmp_path, logger=memory, max_steps=steps, max_epochs=-1).fit(model, Prompts(prompts(4)))
    return model, memory.values


def on_servers(urls: list[str], **options: Any) -> TeacherArgs:
    return TeacherArgs(placement="http", http=HttpArgs(urls=urls, **options))


def placed(paths: dict[str, str], placement: str, model_servers: Any, tmp_path: Any) -> dict[str, TeacherArgs]:
    """The math teacher for all prompts."""
    if placement in ("vllm", "sglang"):
        return {"default": on_servers(model_servers.urls["math"], protocol=placement)}
    cache = str(tmp_path / "cache") if placement == "disk_cache" else None
    return {"default": TeacherArgs(path=paths["math"], placement=placement, cache=cache)}  # type: ignore[arg-type]


@pytest.mark.parametrize("placement", ["cpu_offload", "disk_cache", "vllm", "sglang"])
@pytest.mark.thinned(2)
def test_training_is_that_of_a_resident_teacher(model_dirs, tmp_path, model_servers, placement):
    expected, _ = fitted(model_dirs, tmp_path, teachers={"default": PolicyArgs(path=model_dirs["math"])})
    teachers = placed(model_dirs, placement, model_servers, tmp_path)
    model, values = fitted(model_dirs, tmp_path, teachers=teachers)
    for name, value in weights(expected).items():
        torch.testing.assert_close(weights(model)[name], value, atol=1e-5, rtol=1e-5)
    assert values["rollout/teacher_failed"] == 0
    assert values.get("rollout/teacher_cached") == (0.0 if placement == "disk_cache" else None)
    if placement == "disk_cache":
        _, values = fitted(model_dirs, tmp_path, teachers=teachers)
        assert values["rollout/teacher_cached"] == 1.0


@pytest.mark.parametrize("protocol", ["vllm", "sglang"])
def test_a_student_that_is_its_own_teacher_over_http_learns_nothing(model_dirs, tmp_path, model_servers, protocol):
    own = {"default": on_servers(model_servers.urls["student"], protocol=protocol)}
    _, values = fitted(model_dirs, tmp_path, steps=1, teachers=own)
    assert abs(values["rollout/reward"]) < 1e-5
    assert values["train/grad_norm"] < 1e-4


@pytest.mark.parametrize("kind", ["reverse_kl", "topk"])
def test_an_offloaded_teacher_shows_whole_distributions(model_dirs, tmp_path, kind):
    """And answers off-policy."""
    for writer in ("student", "teacher"):
        options: dict[str, Any] = {"loss": LossArgs(kind=kind, top_k=4), "writer": writer}
        names = ("math", "code")
        expected, _ = fitted(model_dirs, tmp_path, **options)
        away = {name: TeacherArgs(path=model_dirs[name], placement="cpu_offload") for name in names}
        model, _ = fitted(model_dirs, tmp_path, teachers=away, **options)
        for name, value in weights(expected).items():
            torch.testing.assert_close(weights(model)[name], value, atol=1e-6, rtol=1e-5)


def test_failures_of_servers_are_bearable_up_to_a_share(model_dirs, tmp_path, model_servers):
    (url, _) = model_servers.urls["math"]
    teachers = {"default": on_servers([url], retries=0, requests=1)}

    class Failing(Prompts):
        """The server begins to fail once it was found to be in order."""

        def train_dataloader(self) -> Any:
            model_servers.misbehave(url, "short", times=3)
            return super().train_dataloader()

    def run(limit: float) -> dict[str, float]:
        model, memory = module(model_dirs, teachers=teachers, max_teacher_failures=limit), Memory()
        trainer(tmp_path, logger=memory, max_steps=1).fit(model, Failing(prompts(4)))
        return memory.values

    with pytest.raises(
        UserError,
        match=r"could not score 25% of the answers .*default, too many or too few log-probs: 3.*max_teacher_failures 0.2",
    ):
        run(0.2)
    assert run(0.3)["rollout/teacher_failed"] == 0.25


def test_servers_are_asked_before_any_model_is_loaded(model_dirs, tmp_path, model_servers, monkeypatch):
    monkeypatch.setattr("lit_uniopd.policy.policy.load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    teachers = {"default": on_servers(model_servers.urls["math"], model="another")}
    with pytest.raises(UserError, match=r"serves .* and not another"):
        fitted(model_dirs, tmp_path, teachers=teachers)


def test_what_greedy_answers_are_scored_at_is_temperature_1(model_dirs):
    module(model_dirs, teachers={"math": on_servers(["http://nowhere"])}, sampling=SamplingArgs(temperature=0.0))


def test_a_cache_has_no_distributions(model_dirs, tmp_path):
    cached = TeacherArgs(path=model_dirs["math"], placement="disk_cache", cache=str(tmp_path))
    with pytest.raises(UserError, match=r"--model\.loss\.kind jsd compares whole distributions, and .*disk_cache"):
        module(model_dirs, teachers={"math": cached}, loss=LossArgs(kind="jsd"))


def test_pictures_are_not_sent_to_servers(tmp_path):
    from lit_uniopd.playground.untrained import write_tiny_vision

    write_tiny_vision(tmp_path / "student", 0)
    seen = replace(prompts(1)[0], images=(draw({"drawing": "scene", "objects": ["cat"]}),))
    paths = {name: str(tmp_path / "student") for name in ("student", "math", "code")}
    model = module(paths, teachers={"math": on_servers(["http://nowhere"])})
    with pytest.raises(UserError, match=r"pictures, which are not sent to --model\.teachers\.math\.placement http;"):
        trainer(tmp_path).fit(model, Prompts([seen]))


def test_teachers_on_servers_are_not_evaluated(model_dirs):
    """They score and do not write; the run goes on."""
    model = module(model_dirs, teachers={"math": on_servers(["http://nowhere"])})
    callback: Any = BenchmarkEvaluation(teachers=True)
    with pytest.warns(UserWarning, match="Teacher 'math' is on a server, which scores answers only"):
        callback.evaluate_teachers(model)
    assert callback.teacher_scores == {}
    with pytest.raises(UserError, match=r"Teacher 'math' is on a server \(--model\.teachers\.math\.placement http\)"):
        _ = model.teachers["math"]


# --- what teachers must not do (peers' pains 6, 7, 13; C21, C22, C28) -------------------------------------------------


@pytest.mark.parametrize("placement", ["resident", "cpu_offload"])
def test_teachers_are_neither_trained_nor_saved(model_dirs, tmp_path, placement):
    """Ten steps: their weights are the same to the bit, and neither optimizer nor checkpoint knows them."""
    teachers = {name: TeacherArgs(path=model_dirs[name], placement=placement) for name in ("math", "code")}
    model = module(model_dirs, teachers=teachers, optimizer=adam)
    saver = ModelCheckpoint(dirpath=tmp_path / "ckpt", save_last=True)
    modes: Counter[bool] = Counter()
    asked: list[bool] = []
    score = model.score

    def scored(rollouts: Any) -> None:
        modes.update(part.training for part in model.policy.modules())
        score(rollouts)
        modes.update(part.training for part in model.policy.modules())
        asked.append(rollouts.advantages_BT.requires_grad or rollouts.teacher_logps_BT.requires_grad)

    model.score = scored
    fit = trainer(tmp_path, callbacks=[saver], enable_checkpointing=True, max_steps=10, max_epochs=-1)
    fit.fit(model, Prompts(prompts(4)))
    assert fit.global_step == 10
    assert set(modes) == {True}  # the student was in train mode and stayed so
    assert not any(asked)
    fresh = module(model_dirs, teachers=teachers)
    fresh.trainer = fit
    fresh.trainer.state.fn = "fit"  # type: ignore[assignment]
    fresh.configure_model()
    for name in teachers:
        now, then = model.teachers[name], fresh.teachers[name]
        assert all(torch.equal(p, q) for p, q in zip(now.parameters(), then.parameters(), strict=True))
        assert not any(p.requires_grad or p.grad is not None for p in now.parameters())
        assert not any(part.training for part in now.modules())
    ours = {id(p) for p in model.policy.parameters()}
    assert {id(p) for group in fit.optimizers[0].param_groups for p in group["params"]} == ours
    saved = torch.load(tmp_path / "ckpt/last.ckpt", weights_only=True)
    assert saved["state_dict"].keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    assert not any("teacher" in name for name, _ in model.named_parameters())
    # Weights and Adam's two moments of the student, and little else.
    size = sum(p.numel() * p.element_size() for p in model.policy.parameters())
    assert (tmp_path / "ckpt/last.ckpt").stat().st_size < 3.5 * size
