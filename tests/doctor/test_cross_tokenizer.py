"""What the doctor says of a teacher with another tokenizer, before the run and with weights."""

from dataclasses import replace
from typing import Any

import pytest
from doctor_data import of
from tiny import Prompts, make_model, prompts
from tiny_tokenizers import byte_level, sentencepiece, unigram, word_piece

from lit_uniopd.modules import LossArgs
from lit_uniopd.policy import PolicyArgs
from lit_uniopd.teachers import TeacherArgs

FAR = LossArgs(gap_threshold=None)


@pytest.fixture
def other(tmp_path):
    """A student with byte-level BPE, and options of a run whose teacher has another tokenizer."""

    def options(tokenizer, **changed):
        student = str(make_model(tmp_path / "student", tokenizer=byte_level()))
        teacher = str(make_model(tmp_path / "teacher", seed=1, tokenizer=tokenizer))
        settings: dict[str, Any] = {"cross_tokenizer": True} | changed
        args = TeacherArgs(path=teacher, **settings)
        return {"student": PolicyArgs(path=student), "teachers": {"default": args}, "loss": FAR}

    return options


def asked(text: str) -> Prompts:
    return Prompts([replace(p, messages=({"role": "user", "content": text},)) for p in prompts(4)])


def test_one_line_says_how_well_tokens_go_together(examined, other):
    findings = examined(data=asked("the answer"), quick=False, **other(sentencepiece()))
    (tokens,) = of(findings, "tokens default")
    # the| answer against the|▁|answer: two chunks, of which one is of one token each.
    assert tokens.status == "green"
    assert tokens.message.startswith("Another tokenizer (3")
    assert "in 4 texts of the data 50% of the student's tokens stand alone" in tokens.message
    assert tokens.message.endswith("0.0% with none; 2 chunks and 2 tokens each.")
    assert not [f for f in of(findings, "ends") if "eacher" in f.message]  # the ends are aligned, whatever they are
    assert of(findings, "disagreement default")[0].status in ("green", "yellow")
    assert not [f for f in findings if f.status == "red"]


def test_text_that_the_teacher_changes_is_yellow(examined, other):
    (tokens,) = of(examined(data=asked("the\n\n\n🙂"), **other(unigram())), "tokens default")
    assert tokens.status == "yellow"
    assert "trains nothing" in tokens.remedy


def test_what_cannot_be_aligned_is_red_and_the_remedy_is_named(examined, other):
    findings = examined(**other(word_piece()))
    assert [f.status for f in of(findings, "tokens default")] == ["red"]
    findings = examined(**other(sentencepiece(), cross_tokenizer=False))
    (tokens,) = of(findings, "tokens default")
    assert "--model.teachers.default.cross_tokenizer" in f"{tokens.message} {tokens.remedy}"
