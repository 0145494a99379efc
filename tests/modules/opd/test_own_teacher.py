"""A teacher that is the student is told of when training starts; the smallest step away from it is another model."""

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import Prompts, make_tokenizer, module, prompts, trainer
from transformers import AutoModelForCausalLM, AutoTokenizer

from lit_uniopd.modules.opd.own_teacher import same_weights
from lit_uniopd.policy import LoraArgs, Policy, PolicyArgs
from lit_uniopd.teachers import TeacherArgs

ITSELF = "is the student as it is now"


def load(path: str, trainable: bool = False, **options: Any) -> Policy:
    return Policy.load(PolicyArgs(path=path, **options), trainable=trainable)


@pytest.fixture(scope="module")
def family(model_dirs: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The student, a copy of it, and one of whose numbers one has moved by its last digit."""
    root = tmp_path_factory.mktemp("family")
    shutil.copytree(model_dirs["student"], root / "copy")
    model: Any = AutoModelForCausalLM.from_pretrained(model_dirs["student"])
    with torch.no_grad():
        weight = list(model.parameters())[-2].flatten()
        weight[0] = torch.nextafter(weight[0], torch.tensor(9.0))
    model.save_pretrained(root / "moved")
    AutoTokenizer.from_pretrained(model_dirs["student"]).save_pretrained(root / "moved")
    return {"student": model_dirs["student"], "copy": str(root / "copy"), "moved": str(root / "moved")}


def test_the_same_weights_in_any_type_and_under_new_adapters(family):
    student = load(family["student"], trainable=True)
    adapted = load(family["student"], trainable=True, lora=LoraArgs(rank=2, alpha=4))
    for policy in (student, adapted):
        assert same_weights(policy, load(family["copy"]))
        assert same_weights(policy, load(family["copy"], dtype="bfloat16"))
        assert not same_weights(policy, load(family["moved"]))
    with torch.no_grad():
        next(p for name, p in adapted.named_parameters() if ".lora_B." in name).view(-1)[0] = 1e-6
    assert not same_weights(adapted, load(family["copy"]))
    assert all(p.requires_grad for p in student.parameters())  # nothing was changed


def test_another_shape_is_another_model(family, new_model):
    assert not same_weights(load(family["student"]), load(new_model("wide", width=64)))
    assert not same_weights(load(family["student"]), load(new_model("padded", vocab_size=128)))


@pytest.mark.parametrize("which", ["copy", "moved"])
def test_fit_tells_of_it_once(family, tmp_path, caplog, which):
    model = module({"student": family["student"], "math": family[which], "code": family["moved"]})
    with caplog.at_level(logging.WARNING):
        trainer(tmp_path, max_steps=1).fit(model, Prompts(prompts(8)))
    assert caplog.text.count(f"Teacher math {ITSELF}") == (which == "copy")
    assert f"Teacher code {ITSELF}" not in caplog.text


@pytest.mark.parametrize("which", ["student", "moved"])
def test_a_teacher_on_disk_is_known_by_its_path(family, tmp_path, caplog, which):
    cached = TeacherArgs(path=family[which], placement="disk_cache", cache=str(tmp_path / "cache"))
    model = module({**family, "math": "", "code": ""}, teachers={"default": cached})
    with caplog.at_level(logging.WARNING):
        trainer(tmp_path, max_steps=1).fit(model, Prompts(prompts(8)))
    assert caplog.text.count(f"Teacher default {ITSELF}") == (which == "student")


def test_with_another_prompt_the_same_weights_are_another_teacher(family, tmp_path, caplog):
    AutoTokenizer.from_pretrained(family["copy"])
    speaks = make_tokenizer(f"think well\n{make_tokenizer().chat_template}")
    other = Path(shutil.copytree(family["copy"], tmp_path / "other"))
    speaks.save_pretrained(other)
    model = module({"student": family["student"], "math": str(other), "code": family["copy"]})
    with caplog.at_level(logging.WARNING):
        trainer(tmp_path, max_steps=1).fit(model, Prompts(prompts(8)))
    assert f"Teacher math {ITSELF}" not in caplog.text
    assert f"Teacher code {ITSELF}" in caplog.text
