"""Every flag that a message, a docstring, a page, a notebook or a config's comment names, against the parsers."""

import ast
import re
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.strategies import ModelParallelStrategy
from parsing import SHIPPED, options_of, uniopd_parser

import lit_uniopd.hallucination.detectors as detectors
from benchmarks.lab.controls import LeaveOut
from datamodules import SentencePairSourceArgs, SourceArgs
from datamodules.show_options import parse as parse_show
from lit_uniopd import schedules, scorers
from lit_uniopd.cli.commands import COMMANDS
from lit_uniopd.distributed.fsdp import FSDP
from lit_uniopd.monitoring.tensorboard_logger import CompactTensorBoardLogger
from lit_uniopd.monitoring.trackio_logger import TrackioLogger
from lit_uniopd.teachers import TeacherArgs

ROOT = Path(__file__).parents[1]
PACKAGES = ("lit_uniopd", "callbacks", "datamodules")
PAGES = ("README.md", "CONTRIBUTING.md", "docs/**/*.md", "configs/**/*.yaml", "notebooks/*.ipynb")
OTHERS = {"sandbox/backends.py", "benchmarks/report/summary.py", "cli/next_commands.py"}
"""Files whose options are those of other programs: bubblewrap, git and Jupyter."""
ELSEWHERE = {"grouped", "logdir", "merge", "model_outputs", "policy", "project", "tasks"}
"""Flags of a benchmark script, TensorBoard, llama.cpp, another project's evaluator, a parser that nobody types to, Trackio,
lmms-eval."""
INSIDE = {
    "model.teachers.NAME": (TeacherArgs,),
    "model.optimizer": (torch.optim.AdamW,),
    "model.lr_scheduler": (schedules.WarmupCosine,),
    "trainer.logger": (
        CompactTensorBoardLogger,
        TensorBoardLogger,
        CSVLogger,
        WandbLogger,
        MLFlowLogger,
        TrackioLogger,
    ),
    "trainer.strategy": (FSDP, ModelParallelStrategy),
    "trainer.callbacks": (LeaveOut,),
    "trainer.callbacks.scorer": tuple(each for each in vars(scorers).values() if isinstance(each, type)),
    "model.detectors": tuple(each for each in vars(detectors).values() if isinstance(each, type)),
}
"""Options that hold a class by its path, or classes by name -> some that they may hold."""


@cache
def options() -> frozenset[str]:
    """Every option of `uniopd fit`, with every shipped class in its place."""
    fit = uniopd_parser()._subcommands_action._name_parser_map["fit"]  # type: ignore[attr-defined]
    keys = {action.dest for action in fit._actions} | {"debug", "version", "print_completion", "profile"}
    for section, classes in [*SHIPPED.values(), *((key, cls) for key, each in INSIDE.items() for cls in each)]:
        for cls in classes if isinstance(classes, tuple) else (classes,):
            keys |= {f"{section}.{option.key}" for option in options_of(cls)}
    for module in [*(command.module for command in COMMANDS.values()), parse_show.__module__]:
        source = (ROOT / f"{module.replace('.', '/')}.py").read_text()
        keys |= set(re.findall(r'add_argument\(\s*"--([\w-]+)"', source))
    # `uniopd data show` takes the options of a source without their prefix.
    keys |= {field.name for source in (SourceArgs, SentencePairSourceArgs) for field in fields(source)}
    return frozenset(keys)


def exists(flag: str) -> bool:
    """Whether a flag, with {} for what a message fills in, is an option or holds some."""
    if set(flag) <= set("{}.") or flag in ELSEWHERE:
        return True
    flag = re.sub(r"\.init_args\b|\+$|(?<=_kwargs)\..*", "", flag)
    flag = re.sub(r"^(model\.teachers)\.(\w+|\{\})(?=\.|$)", r"\1.NAME", flag)
    pattern = re.escape(flag).replace(r"\{\}", r"[\w.]+").replace("X", r"\w+")
    start = r"(?:[\w.]+\.)?" if flag.startswith("{}") else ""
    return any(re.match(rf"{start}{pattern}(?:\.|$)", key) for key in options())


def texts_of(path: Path) -> Iterator[str]:
    """The texts of a Python file, with {} for what is filled in."""
    inside = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            inside |= {id(part) for part in node.values}
            text = ""
            for part in node.values:
                if isinstance(part, ast.FormattedValue):
                    is_flag = re.fullmatch(r"(\w+\.)?\w*flag", ast.unparse(part.value))
                    text += "--{}" if is_flag and not text.endswith("--") else "{}"
                elif isinstance(part, ast.Constant):
                    text += str(part.value)
            yield text
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield node.value


def flags_in(text: str) -> list[str]:
    return [flag.rstrip(".") for flag in re.findall(r"(?<![\w-])--([a-zA-Z{][\w.{}+]*)(?![\w-]*-\w)", text)]


FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
SPOKEN = {str(path.relative_to(ROOT)): path for path in FILES if not any(str(path).endswith(each) for each in OTHERS)}
WRITTEN = [path for pattern in PAGES for path in sorted(ROOT.glob(pattern))]


def test_every_flag_of_a_message_exists():
    named = {(flag, file) for file, path in SPOKEN.items() for text in texts_of(path) for flag in flags_in(text)}
    assert len({flag for flag, _ in named}) > 100
    assert sorted((flag, file) for flag, file in named if not exists(flag)) == []


def test_what_a_message_asks_to_set_exists():
    leaves = {name for key in options() for name in key.split(".")} | {
        "answers",
        "is_decoder",
    }  # of the datamodule, of a model's config
    texts = {text for path in SPOKEN.values() for text in texts_of(path) if text.endswith(".")}
    named = {name for text in texts for name in re.findall(r"\b(?:by|set) `([a-z_]+)(?=[`:])", text)}
    assert len(named) > 4
    assert named <= leaves


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_flag_of_a_page_exists(path: Path):
    dotted = [flag for flag in flags_in(path.read_text()) if re.match(r"(model|data|trainer)\.", flag)]
    assert [flag for flag in dict.fromkeys(dotted) if not exists(flag)] == []


@pytest.mark.parametrize(
    ("flag", "there"),
    [
        ("model.loss.gap_threshold", True),
        ("model.teachers.law.path", True),
        ("model.teachers.{}.http.urls", True),
        ("{}.lora.rank", True),
        ("data.{}.path", True),
        ("trainer.logger.init_args.save_dir", True),
        ("data.train.answer", False),
        ("model.loss.gap", False),
        ("model.teachers.law.pth", False),
        ("{}.lora.r", False),
        ("trainer.steps", False),
    ],
)
def test_what_does_not_exist_is_seen(flag, there):
    assert exists(flag) == there
