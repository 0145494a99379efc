"""A message names flags to whoever typed flags, and arguments to whoever writes Python."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datamodules import PromptDataModule, SourceArgs
from lit_uniopd.cli import main
from lit_uniopd.errors import UserError
from lit_uniopd.modules import LossArgs, UniOPD
from lit_uniopd.policy.args import LoraArgs, PolicyArgs
from lit_uniopd.teachers import TeacherArgs

TEACHERS = {"math": TeacherArgs("x")}


def read(**options: Any) -> None:
    data = PromptDataModule(train=SourceArgs(**options), batch_size=1)
    data.prepare_data()
    data.setup("fit")


@pytest.fixture
def table(tmp_path: Path) -> str:
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "1+1=", "answer": "2"}) + "\n")
    return str(tmp_path / "rows.jsonl")


MISTAKES: dict[str, tuple[Callable[[str], Any], str]] = {
    "a path": (lambda path: read(path="none.jsonl"), "train.path none.jsonl "),
    "a column": (lambda path: read(path=path, prompt_column="question"), "choose train.prompt_column from "),
    "a share": (
        lambda path: UniOPD(PolicyArgs("x"), TEACHERS, loss=LossArgs(kind="topk", top_k=0)),
        "loss.top_k must be",
    ),
    "no teacher": (lambda path: UniOPD(PolicyArgs("x"), {}), "Set teachers to "),
    "a teacher's option": (
        lambda path: UniOPD(PolicyArgs("x"), {"m": TeacherArgs("x", lora=LoraArgs())}),
        "teachers.m.lora",
    ),
    "a size": (lambda path: PromptDataModule(train=SourceArgs(path), batch_size=0), "batch_size must be at least 1"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_in_python_a_message_names_the_argument(mistake, table, monkeypatch):
    monkeypatch.setattr(UserError, "on_command_line", False)
    make, words = MISTAKES[mistake]
    with pytest.raises(UserError) as raised:
        make(table)
    assert words in str(raised.value)
    assert "--" not in str(raised.value)
    monkeypatch.setattr(UserError, "on_command_line", True)
    assert "--" in str(raised.value)


@pytest.mark.parametrize(
    ("flags", "arguments"),
    [
        ("raise --model.sampling.n or --data.batch_size.", "raise sampling.n or batch_size."),
        ("--data.train[1].path x: mend it.", "train[1].path x: mend it."),
        ("--trainer.max_steps is 0; see --ckpt_path.", "trainer.max_steps is 0; see ckpt_path."),
        (
            "--model.optimizer.init_args.lr; `uniopd export --config c.yaml`.",
            "optimizer.init_args.lr; `uniopd export --config c.yaml`.",
        ),
    ],
)
def test_what_flags_are_called_in_python(flags, arguments, monkeypatch):
    assert str(UserError(flags)) == flags
    monkeypatch.setattr(UserError, "on_command_line", False)
    assert str(UserError(flags)) == arguments


def test_the_command_line_names_flags_and_python_arguments_after_it(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(UserError, "on_command_line", False)
    with pytest.raises(SystemExit):
        main(["fit", "--model=lit_uniopd.modules.UniOPD", "--model.loss.kind=no"])
    assert "error: --model.loss.kind expects" in capsys.readouterr().err
    assert not UserError.on_command_line
