import logging
from typing import Any

import pytest
import torch
from tiny import CHARACTERS, make_tokenizer

from lit_uniopd.errors import UserError
from lit_uniopd.policy import Policy, PolicyArgs
from lit_uniopd.sampling import SamplingArgs
from lit_uniopd.sampling.rollouts import write_answers
from lit_uniopd.teachers import LocalTeacher, foreign_ids
from lit_uniopd.teachers.pool import TeacherPool
from lit_uniopd.types import Prompt, Rollouts


def prompt(i: int, domain: str = "math", teacher: str | None = None) -> Prompt:
    return Prompt(id=f"p{i}", messages=({"role": "user", "content": f"{i}+{i}="},), domain=domain, teacher=teacher)


def loaded(paths: dict[str, str], **teachers: PolicyArgs) -> tuple[Policy, TeacherPool]:
    student = Policy.load(PolicyArgs(path=paths["student"]), trainable=True)
    pool = TeacherPool(teachers or {name: PolicyArgs(path=paths[name]) for name in ("math", "code")})
    pool.load(student)
    return student, pool


def answers(student: Policy, *prompts: Prompt) -> Rollouts:
    return write_answers(student, prompts, SamplingArgs(n=3, max_new_tokens=6), seed=0)


def test_each_answer_is_scored_by_its_own_teacher(model_dirs):
    student, pool = loaded(model_dirs)
    rollouts = answers(student, prompt(1), prompt(2, "code"), prompt(3))
    logps_BT, ok_B = pool.score(rollouts, temperature=1.0, max_tokens=10_000)
    assert ok_B.all()
    for row, name in enumerate(["math"] * 3 + ["code"] * 3 + ["math"] * 3):
        alone = rollouts[[row]]
        expected, _ = pool[name].token_logps(alone.prompt_tokens, alone.tokens_BT, alone.mask_BT)
        torch.testing.assert_close(logps_BT[row, : expected.shape[1]], expected[0], atol=1e-5, rtol=1e-5)
    assert not logps_BT[~rollouts.mask_BT].any()


@pytest.mark.parametrize("max_tokens", [1, 40, 10_000])
def test_scores_do_not_depend_on_the_token_budget(model_dirs, max_tokens):
    student, pool = loaded(model_dirs)
    rollouts = answers(student, prompt(1), prompt(22, "code"))
    one_pass_BT, _ = pool.score(rollouts, temperature=1.0, max_tokens=100_000)
    batched_BT, _ = pool.score(rollouts, temperature=1.0, max_tokens=max_tokens)
    torch.testing.assert_close(batched_BT, one_pass_BT, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_a_student_that_is_its_own_teacher_gets_its_own_log_probs(model_dirs, temperature):
    student, pool = loaded(model_dirs, math=PolicyArgs(path=model_dirs["student"]))
    rollouts = write_answers(student, [prompt(1)], SamplingArgs(n=8, max_new_tokens=8, temperature=temperature), seed=0)
    logps_BT, _ = pool.score(rollouts, temperature=temperature, max_tokens=1000)
    torch.testing.assert_close(logps_BT, rollouts.student_logps_BT, atol=2e-5, rtol=1e-5)


def test_a_teacher_with_another_chat_template_reads_its_own_prompt(model_dirs, new_model):
    other = new_model(
        "other",
        seed=1,
        tokenizer=make_tokenizer("{% for m in messages %}{{ '<bos>' + m['content'] + '=' }}{% endfor %}"),
    )
    student, pool = loaded(model_dirs, math=PolicyArgs(path=other))
    rollouts = answers(student, prompt(1))
    logps_BT, _ = pool.score(rollouts, temperature=1.0, max_tokens=1000)
    rendered = [pool["math"].render(prompt(1))] * 3
    assert rendered[0] != rollouts.prompt_tokens[0]
    expected, _ = pool["math"].token_logps(rendered, rollouts.tokens_BT, rollouts.mask_BT)
    torch.testing.assert_close(logps_BT, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("names", "question", "expected"),
    [
        (("math", "code"), prompt(1, "code"), "code"),  # by domain
        (("math", "code"), prompt(1, "code", teacher="math"), "math"),  # the teacher column wins
        (("default",), prompt(1, "law"), "default"),
        (("default", "law"), prompt(1, "law"), "law"),
    ],
)
def test_routes(names, question, expected):
    assert TeacherPool({name: PolicyArgs() for name in names}).route(question) == expected


@pytest.mark.parametrize("question", [prompt(1, "law"), prompt(1, "math", teacher="mth")])
def test_an_unknown_teacher_is_an_error_not_a_fallback(question):
    with pytest.raises(UserError, match=r"--model\.teachers has only math, code"):
        TeacherPool({"math": PolicyArgs(), "code": PolicyArgs()}).route(question)
    if question.teacher:
        with pytest.raises(UserError, match="has teacher 'mth'"):
            TeacherPool({"default": PolicyArgs()}).route(question)


class Broken:
    """A teacher that fails on every call."""

    def __init__(self, teacher: Policy, fault: str) -> None:
        self.teacher, self.fault = teacher, fault

    def __getattr__(self, name: str) -> Any:
        return getattr(self.teacher, name)

    def token_logps(self, *args: Any, **kwargs: Any) -> Any:
        logps_BT, _ = self.teacher.token_logps(*args, **kwargs)
        if self.fault == "length":
            return logps_BT[:, 1:], None
        logps_BT[0, 0] = float("nan")
        return logps_BT, None


def replace_model(pool: TeacherPool, name: str, model: Any) -> None:
    teacher: Any = pool._teachers[name]
    assert isinstance(teacher, LocalTeacher)
    teacher._policy = model


@pytest.mark.parametrize(("fault", "reason"), [("length", "too many or too few"), ("nan", "not finite")])
def test_failed_answers_are_counted_by_reason_and_marked(model_dirs, fault, reason):
    student, pool = loaded(model_dirs)
    sound = pool["math"]
    replace_model(pool, "math", Broken(sound, fault))
    rollouts = answers(student, prompt(1), prompt(2, "code"))
    logps_BT, ok_B = pool.score(rollouts, temperature=1.0, max_tokens=10_000)
    failed = 1 if fault == "nan" else 3
    assert (~ok_B).sum() == failed == sum(pool.failures.values())
    assert reason in next(iter(pool.failures))
    assert not logps_BT[~ok_B].any()
    assert ok_B[3:].all()
    replace_model(pool, "math", sound)
    assert pool.score(rollouts, temperature=1.0, max_tokens=10_000)[1].all()
    assert not pool.failures


def test_teachers_have_nothing_to_train_and_stay_as_they_are(model_dirs):
    student, pool = loaded(model_dirs)
    before = {name: p.clone() for name, p in pool["math"].named_parameters()}
    pool.score(answers(student, prompt(1)), temperature=1.0, max_tokens=1000)
    assert not any(p.requires_grad for p in pool["math"].parameters())
    assert all(torch.equal(before[name], p) for name, p in pool["math"].named_parameters())


def test_vocabularies_that_are_only_padded_differently_are_compatible(model_dirs, new_model):
    padded = new_model("padded", seed=3, vocab_size=len(make_tokenizer()) + 64)
    student, pool = loaded(model_dirs, math=PolicyArgs(path=padded))
    _, ok_B = pool.score(answers(student, prompt(1)), temperature=1.0, max_tokens=1000)
    assert ok_B.all()


def test_other_tokens_are_refused_naming_teacher_and_token(model_dirs, new_model):
    path = new_model("other", tokenizer=make_tokenizer(characters=CHARACTERS[::-1]))
    with pytest.raises(
        UserError, match=r"--model\.teachers\.math has another tokenizer .* token 4 is 'a' to the student"
    ):
        loaded(model_dirs, math=PolicyArgs(path=path))


def test_answers_with_tokens_unknown_to_the_teacher_are_marked_not_scored(new_model, caplog):
    student_path = new_model("student", tokenizer=make_tokenizer(extra=("#",)))
    teacher_path = new_model("teacher", seed=1, vocab_size=80)
    student = Policy.load(PolicyArgs(path=student_path), trainable=True)
    pool = TeacherPool({"math": PolicyArgs(path=teacher_path)})
    with caplog.at_level(logging.WARNING):
        pool.load(student)
    assert "does not know 1 of the student's tokens (#" in caplog.text
    rollouts = answers(student, prompt(1))
    vocabulary = student.tokenizer.get_vocab()
    rollouts.tokens_BT[rollouts.tokens_BT == vocabulary["#"]] = vocabulary["a"]  # what was sampled may hold it too
    rollouts.tokens_BT[1, 0] = vocabulary["#"]
    logps_BT, ok_B = pool.score(rollouts, temperature=1.0, max_tokens=1000)
    assert ok_B.tolist() == [True, False, True]
    assert not logps_BT[1].any()


def test_foreign_ids_of_equal_tokenizers_are_none():
    assert foreign_ids(make_tokenizer(), make_tokenizer(), "math").tolist() == []
