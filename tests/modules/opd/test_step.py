"""One step of UniOPD: what overlaps, what is shared, and where its time goes."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback
from tiny import Prompts, module, prompts, trainer

from lit_uniopd.benchmarks.synthetic_images import draw
from lit_uniopd.errors import UserError
from lit_uniopd.modules import UniOPD
from lit_uniopd.monitoring.step_timer import StepTimer
from lit_uniopd.playground.untrained import write_tiny_vision
from lit_uniopd.policy import Policy, PolicyArgs
from lit_uniopd.policy.shared_prefix import Packing
from lit_uniopd.rewards import Grade, GradeItem, GraderPool
from lit_uniopd.sampling import SamplingArgs
from lit_uniopd.sampling.rollouts import write_answers
from lit_uniopd.teachers.pool import TeacherPool
from lit_uniopd.types import Prompt

PATIENCE = 60.0


def graded_elsewhere(count: int = 4) -> list[Prompt]:
    """Prompts whose grader runs in a process of the pool."""
    return [replace(prompt, grader="math") for prompt in prompts(count)]


# --- grading while teachers score ---


@pytest.fixture
def meeting(monkeypatch) -> dict[str, threading.Event]:
    """Grading and scoring that each go on only when the other has begun: one after the other they would never end."""
    begun = {"grading": threading.Event(), "scoring": threading.Event()}
    score, judge = TeacherPool.score, GraderPool._grade_in_worker

    def meet(mine: str, other: str) -> None:
        begun[mine].set()
        assert begun[other].wait(PATIENCE), f"{mine} is alone"

    def scoring(self: TeacherPool, *args: Any, **options: Any) -> Any:
        meet("scoring", "grading")
        return score(self, *args, **options)

    def grading(self: GraderPool, item: GradeItem, turn: Any) -> Grade:
        meet("grading", "scoring")
        return judge(self, item, turn)

    def begin(*_: Any) -> None:
        monkeypatch.setattr(TeacherPool, "score", scoring)
        monkeypatch.setattr(GraderPool, "_grade_in_worker", grading)

    monkeypatch.setattr(UniOPD, "on_train_start", begin)  # golds are tried before, with nothing to score
    return begun


def test_answers_are_graded_while_teachers_score(model_dirs, tmp_path, meeting):
    model = module(model_dirs)
    runner = trainer(tmp_path)
    runner.fit(model, Prompts(graded_elsewhere()))
    assert all(event.is_set() for event in meeting.values())
    assert runner.callback_metrics["rollout/unknown_outcomes"] == 0


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_teacher_that_fails_leaves_the_graders_free(model_dirs, tmp_path, monkeypatch, error):
    model = module(model_dirs)
    model.trainer = trainer(tmp_path)
    model.configure_model()
    answers = write_answers(model.policy, graded_elsewhere(), model.sampling, seed=0)
    begun, release, judged = threading.Event(), threading.Event(), []
    judge = GraderPool._grade_in_worker

    def grading(self: GraderPool, item: GradeItem, turn: Any) -> Grade:
        judged.append(item)
        begun.set()
        release.wait(PATIENCE)
        return judge(self, item, turn)

    monkeypatch.setattr(GraderPool, "_grade_in_worker", grading)

    def fail() -> None:
        with model.grading(answers):
            assert begun.wait(PATIENCE)
            raise error

    with pytest.raises(error):
        fail()
    release.set()
    assert model.graders.grade([GradeItem("math", "1", r"\boxed{1}")])[0].correct is True
    assert len(judged) == 2  # the one under way and the new one; those that had not begun were taken back
    model.graders.close()


def test_graders_that_fail_stop_the_step_and_can_be_used_again(model_dirs, tmp_path, monkeypatch):
    model = module(model_dirs)
    with monkeypatch.context() as patch:

        def broken(self: GraderPool, item: GradeItem, turn: Any) -> Grade:
            raise UserError("no grading here")

        patch.setattr(GraderPool, "_grade_in_worker", broken)
        with pytest.raises(UserError, match="no grading here"):
            trainer(tmp_path).fit(model, Prompts(graded_elsewhere()))
    assert model.graders.grade([GradeItem("math", "1", r"\boxed{1}")])[0].correct is True
    model.graders.close()


# --- prompts that answers share ---


@pytest.fixture
def packed(monkeypatch) -> list[tuple[bool, int, int]]:
    """Of each packed row: whether there are gradients, prompts, answers."""
    seen: list[tuple[bool, int, int]] = []
    init = Packing.__init__

    def counting(self: Packing, prompts: Any, answers: Any, *args: Any) -> None:
        init(self, prompts, answers, *args)
        seen.append((torch.is_grad_enabled(), len(prompts), len(answers)))

    monkeypatch.setattr(Packing, "__init__", counting)
    return seen


def long_prompts(count: int = 4) -> list[Prompt]:
    return [replace(p, messages=({"role": "user", "content": f"{i}" * 40},)) for i, p in enumerate(prompts(count))]


@pytest.mark.parametrize("budget", [16384, 120])
def test_scoring_and_update_compute_each_prompt_once(model_dirs, tmp_path, packed, budget):
    model = module(model_dirs, micro_batch_tokens=budget)
    runs = []
    batches = model.micro_batches
    model.micro_batches = lambda *asked: runs.append(batches(*asked)) or runs[-1]  # type: ignore[method-assign]
    trainer(tmp_path).fit(model, Prompts(long_prompts()))
    update = [(prompts, answers) for training, prompts, answers in packed if training]
    # 45 tokens of prompt and 18 of answers: four groups in one pass, or one in each. None is divided.
    assert update == ([(4, 12)] if budget == 16384 else [(1, 3)] * 4)
    assert sorted(row for _, batch in runs[0] for row in batch) == list(range(12))


def test_a_step_with_shared_prompts_equals_one_without(model_dirs, tmp_path, packed):
    moved = []
    for share, budget in ((True, 16384), (True, 120), (False, 16384)):
        args = {name: PolicyArgs(path=path, share_prompts=share) for name, path in model_dirs.items()}
        student = args.pop("student")
        model = module(model_dirs, micro_batch_tokens=budget, student=student, teachers=args)
        before = len(packed)
        trainer(tmp_path).fit(model, Prompts(long_prompts()))
        assert (len(packed) > before) == share
        moved.append({name: p.detach().clone() for name, p in model.named_parameters()})
    for name, value in moved[2].items():
        for shared in moved[:2]:
            torch.testing.assert_close(shared[name], value, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("budget", [16384, 150])
def test_a_picture_is_read_once_in_sampling_scoring_and_update(tmp_path, monkeypatch, budget):
    paths = {name: str(tmp_path / name) for name in ("student", "math", "code")}
    for seed, path in enumerate(paths.values()):
        write_tiny_vision(Path(path), seed)
    parts: Any = [{"type": "image"}, {"type": "text", "text": "what?"}]
    picture = draw({"drawing": "scene", "objects": ["cat", "dog"]})
    asked = [
        replace(prompt, messages=({"role": "user", "content": parts},), images=(picture,)) for prompt in prompts(2)
    ]
    read: Counter[str] = Counter()
    trying: list[bool] = []
    trial, load = Policy._try_packing, Policy.load

    def quiet(self: Policy, rows: Any) -> bool:
        trying.append(True)
        found = trial(self, rows)
        trying.clear()
        return found

    def watched(args: Any, *, trainable: bool, **options: Any) -> Policy:
        policy = load(args, trainable=trainable, **options)

        def count(_: Any, given: Any, options: Any) -> None:
            if not trying:
                phase = "teacher" if not trainable else "update" if torch.is_grad_enabled() else "sampling"
                read[phase] += len(options["pixel_values"] if "pixel_values" in options else given[0])

        tower: Any = next(m for name, m in policy.model.named_modules() if name.endswith("vision_tower"))
        tower.register_forward_pre_hook(count, with_kwargs=True)
        return policy

    monkeypatch.setattr(Policy, "_try_packing", quiet)
    monkeypatch.setattr(Policy, "load", watched)
    model = module(paths, sampling=SamplingArgs(n=4, max_new_tokens=6), micro_batch_tokens=budget)
    trainer(tmp_path).fit(model, Prompts(asked))
    # A prompt is 49 tokens of picture and some text: with 150 tokens its answers fit beside it, as padded rows they
    # would not.
    assert read == {"sampling": 2, "teacher": 2, "update": 2}


# --- where the time goes ---


def test_every_moment_belongs_to_one_part():
    clock = StepTimer(iter([0.0, 1.0, 3.0, 6.0, 10.0, 15.0, 21.0, 28.0, 36.0, 45.0, 55.0]).__next__)
    with clock.part("score"), clock.part("wait"):  # 0-1 overhead, 1-3 score
        pass  # 3-6 wait, 6-10 score
    clock.between(None)  # 10-15 overhead
    clock.between("wait")  # 15-21 not counted
    assert clock.lap() == {"overhead": 6.0, "score": 6.0, "wait": 10.0, "step": 22.0}
    with pytest.raises(ZeroDivisionError), clock.part("score"):  # 28-36 wait
        raise ZeroDivisionError  # 36-45 score
    assert clock.lap() == {"wait": 18.0, "score": 9.0, "step": 27.0}  # 45-55 wait


def test_the_parts_of_a_run_add_up_to_its_wall_time(model_dirs, tmp_path):
    logged: list[dict[str, float]] = []

    class Watch(Callback):
        def on_train_start(self, *_: Any, **__: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
            self.start = time.perf_counter()

        def on_rollouts_scored(self, *_: Any) -> None:
            time.sleep(0.05)  # a slow callback is overhead

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
            logged.append({k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("time/")})
            self.end = time.perf_counter()

    class Loader:
        def __init__(self, batches: Any) -> None:
            self.batches = batches

        def __iter__(self) -> Iterator[Any]:
            for batch in self.batches:
                time.sleep(0.1)
                yield batch

    class Slow(Prompts):
        def train_dataloader(self) -> Any:
            return Loader(super().train_dataloader())

    watch = Watch()
    trainer(tmp_path, callbacks=[watch]).fit(module(model_dirs), Slow(prompts(12)))
    assert len(logged) == 3
    for step in logged:
        parts = [step[f"time/{part}"] for part in ("rollout", "grade", "score", "update", "wait", "overhead")]
        assert sum(parts) == pytest.approx(step["time/step"], rel=1e-5)
        assert step["time/overhead"] >= 0.05
        idle = (step["time/wait"] + step["time/grade"]) / step["time/step"]
        assert step["time/idle_share"] == pytest.approx(idle, rel=1e-4)
    # Lightning loads a batch ahead, the first before training starts: three batches, two of them waited for.
    assert sum(step["time/wait"] for step in logged) >= 0.2
    total = sum(step["time/step"] for step in logged)
    assert total <= watch.end - watch.start + 0.01
    assert total >= 0.95 * (watch.end - watch.start) - 0.05
