"""The forms in which sources of data can be written in YAML and on the command line."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from jsonargparse import set_parsing_settings
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningCLI

from datamodules import PromptDataModule, SourceArgs

# LightningCLI 2.6 calls what jsonargparse 4.53 is about to rename.
pytestmark = pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning")

A, B = SourceArgs("a.jsonl"), SourceArgs("b.jsonl")
YAML = """
data:
  class_path: datamodules.PromptDataModule
  init_args:
    train:
    - path: a.jsonl
      prompt_column: question
    - {path: b.jsonl, weight: 2, teacher: big, id_column: null}
    val: {path: v.jsonl}
"""


class Nothing(LightningModule):
    pass


def parse(*args: str) -> PromptDataModule:
    cli = LightningCLI(
        Nothing,
        LightningDataModule,
        subclass_mode_data=True,
        run=False,
        seed_everything_default=False,
        auto_configure_optimizers=False,
        save_config_callback=None,
        trainer_defaults={"logger": False, "accelerator": "cpu", "enable_checkpointing": False},
        args=list(args),
    )
    assert isinstance(cli.datamodule, PromptDataModule)
    return cli.datamodule


def train(*args: str) -> list[SourceArgs]:
    return list(parse("--data=datamodules.PromptDataModule", *args).sources["train"].values())


@pytest.fixture(autouse=True)
def _as_run_by_the_command(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("sys.argv", ["uniopd"])  # or LightningCLI would see pytest's arguments
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    yield
    set_parsing_settings(docstring_parse_attribute_docstrings=False)


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--data.train.path=a.jsonl"], [A]),
        (["--data.train={path: a.jsonl}"], [A]),
        (["--data.train=[{path: a.jsonl}, {path: b.jsonl}]"], [A, B]),
        (["--data.train+={path: a.jsonl}", "--data.train+={path: b.jsonl}"], [A, B]),
        (
            [
                "--data.train.path=a.jsonl",
                "--data.train.weight=2",
                "--data.train.prompt_column=q",
                "--data.train.limit=9",
            ],
            [SourceArgs("a.jsonl", weight=2.0, prompt_column="q", limit=9)],
        ),
        (
            ["--data.train.path=a.jsonl", "--data.train.id_column="],
            [SourceArgs("a.jsonl", id_column="")],
        ),
    ],
)
def test_sources_on_the_command_line(args: list[str], expected: list[SourceArgs]):
    assert train(*args) == expected


def test_sources_in_yaml_and_changes_on_top(tmp_path: Path):
    config = tmp_path / "c.yaml"
    config.write_text(YAML)
    first = SourceArgs("a.jsonl", prompt_column="question")
    second = SourceArgs("b.jsonl", weight=2.0, teacher="big", id_column=None)

    data = parse(f"--config={config}")
    assert list(data.sources["train"].values()) == [first, second]
    assert data.sources["val"] == {"--data.val": SourceArgs("v.jsonl")}
    data = parse(f"--config={config}", "--data.val.path=w.jsonl", "--data.train+={path: c.jsonl}")
    assert list(data.sources["train"].values()) == [first, second, SourceArgs("c.jsonl")]
    assert data.sources["val"] == {"--data.val": SourceArgs("w.jsonl")}
    data = parse(f"--config={config}", "--data.train={path: mine.jsonl}")
    assert data.sources["train"] == {"--data.train": SourceArgs("mine.jsonl")}


def test_an_unknown_key_stops(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        train("--data.train=[{path: a.jsonl, wieght: 2}]")
    assert "wieght" in capsys.readouterr().err


def test_help_shows_the_strings_beneath_the_fields(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        parse("--data=PromptDataModule", "--data.train.help=SourceArgs")
    help_text = " ".join(capsys.readouterr().out.split())
    assert (
        "A file (.jsonl, .json, packed ones too, .parquet, .arrow, .csv, .tsv), a glob or a folder of such files"
        in help_text
    )
    assert "Column of the gold answer" in help_text
