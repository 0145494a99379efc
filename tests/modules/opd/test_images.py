"""Distillation with pictures: scoring, gradients and batches that mix pictures with text."""

from typing import Any

import pytest
import torch
from tiny import Prompts, module, prompts, trainer, weights

from lit_uniopd.benchmarks.synthetic_images import draw
from lit_uniopd.errors import UserError
from lit_uniopd.modules import SFT
from lit_uniopd.playground.untrained import write_tiny_vision
from lit_uniopd.policy import PolicyArgs
from lit_uniopd.sampling import SamplingArgs
from lit_uniopd.types import Prompt

SCENE = draw({"drawing": "scene", "objects": ["cat", "dog"]})
TALL = draw({"drawing": "shapes", "items": [["circle", "red", 0.5, 0.5, 0.5]]}).resize((64, 160))


@pytest.fixture(scope="module")
def seeing(tmp_path_factory) -> dict[str, str]:
    paths = {}
    for seed, name in enumerate(("student", "math", "code")):
        paths[name] = str(tmp_path_factory.mktemp("vision") / name)
        write_tiny_vision(paths[name], seed)  # type: ignore[arg-type]
    return paths


def mixed() -> list[Prompt]:
    """Two pictures, none, one; of two teachers."""
    found = []
    for i, images in enumerate([(SCENE, TALL), (), (TALL,), ()]):
        parts: list[Any] = [{"type": "image"}] * len(images) + [{"type": "text", "text": "what? " * (3 * i + 1)}]
        found.append(
            Prompt(
                id=f"p{i}",
                messages=({"role": "user", "content": parts},),
                images=images,
                gold="a",
                grader="exact",
                domain=["math", "code"][i // 2],
            )
        )
    return found


def fitted(seeing: dict[str, str], tmp_path: Any, **options: Any) -> tuple[Any, dict[str, float]]:
    model = module(seeing, sampling=SamplingArgs(n=2, max_new_tokens=6), **options)
    runner = trainer(tmp_path)
    runner.fit(model, Prompts(mixed()))
    return model, {name: float(value) for name, value in runner.callback_metrics.items()}


@pytest.mark.parametrize("kind", ["sampled", "reverse_kl"])
def test_the_update_does_not_depend_on_micro_batches(seeing, tmp_path, kind):
    from lit_uniopd.modules.opd.losses import LossArgs

    whole, _ = fitted(seeing, tmp_path, micro_batch_tokens=100_000, loss=LossArgs(kind=kind))
    parts, _ = fitted(seeing, tmp_path, micro_batch_tokens=1, loss=LossArgs(kind=kind))
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(parts)[name], value, atol=1e-6, rtol=1e-5)


def test_pictures_reach_the_gradient_of_their_tower(seeing, tmp_path):
    model, _ = fitted(seeing, tmp_path)
    grads = {name: p.grad for name, p in model.named_parameters() if "vision_tower" in name and p.grad is not None}
    assert max(float(grad.abs().max()) for grad in grads.values()) > 0


def test_a_student_that_teaches_itself_learns_nothing(seeing, tmp_path):
    """Sampling with a cache, scoring and the update's forward see the same pictures at the same places."""
    same: dict[str, str] = dict.fromkeys(list(seeing), seeing["student"])
    _, logged = fitted(same, tmp_path)
    assert abs(logged["rollout/reward"]) < 1e-5
    assert logged["train/logp_drift"] < 1e-5
    assert logged["train/grad_norm"] < 1e-3
    assert fitted(seeing, tmp_path)[1]["train/grad_norm"] > 0.1


def test_grids_are_scored_as_they_were_sampled(tmp_path_factory):
    """Qwen-VL models place pictures on a grid of positions; padding on the right must not move it."""
    import policy.test_multimodal as grids

    from lit_uniopd.policy import Policy

    for build in (grids.qwen3_vl, grids.qwen25_vl):
        torch.manual_seed(0)
        model = build().eval()
        answers = grids.write(model, [0, 1, 2, 3], n=2, temperature=1.0)
        speaker: Any = Policy(model, None)
        speaker.__class__ = type("Speaker", (Policy,), {"pad_id": 0})
        rows = [i for i in range(4) for _ in range(2)]
        found, _ = speaker.token_logps(
            [grids.PROMPTS[i][0] for i in rows],
            answers.tokens_BT,
            answers.mask_BT,
            vision=[grids.PROMPTS[i][1] for i in rows],
        )
        torch.testing.assert_close(found, answers.logps_BT, atol=2e-5, rtol=1e-4)


def test_pictures_are_measured_before_prompts_are_called_short(seeing):
    model = module(seeing)
    image_tokens = 49
    assert model.prompt_length(mixed()[0]) > 2 * image_tokens
    assert model.prompt_length(mixed()[1]) < image_tokens


@pytest.mark.parametrize("blind", ["student", "code"])
def test_a_model_that_cannot_see_is_named_before_any_is_loaded(seeing, model_dirs, tmp_path, blind):
    paths = {**seeing, blind: model_dirs[blind]}
    flag = "model.student" if blind == "student" else f"model.teachers.{blind}"
    with pytest.raises(UserError, match=rf"Prompt 'p\d' has pictures, which --{flag}\.path"):
        fitted(paths, tmp_path)


def test_a_text_teacher_may_score_the_text_prompts_of_a_student_that_sees(seeing, tmp_path):
    """Cross-modal distillation: pictures go to one teacher, text to another."""
    from dataclasses import replace

    from lit_uniopd.playground.untrained import write_tiny_text

    write_tiny_text(tmp_path / "text", 3)
    paths = {**seeing, "code": str(tmp_path / "text")}
    routed = [replace(p, domain="math" if p.images else "code") for p in mixed()]
    model = module(paths, sampling=SamplingArgs(n=2, max_new_tokens=6))
    runner = trainer(tmp_path)
    runner.fit(model, Prompts(routed))
    assert float(runner.callback_metrics["rollout/teacher_failed"]) == 0
    assert "teacher/code/kl" in runner.callback_metrics


def test_sft_learns_from_pictures(seeing, tmp_path):
    from dataclasses import replace

    model = SFT(policy=PolicyArgs(path=seeing["student"]), seed=1)
    data = Prompts([replace(p, gold="a cat", grader=None) for p in mixed()])
    runner = trainer(tmp_path)
    runner.fit(model, data)
    assert 0 < float(runner.callback_metrics["train/loss"]) < 20


def test_text_prompts_still_need_no_picture(model_dirs, tmp_path):
    runner = trainer(tmp_path)
    runner.fit(module(model_dirs), Prompts(prompts(4)))
    assert "train/loss" in runner.callback_metrics
