"""A right answer of the same group in what a teacher reads."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from modules.opd.test_uni_opd import KillAt, Killed, checkpointed, shuffled_prompts
from teachers.test_reading import answers_of, exact_logps
from tiny import Prompts, adam, module, prompts, sgd, trainer, weights

from callbacks import RolloutRecorder
from lit_uniopd.doctor import run_all_checks
from lit_uniopd.errors import UserError
from lit_uniopd.modules import LossArgs, UniOPD
from lit_uniopd.modules.opd.demonstrations import add_demonstrations, show_best_answers
from lit_uniopd.modules.opd.resume import ScoredRollout
from lit_uniopd.monitoring.weighted_means import WeightedMeans
from lit_uniopd.policy import Policy, PolicyArgs
from lit_uniopd.rewards.grading import Grading
from lit_uniopd.sampling import SamplingArgs
from lit_uniopd.sampling.rollouts import write_answers
from lit_uniopd.teachers import ReadsArgs, TeacherArgs
from lit_uniopd.teachers.pool import TeacherPool
from lit_uniopd.teachers.reading import Reading
from lit_uniopd.types import Grade, Rollouts

TEMPLATE = "see {best_answer} {prompt}"
NAMES = ("demonstration", "demonstration_is_itself", "demonstration_missing")


def teacher(**options: Any) -> TeacherArgs:
    return TeacherArgs(reads=ReadsArgs(template=TEMPLATE), **options)


def is_right(text: str) -> bool:
    return sum(map(ord, text.strip())) % 4 == 1


@pytest.fixture
def graded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of the answers are right by their characters, all have ended, and grades come only after a while."""

    def finish(self: Grading) -> None:
        for row, text in enumerate(self.rollouts.text):
            self.rollouts.grades[row] = Grade(is_right(text), float(is_right(text)))
            self.rollouts.finish[row] = "stop"
        self.rollouts.outcome_B = torch.tensor([grade.outcome for grade in self.rollouts.grades])

    monkeypatch.setattr(Grading, "finish", finish)


def shown(rollouts: Rollouts, row: int) -> str | None:
    """By hand: the shortest right answer of the group that is another."""
    texts = [
        (int(rollouts.lengths_B[i]), text.strip())
        for i, text in enumerate(rollouts.text)
        if rollouts.group_B[i] == rollouts.group_B[row] and is_right(text) and text.strip()
    ]
    return min((text for text in texts if text[1] != rollouts.text[row].strip()), default=(0, None))[1]


def rollouts_of(student: Policy, groups: list[list[tuple[str, int, float, str]]]) -> Rollouts:
    """Groups of answers: text, outcome, score and how it ended; as long as their texts."""
    size = len(groups[0])
    rollouts = write_answers(student, prompts(len(groups)), SamplingArgs(n=size, max_new_tokens=9), seed=0)
    answers = [answer for group in groups for answer in group]
    rollouts.text = [text for text, *_ in answers]
    rollouts.outcome_B = torch.tensor([outcome for _, outcome, *_ in answers])
    rollouts.grades = [Grade(None if outcome < 0 else bool(outcome), score) for _, outcome, score, _ in answers]
    rollouts.finish = [finish for *_, finish in answers]  # type: ignore[misc]
    lengths = torch.tensor([len(text) for text in rollouts.text])
    rollouts.tokens_BT = torch.ones(len(answers), 9, dtype=torch.long)
    rollouts.mask_BT = torch.arange(9) < lengths[:, None]
    return rollouts


def test_the_best_other_right_answer_is_shown(model_dirs, tmp_path):
    student = Policy.load(PolicyArgs(path=model_dirs["student"]), trainable=False)
    pool = TeacherPool({"math": teacher(path=model_dirs["math"]), "code": teacher(path=model_dirs["code"])})
    pool.check(student.processor, student.args)
    groups = [
        [("right", 1, 1.0, "stop"), ("so", 1, 1.0, "stop"), ("no", 0, 0.0, "stop"), ("so", 1, 1.0, "stop")],
        [("better", 1, 1.5, "stop"), ("ok", 1, 1.0, "stop"), ("x", 1, 1.0, "length"), (" ", 1, 1.0, "stop")],
        [("alone", 1, 1.0, "stop"), ("no", 0, 0.0, "stop"), ("what", -1, 0.0, "stop"), ("no", 0, 0.9, "stop")],
        [("no", 0, 0.0, "stop")] * 4,
    ]
    rollouts = rollouts_of(student, groups)
    before = list(rollouts.prompts)
    show_best_answers(rollouts, pool)
    best = [prompt.best_answer for prompt in rollouts.prompts]
    assert best[:4] == ["so", "right", "so", "right"]  # the shortest, and never the same text
    assert best[4:8] == ["ok", "better", "better", "better"]  # the highest score, and none that was cut or is empty
    assert best[8:12] == [None, "alone", "alone", "alone"]
    assert best[12:] == [None] * 4
    assert len({id(prompt) for prompt in rollouts.prompts}) == 2 + 2 + 2 + 1  # each is encoded once
    assert [replace(prompt, best_answer=None) for prompt in rollouts.prompts] == before
    means, run = WeightedMeans(), module(model_dirs)
    run.trainer = trainer(tmp_path)
    add_demonstrations(means, rollouts, pool)
    assert means.reduce(run) == {
        f"rollout/{name}": share for name, share in zip(NAMES, (11 / 16, 1 / 16, 4 / 16), strict=True)
    }
    plain = rollouts_of(student, groups)
    show_best_answers(plain, TeacherPool({"math": PolicyArgs(), "code": PolicyArgs()}))
    assert plain.prompts == before


@pytest.mark.parametrize("kind", ["sampled", "forward_kl"])
@pytest.mark.parametrize("weights_of", ["path", "student"])
@pytest.mark.usefixtures("graded")
@pytest.mark.thinned(2)
def test_a_step_has_the_loss_of_plain_transformers(model_dirs, tmp_path, kind, weights_of):
    """In float64: each answer behind what its teacher has read of its group; alone or not, by another model or itself."""
    path = model_dirs["code"] if weights_of == "path" else model_dirs["student"]
    args = teacher(path=path) if weights_of == "path" else teacher(weights="student")
    loss = LossArgs(kind=kind, gap_threshold=None)
    model = module(model_dirs, teachers={"default": args}, optimizer=sgd, loss=loss, micro_batch_tokens=60)
    run = trainer(tmp_path, max_steps=1, callbacks=[RolloutRecorder(every_n_steps=1)])
    run.fit(model, Prompts(prompts(4)))
    rollouts, losses, counts = model.rollouts, [], dict.fromkeys(NAMES, 0)
    assert rollouts is not None
    for row, answer in enumerate(answers_of(rollouts)):
        asked, best = str(rollouts.prompts[row].messages[0]["content"]), shown(rollouts, row)
        group = [i for i in range(len(rollouts)) if rollouts.group_B[i] == rollouts.group_B[row]]
        some = any(is_right(rollouts.text[i]) for i in group)
        counts[NAMES[0] if best is not None else NAMES[1] if some else NAMES[2]] += 1
        read = f"<bos>u:{asked if best is None else f'see {best} {asked}'}<end><bos>a:"
        student = exact_logps(model_dirs["student"], f"<bos>u:{asked}<end><bos>a:", answer)
        p = exact_logps(path, read, answer)
        sampled = (p - student).gather(1, torch.tensor(answer)[:, None])[:, 0]
        actual = rollouts.teacher_logps_BT[row, : len(answer)] - rollouts.student_logps_BT[row, : len(answer)]
        torch.testing.assert_close(actual.double(), sampled, atol=2e-5, rtol=0)
        losses.append(float(-sampled.mean() if kind == "sampled" else (p.exp() * (p - student)).sum(-1).mean()))
    logged = {name: float(value) for name, value in run.callback_metrics.items()}
    assert logged["train/loss"] == pytest.approx(sum(losses) / len(losses), abs=3e-5)
    for name, count in counts.items():
        assert logged[f"rollout/{name}"] == pytest.approx(count / len(rollouts))
    assert min(counts[NAMES[0]], counts[NAMES[2]]) > 0
    (file,) = tmp_path.glob("**/rollouts.jsonl")
    assert "see " in file.read_text()


@pytest.mark.usefixtures("graded")
def test_a_killed_and_resumed_run_equals_an_unbroken_one(model_dirs, tmp_path):
    def model() -> UniOPD:
        return module(model_dirs, teachers={"default": teacher(weights="student")}, optimizer=adam)

    unbroken = model()
    checkpointed(tmp_path / "whole").fit(unbroken, shuffled_prompts(tmp_path))
    first = checkpointed(tmp_path / "first")
    first.callbacks.append(KillAt(2))
    with pytest.raises(Killed):
        first.fit(model(), shuffled_prompts(tmp_path))
    second, last = model(), tmp_path / "first/ckpt/last.ckpt"
    checkpointed(tmp_path / "second").fit(second, shuffled_prompts(tmp_path), ckpt_path=last, weights_only=True)
    assert all(torch.equal(p, weights(unbroken)[name]) for name, p in weights(second).items())


@pytest.mark.usefixtures("graded")
def test_a_rollout_that_is_taken_up_again_is_read_as_before(model_dirs, tmp_path):
    model = module(model_dirs, teachers={"default": teacher(weights="student")})
    data = prompts(4)
    trainer(tmp_path, max_steps=1).fit(model, Prompts(data))
    rollouts = model.rollouts
    assert rollouts is not None
    rollouts.outcome_B = 1 - rollouts.outcome_B  # as a plug-in may do that judges otherwise
    state = ScoredRollout(rollouts, [list(range(len(rollouts)))]).state(data)
    again = ScoredRollout.from_state(state, [data], model.policy, torch.device("cpu")).rollouts
    assert again.prompts != rollouts.prompts
    show_best_answers(again, model.teachers)
    assert again.prompts == rollouts.prompts


def test_answers_that_are_shown_are_in_the_keys_of_a_cache(model_dirs, tmp_path):
    student = Policy.load(PolicyArgs(path=model_dirs["student"]), trainable=False)
    cached = teacher(path=model_dirs["math"], placement="disk_cache", cache=str(tmp_path))
    rollouts = write_answers(student, prompts(1), SamplingArgs(n=2, max_new_tokens=4), seed=0)
    scored = []
    for best, found in ((None, 0), ("3", 0), ("4", 0), ("3", 2)):
        rollouts.prompts = [replace(prompt, best_answer=best) for prompt in rollouts.prompts]
        pool = TeacherPool({"default": cached})
        pool.load(student)
        scored.append(pool.score(rollouts, temperature=1.0, max_tokens=100)[0])
        assert pool.cache_counts() == (found, 2 - found)
    assert torch.equal(scored[1], scored[3])
    assert all((a - b).abs().max() > 1e-3 for a, b in pairwise(scored[:3]))


def test_the_memory_plan_and_the_doctor_count_on_it(model_dirs):
    args = {"default": teacher(weights="student")}
    options: dict[str, Any] = {"sampling": SamplingArgs(n=4, max_new_tokens=20)}
    model = module(model_dirs, teachers=args, **options)
    findings = {f.name: f for f in run_all_checks(model, Prompts(prompts(4)))}
    assert "(the best right answer of the same group)"[:30] in str(findings["template default"].details)
    assert "nothing to learn" not in findings["teachers"].message
    plain = module(model_dirs, teachers={"default": TeacherArgs(weights="student")}, **options)
    lengths = [
        each.teachers.longest_prompts(prompts(4), each._processor, each.policy_args, 20) for each in (model, plain)
    ]
    read = "<bos>", *"u:see - 1+1+2=", "<end>", "<bos>", *"a:"
    assert lengths == [{"default": len(read) + 20}, {}]


def test_what_makes_it_useless_is_refused(model_dirs, tmp_path):
    args = {"default": teacher(path=model_dirs["math"])}
    option = r"--model\.teachers\.default\.reads\.template can do nothing"
    ungraded = [replace(prompt, grader=None, gold=None) for prompt in prompts(4)]
    for options, data, message in (
        ({"sampling": SamplingArgs(n=1, max_new_tokens=6)}, prompts(4), option),
        ({"sampling": SamplingArgs(n=2, max_new_tokens=6, temperature=0.0)}, prompts(4), "--model.sampling.temp"),
        ({}, ungraded, rf"No training prompt has a grader, .*{option}"),
    ):
        with pytest.raises(UserError, match=message):
            trainer(tmp_path, max_steps=1).fit(module(model_dirs, teachers=args, **options), Prompts(data))


def test_columns_of_the_template_are_asked_for_before_any_answer_is_right():
    reading = Reading(ReadsArgs(template="{hint} {best_answer} {prompt}"), "model.teachers.math.reads")
    (prompt,) = prompts(1)
    with pytest.raises(UserError, match=r"template asks for 'hint'"):
        reading(prompt)
    hinted = replace(prompt, row={"hint": "add"})
    assert reading(hinted) is hinted
    assert reading(replace(hinted, best_answer="7")).messages[0]["content"] == "add 7 0="
    with pytest.raises(UserError, match=r"'p0' has a column 'best_answer', .*; change the column's name"):
        reading(replace(hinted, row={"hint": "add", "best_answer": "mine"}))
