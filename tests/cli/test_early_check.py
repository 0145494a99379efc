"""Unknown options are refused before anything heavy is imported: in the parser's words, and never a known one."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from parsing import SHIPPED, uniopd_parser

from lit_uniopd.cli.commands import TRAINER_COMMANDS
from lit_uniopd.cli.early_check import _outer_options, refuse_unknown_options
from lit_uniopd.cli.entry_point import spell_out
from lit_uniopd.cli.options_in_source import Held, options_in_source
from lit_uniopd.cli.parse_errors import options_of
from lit_uniopd.errors import UserError

ROOT = Path(__file__).parents[2]
OURS = [path for path, (section, _) in SHIPPED.items() if section in ("model", "data")]
MISTAKES = [
    "--model.sampling.nn 3",
    "--model.sampling.nn=3",
    "--model.nonsense 3",
    "--model.loss.gap_treshold -3",
    "--model.gradient_clip -3 --model.gradient_clp -.5",
    "--model.val_sampling.tmperature 3",
    "--model.sampling.colocate.kv_cache 1",
    "--model.student.lora.rnk 3",
    "--model.teachers.math.pth x",
    "--model.teachers.new.http.url [x]",
    "--model.teachers.math.reads.nonsense x",
    "--model.teacher.math.path x",
    "--model.nonsense+=3",
    "--data.nonsense 3",
    "--data.train.pth=x",
    "--data.train '[{path: x}]' --data.train.limt 3",
    "--data.online_balance.nonsense 3",
    "--modl.sampling.n 3",
    "--modl.sampling.nn 3",
    "--modl.nonsense 3",
    "--modl.teachers.math.path x",
    "--sampling.n 3",
    "--nonsense 3",
    "--return_predictions true",
    "--trainer.max_stps 3",
    "--trainr.callbacks+=callbacks.ThreadProbe",
    "--trainer.nonsense 3 --model.nonsense 4",
    "--model lit_uniopd.modules.opd.uni_opd.UniOPD --model.nonsense 3",
    "--model lit_uniopd.modules.uni_opd.UniOPD --model.nonsense 3",
]
LEFT_TO_THE_PARSER = [
    "--model.student.path --model.nonsense 3",
    "--model.nonsense",
    "--model.nonsense --help",
    "--model.nonsense 3 --print_config",
    "--model.help --model.nonsense 3",
    "-- --model.nonsense 3",
    "stray --model.nonsense 3",
    "--model.student.path=--model.nonsense",
    "--model.init_args.nonsense 3",
    "--model.dict_kwargs.nonsense 3",
    "--model.optimizer.nonsense 3",
    "--model.student.config.nonsense 3",
    "--model.teachers.any_name.chat_template_kwargs.nonsense 3",
    "--model.seed.nonsense 3",
    "--model my_file.MyModule --model.nonsense 3",
    "--model UniOPD --model.nonsense 3",
    "--model '{class_path: my_file.MyModule}' --model.nonsense 3",
    "--model.class_path my_file.MyModule --model.nonsense 3",
    "--model lit_uniopd.schedules.WarmupCosine --model.nonsense 3",
    "-c 'model: my_file.MyModule' --model.nonsense 3",
    "--data datamodules.my_file.MyData --data.nonsense 3",
    "--trainer.callbacks+=callbacks.ThreadProbe --trainer.callbacks.nonsense 3",
    "--trainer.callbacks+ callbacks.ThreadProbe",
    "--trainer.logger.nonsense 3 --allow_oom --ckpt_path last --weights_only true --seed_everything 3",
    "'--data.train+={path: x}' --data.train+.path=x",
    "'--model.teachers.math+={path: x}' --model.teachers.code null --model.teachers {} --model.sampling '{n: 3}'",
]


def arguments(line: str, verb: str = "fit") -> list[str]:
    return spell_out([verb, "-c", str(ROOT / "configs/quickstart.yaml"), *shlex.split(line)])


def early(argv: list[str]) -> str:
    with pytest.raises(UserError) as raised:
        refuse_unknown_options(argv)
    return str(raised.value)


@pytest.mark.parametrize("path", OURS)
def test_the_source_has_the_parsers_options(path):
    waiting = [Held(*path.rsplit(".", 1))]
    for held in waiting:  # which grows on the way
        options = options_in_source(held.module, held.name)
        assert options is not None
        __import__(held.module)
        assert list(options) == options_of(f"{held.module}.{held.name}"), held
        waiting += [each for each in options.values() if each is not None and each not in waiting]
    assert len(waiting) > 1 or path == "datamodules.PictureDataModule"


@pytest.mark.parametrize("verb", TRAINER_COMMANDS)
def test_lightnings_source_has_the_parsers_options(verb):
    parser = uniopd_parser()._subcommands_action._name_parser_map[verb]  # type: ignore[attr-defined]
    assert _outer_options(verb) == [each.dest for each in parser._actions if "help" not in each.dest.split(".")]


@pytest.mark.parametrize("line", MISTAKES)
def test_the_parser_would_say_the_same(line):
    words = arguments(line.replace("lit_uniopd.modules.uni_opd.", "lit_uniopd.modules.opd.uni_opd."))
    with pytest.raises(UserError) as raised:
        uniopd_parser().parse_args(words)
    assert early(arguments(line)) == str(raised.value)
    assert "there is no such option" in str(raised.value)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("--modl.sampling.nn", "--model.sampling.n"),
        ("--modl.nonsense", "--model"),
        ("--sampling.n", "--model.sampling.n"),
        ("--model.teacher.math.pth", "--model.teachers"),
        ("--model.teachers.math.lora.rnk", "--model.teachers.math.lora.rank"),
    ],
)
def test_what_is_suggested_exists(typed, meant):
    assert early(arguments(f"{typed} 3")).startswith(f"{typed}: there is no such option (did you mean {meant}?); ")
    refuse_unknown_options(arguments(f"{meant} 3"))


def test_a_section_of_ones_own_class_is_suggested_alone():
    answer = early(arguments("--model my_file.MyModule --modl.sampling.nn 3"))
    assert answer.startswith("--modl.sampling.nn: there is no such option (did you mean --model?); ")


@pytest.mark.parametrize("line", LEFT_TO_THE_PARSER)
def test_what_is_not_certain_is_left_to_the_parser(line):
    refuse_unknown_options(arguments(line))


def test_the_class_is_that_of_the_last_config(tmp_path):
    config = tmp_path / "a.yaml"
    config.write_text("model: {class_path: lit_uniopd.modules.SFT, init_args: {seed: 1}}\n")
    line = f"-c {config} --model.max_answer_tokens 3 --model.teachers.math.path x"
    assert early(arguments(line)).startswith("--model.teachers.math.path: there is no such option (there are policy, ")
    config.write_text("model: {init_args: {seed: 1}}\n")
    assert early(arguments(line)).startswith("--model.max_answer_tokens: there is no such option")


def test_a_users_package_that_hides_ours_is_left_to_the_parser(tmp_path):
    (tmp_path / "datamodules").mkdir()
    (tmp_path / "datamodules/__init__.py").write_text("class PromptDataModule: ...\n")
    code = "import sys\nfrom lit_uniopd.cli.early_check import refuse_unknown_options\nrefuse_unknown_options(sys.argv[1:])"
    command = [sys.executable, "-c", code, *arguments("--data.nonsense 3")]
    paths = {"hiding": f"{tmp_path}{os.pathsep}{ROOT}", "ours": str(ROOT)}
    ends = {
        name: subprocess.run(command, cwd=tmp_path.parent, env={**os.environ, "PYTHONPATH": path}, capture_output=True)
        for name, path in paths.items()
    }
    assert {name: done.returncode for name, done in ends.items()} == {"hiding": 0, "ours": 1}
