"""Runs whose teachers read something else than the student: losses, resuming, budgets, and who is told of it."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from teachers.test_reading import IMAGE, READS, answers_of, asked, exact_logps, expected_text, rows, text
from tiny import Prompts, adam, make_tokenizer, module, trainer, weights

from callbacks import RolloutRecorder
from datamodules import PromptDataModule, SourceArgs
from lit_uniopd.doctor import run_all_checks
from lit_uniopd.errors import UserError
from lit_uniopd.modules.opd import dispatch, scoring
from lit_uniopd.modules.opd.losses import LossArgs
from lit_uniopd.modules.opd.own_teacher import reads_as_student
from lit_uniopd.modules.opd.preflight import check_images
from lit_uniopd.policy import Policy, PolicyArgs
from lit_uniopd.sampling import SamplingArgs
from lit_uniopd.sampling.rollouts import write_answers
from lit_uniopd.teachers import HttpArgs, ReadsArgs, TeacherArgs
from lit_uniopd.teachers.pool import TeacherPool

STUDENT_TEXT = "<bos>u:{}<end><bos>a:"


def teachers(paths: dict[str, str], reads: ReadsArgs | None = READS, **options: Any) -> dict[str, TeacherArgs]:
    return {name: TeacherArgs(path=paths[name], reads=reads, **options) for name in ("math", "code")}


def one_step(paths: dict[str, str], root: Path, **options: Any) -> tuple[Any, dict[str, float]]:
    model = module(paths, sampling=SamplingArgs(n=2, max_new_tokens=6), **{"teachers": teachers(paths), **options})
    run = trainer(root, max_steps=1)
    run.fit(model, Prompts(rows(), batch_size=6))
    return model, {name: float(value) for name, value in run.callback_metrics.items()}


@pytest.mark.parametrize("placement", ["resident", "cpu_offload"])
@pytest.mark.parametrize("kind", ["sampled", "forward_kl", "reverse_kl"])
@pytest.mark.parametrize("tokens", [10_000, 60])
@pytest.mark.thinned(8)
def test_a_step_has_the_loss_of_plain_transformers(model_dirs, tmp_path, placement, kind, tokens):
    """The teacher behind its prompt, the student behind its own, in float64; in one forward pass and in many."""
    options = {"teachers": teachers(model_dirs, placement=placement), "loss": LossArgs(kind=kind, gap_threshold=None)}
    model, logged = one_step(model_dirs, tmp_path, micro_batch_tokens=tokens, **options)
    losses, rewards, lengths = [], 0.0, 0
    for prompt, answer in zip(model.rollouts.prompts, answers_of(model.rollouts), strict=True):
        own = STUDENT_TEXT.format(prompt.messages[0]["content"])
        student = exact_logps(model_dirs["student"], own, answer)
        teacher = exact_logps(model_dirs[prompt.domain], expected_text(prompt), answer)
        picked = torch.tensor(answer)[:, None]
        advantage = (teacher - student).gather(1, picked)[:, 0]
        rewards, lengths = rewards + float(advantage.sum()), lengths + len(answer)
        p, q = (teacher, student) if kind == "forward_kl" else (student, teacher)
        losses.append(float(-advantage.mean() if kind == "sampled" else (p.exp() * (p - q)).sum(-1).mean()))
    assert logged["train/loss"] == pytest.approx(sum(losses) / len(losses), abs=3e-5)
    assert logged["rollout/reward"] == pytest.approx(rewards / lengths, abs=3e-5)


@pytest.mark.parametrize("kind", ["sampled", "forward_kl"])
def test_equal_prompts_and_weights_have_nothing_to_learn(model_dirs, tmp_path, kind, caplog):
    same: dict[str, str] = dict.fromkeys(list(model_dirs), model_dirs["student"])
    equal, options = ReadsArgs(template="{prompt}"), {"loss": LossArgs(kind=kind)}
    without = [replace(prompt, teacher_messages=None) for prompt in rows()]
    advantages = []
    for reads in (None, equal):
        model = module(same, teachers=teachers(same, reads), **options)
        before = weights(model) if model.policy else {}
        run = trainer(tmp_path, max_steps=1)
        with caplog.at_level(logging.WARNING):
            run.fit(model, Prompts(without, batch_size=6))
        assert not before
        assert model.rollouts is not None
        advantages.append(model.rollouts.advantages_BT)
        assert float(run.callback_metrics["train/loss"]) == pytest.approx(0, abs=1e-5)
    assert torch.equal(*advantages)
    assert float(advantages[0].abs().max()) < 1e-4
    assert caplog.text.count("is the student as it is now") == 4
    caplog.clear()
    _, logged = one_step(same, tmp_path, **options)
    assert "is the student as it is now" not in caplog.text
    assert abs(logged["rollout/reward"]) > 0.01


def test_a_teacher_that_sees_other_pictures_is_not_the_student(tmp_path):
    """Crops of one size are the same tokens."""
    from PIL import Image

    from lit_uniopd.playground.untrained import write_tiny_vision

    write_tiny_vision(tmp_path / "model", 0)
    student = Policy.load(PolicyArgs(path=str(tmp_path / "model")), trainable=True)
    pool = TeacherPool({"math": TeacherArgs(path=str(tmp_path / "model"))})
    picture, other = (Image.effect_noise((32, 32), sigma).convert("RGB") for sigma in (90, 20))
    whole = asked([IMAGE, text("what?")], images=(picture,), domain="math")
    assert reads_as_student(student, pool, "math", [whole])
    assert not reads_as_student(student, pool, "math", [replace(whole, teacher_images=(other,))])


def write_rows(root: Path) -> PromptDataModule:
    """A file with all the columns of teachers, in batches of 4."""
    lines: list[dict[str, Any]] = []
    for i in range(8):
        row: dict[str, Any] = {"prompt": f"{i}+1=", "answer": str(i + 1), "domain": ["math", "code"][i % 2]}
        row |= {"teacher_prompt": f"{i} and one?"} if i % 3 == 0 else {}
        row |= {"teacher_system": "be quick"} if i % 4 == 1 else {}
        lines.append({**row, "grader": "exact"})
    path = root / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return PromptDataModule(train=SourceArgs(path=str(path)), batch_size=4, seed=3)


@pytest.mark.parametrize("kind", ["sampled", "forward_kl"])
@pytest.mark.thinned(2)
def test_a_run_stopped_between_two_updates_resumes_exactly(model_dirs, tmp_path, monkeypatch, kind):
    from modules.opd.test_stopping import fit, stopped

    from lit_uniopd.modules import UniOPD

    options = {
        "teachers": teachers(model_dirs),
        "loss": LossArgs(kind=kind),
        "optimizer": adam,
        "updates_per_rollout": 3,
        "micro_batch_tokens": 80,
    }
    whole = module(model_dirs, **options)
    seen = fit(tmp_path / "whole", whole, write_rows(tmp_path)).seen
    cut = module(model_dirs, **options)
    stopped(monkeypatch, UniOPD, "clip", 5, tmp_path / "first", cut, write_rows(tmp_path))
    resumed = module(model_dirs, **options)
    rest = fit(tmp_path / "second", resumed, write_rows(tmp_path), ckpt_path=tmp_path / "first/ckpt/last.ckpt").seen
    assert rest == seen[-len(rest) :]
    assert all(torch.equal(value, weights(resumed)[name]) for name, value in weights(whole).items())


def test_a_rollout_whose_rows_teachers_now_read_otherwise_is_written_anew():
    from callbacks_data import rollouts
    from modules.opd.test_resume import POLICY, RANK, ScoredRollout, UnfinishedRollout, stopped

    from lit_uniopd.types import PromptBatch

    batch = PromptBatch([asked(str(i), id=str(i)) for i in range(2)])
    answers = rollouts([[0.1], [0.3]], [1, 0], [0, 1])
    answers.prompts = list(batch.prompts)
    states = stopped(ScoredRollout(answers, [[0], [1]], done=1), batch)
    for system, taken_up in ((None, True), ("changed", False)):
        unfinished = UnfinishedRollout()
        unfinished.states = states
        again = PromptBatch([replace(prompt, teacher_system=system) for prompt in batch])
        if taken_up:
            assert unfinished.take_up(RANK, again, POLICY) is not None
        else:
            with pytest.warns(UserWarning, match="written anew"):
                assert unfinished.take_up(RANK, again, POLICY) is None


def test_budgets_and_loads_count_what_teachers_read(model_dirs, monkeypatch):
    """A micro-batch of a divergence holds the teacher's tokens as well, which are more."""
    student = Policy.load(PolicyArgs(path=model_dirs["student"]), trainable=True)
    rollouts = write_answers(student, rows(), SamplingArgs(n=2, max_new_tokens=6), seed=0)
    rollouts.teacher_ok_B[:] = True
    plain, reading = TeacherPool(teachers(model_dirs, None)), TeacherPool(teachers(model_dirs))
    lengths = reading.lengths(rollouts.prompts)
    monkeypatch.setattr(scoring, "max_over_ranks", lambda _, count: count)
    limit = 120
    batches = {}
    for name, pool in (("plain", plain), ("reading", reading)):
        batches[name] = scoring.update_batches(Any, student, rollouts, range(len(rollouts)), limit, pool)  # type: ignore[arg-type]
        assert sorted(row for _, batch in batches[name] for row in batch) == list(range(len(rollouts)))
    assert len(batches["reading"]) > len(batches["plain"])
    for _, batch in batches["reading"]:
        once = {rollouts.prompts[row].id: lengths[row] for row in batch}
        assert sum(once.values()) + int(rollouts.lengths_B[batch].sum()) <= limit or len(once) == 1
    rows_0 = [0, 1]
    answers = int(rollouts.lengths_B[rows_0].sum())
    own = len(rollouts.prompt_tokens[0])
    assert dispatch._cost(rollouts, rows_0, 0, True) == 4 * min(own + answers, 2 * own + answers)
    assert dispatch._cost(rollouts, rows_0, 100, True) == 3 * (own + answers) + 100 + answers


def test_the_memory_plan_counts_the_teachers_longer_prompt(model_dirs, tmp_path):
    longest = {
        "student": max(len(make_tokenizer()(STUDENT_TEXT.format(p.messages[0]["content"])).input_ids) for p in rows()),
        "teacher": max(len(make_tokenizer()(expected_text(p)).input_ids) for p in rows()),
    }
    bytes_of = {}
    for reader, prompt in longest.items():
        reads = READS if reader == "teacher" else None
        model = module(model_dirs, teachers=teachers(model_dirs, reads), micro_batch_tokens=1)
        prompts = [replace(p, teacher_messages=None if reads is None else p.teacher_messages) for p in rows()]
        trainer(tmp_path, max_steps=1).fit(model, Prompts(prompts, batch_size=6))
        assert model.workload().score_tokens == prompt + model.sampling.max_new_tokens
        assert model.workload().train_tokens == longest["student"] + model.sampling.max_new_tokens
        assert model.memory.plan is not None
        bytes_of[reader] = {part.name: part.bytes for part in model.memory.plan.allocations}["teacher math: scoring"]
    assert bytes_of["teacher"] > 2 * bytes_of["student"]


@pytest.mark.parametrize(
    ("reads", "row", "message"),
    [
        (ReadsArgs(template="{solution}"), {}, "asks for 'solution'"),
        (ReadsArgs(template="{solution}"), {"row": {"solution": None}}, "has nothing in 'solution'"),
        (None, {"teacher_images": ("a.png",)}, "has pictures, which --model.teachers.math.path"),
    ],
)
def test_what_rows_lack_is_found_before_a_model_is_loaded(model_dirs, tmp_path, monkeypatch, reads, row, message):
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(Policy, "load", never)
    prompts = [replace(prompt, row={"solution": "x"} if row else {}) for prompt in rows()]
    prompts.append(asked("last", id="last", domain="math", **row))
    with pytest.raises(UserError, match=message):
        trainer(tmp_path).fit(module(model_dirs, teachers=teachers(model_dirs, reads)), Prompts(prompts))


def test_a_text_server_may_teach_about_pictures_that_it_does_not_get(tmp_path):
    from lit_uniopd.playground.untrained import write_tiny_vision

    write_tiny_vision(tmp_path / "model", 0)
    seeing = PolicyArgs(path=str(tmp_path / "model"))
    http = TeacherArgs(placement="http", http=HttpArgs(urls=["http://localhost:1"]))
    prompt = asked([IMAGE, text("what?")], images=("a.png",), domain="math")
    common: dict[str, Any] = {"student": seeing, "flag": "model.student", "teachers": TeacherPool({"math": http})}
    blind = replace(prompt, teacher_images=(), teacher_system="A cat is in the picture.")
    check_images([blind], [blind], **common)
    with pytest.raises(UserError, match=r"has pictures, .* not sent to --model\.teachers\.math\.placement http"):
        check_images([prompt], [prompt], **common)


def test_longer_than_its_positions_is_told(model_dirs, tmp_path):
    long = ReadsArgs(template="{prompt}" + "1" * 250)
    model = module(model_dirs, teachers=teachers(model_dirs, long))
    found = run_all_checks(model, Prompts(rows()), trainer(tmp_path), quick=True)
    (told,) = [f for f in found if "exceed the 256 positions of --model.teachers.math.path" in f.message]
    assert "horten --model.teachers.math.reads" in told.remedy


def test_the_doctor_shows_what_the_teacher_reads(model_dirs, tmp_path):
    model = module(model_dirs, teachers=teachers(model_dirs))
    findings = {f.name: f for f in run_all_checks(model, Prompts(rows()), trainer(tmp_path), quick=False)}
    template = findings["template math"]
    assert template.status == "green"
    assert "be good" in template.details
    assert "The teacher reads more of 'p0'" in template.message
    assert findings["self-test"].status == "green"
    assert findings["disagreement math"].status == "green"


def test_the_viewer_shows_what_the_teacher_read(model_dirs, tmp_path):
    for reads in (READS, None):
        root = tmp_path / str(reads is None)
        model = module(model_dirs, teachers=teachers(model_dirs, reads))
        prompts = [prompt for prompt in rows() if prompt.id != "own"]
        trainer(root, max_steps=1, callbacks=[RolloutRecorder()]).fit(model, Prompts(prompts, batch_size=5))
        (file,) = root.glob("**/rollouts.jsonl")
        groups = [json.loads(line) for line in file.read_text().splitlines()]
        for group in groups:
            if reads is None:
                assert "read" not in group
            else:
                assert group["read"].startswith("system: be good\n\nuser: 1+1=\n\nassistant: 2")
                assert group["read"].endswith(f"user: {group['prompt']} is {group['gold']}:")
