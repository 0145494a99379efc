"""Whether a student would draw what its teacher would have written."""

from typing import Any

import pytest
import torch
from doctor_data import of
from tiny import make_tokenizer, prompts
from transformers import AutoModelForCausalLM

from lit_uniopd.doctor import coverage
from lit_uniopd.doctor.coverage import first_partings, over_student
from lit_uniopd.modules import LossArgs
from lit_uniopd.modules.opd.warm_start import WarmStartArgs
from lit_uniopd.policy import Policy, PolicyArgs
from lit_uniopd.sampling import SamplingArgs
from lit_uniopd.sampling.rollouts import write_answers
from lit_uniopd.teachers import ReadsArgs, TeacherArgs
from lit_uniopd.teachers.pool import TeacherPool


def logits(path: str, prompt: str, answer: list[int]) -> torch.Tensor:
    """Of all tokens at each place of an answer, by plain transformers in float64."""
    tokens = make_tokenizer()(prompt, add_special_tokens=False).input_ids
    model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64)
    return model(input_ids=torch.tensor([[*tokens, *answer]])).logits[0, len(tokens) - 1 : -1].detach()


@pytest.mark.parametrize("own", [False, True])
def test_probabilities_where_they_first_part_are_those_of_plain_transformers(model_dirs, own):
    """Of another model, and of the student itself behind another prompt."""
    student = Policy.load(PolicyArgs(path=model_dirs["student"]), trainable=True)
    reads = ReadsArgs(template="yes {prompt}")
    args = TeacherArgs(weights="student", reads=reads) if own else TeacherArgs(path=model_dirs["code"], reads=reads)
    pool = TeacherPool({"default": args})
    pool.load(student)
    rollouts = write_answers(student, prompts(3), SamplingArgs(n=2, max_new_tokens=6), seed=0)
    probs = first_partings(student, pool, "default", rollouts, 0.7)
    expected = []
    for prompt, ids, length in zip(
        rollouts.prompts, rollouts.tokens_BT.tolist(), rollouts.lengths_B.tolist(), strict=True
    ):
        asked, path = prompt.messages[0]["content"], model_dirs["student" if own else "code"]
        p = logits(model_dirs["student"], f"<bos>u:{asked}<end><bos>a:", ids[:length])
        top = logits(path, f"<bos>u:yes {asked}<end><bos>a:", ids[:length]).argmax(-1)
        parted = (top != p.argmax(-1)).nonzero()[:, 0].tolist()
        if parted:
            expected.append(float((p[parted[0]] / 0.7).softmax(-1)[top[parted[0]]]))
    assert expected
    torch.testing.assert_close(probs.double(), torch.tensor(expected, dtype=torch.float64), atol=1e-5, rtol=1e-4)


def test_the_doctor_says_which_loss_suits(examined, monkeypatch):
    monkeypatch.setattr(coverage, "first_partings", lambda *_: torch.tensor([0.5, 0.01, 0.04]))
    few, many = SamplingArgs(n=2, max_new_tokens=6), SamplingArgs(n=30, max_new_tokens=6)
    finding = of(examined(quick=False, sampling=few), "coverage math")[0]
    assert finding.status == "yellow"
    assert (
        "(3 of 4 answers), the student gives it probability 0.04 (median; least 0.01): of 2 answers" in finding.message
    )
    assert "answers to a prompt 0.08 have it there, so --model.loss.kind sampled will hardly" in finding.message
    assert "--model.loss.kind forward_kl" in str(finding.remedy)
    fine: list[dict[str, Any]] = [
        {"sampling": many},
        {"sampling": few, "loss": LossArgs(kind="forward_kl")},
        {"sampling": few, "warm_start": WarmStartArgs(4)},
    ]
    for options in fine:
        assert of(examined(quick=False, **options), "coverage math")[0].status == "green"
    monkeypatch.setattr(coverage, "first_partings", lambda *_: torch.tensor([]))
    assert "same words likeliest in all" in of(examined(quick=False), "coverage math")[0].message


def test_losses_that_the_student_weighs():
    kinds = {kind: over_student(LossArgs(kind=kind)) for kind in ("sampled", "reverse_kl", "forward_kl", "jsd", "topk")}
    assert kinds == {"sampled": True, "reverse_kl": True, "forward_kl": False, "jsd": False, "topk": True}
    assert not over_student(LossArgs(kind="topk", top_k_direction="forward"))


def test_teachers_without_distributions_are_left_out(examined, healthy, tmp_path):
    cached = TeacherArgs(path=healthy["math"], placement="disk_cache", cache=str(tmp_path))
    names = {finding.name for finding in examined(quick=False, teachers={"default": cached})}
    assert "disagreement default" in names
    assert "coverage default" not in names
