"""What is certainly wrong is refused before anything heavy is imported: in the later words, and never what is right."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from jsonargparse import ArgumentParser
from parsing import SHIPPED, uniopd_parser

from lit_uniopd.cli.app import run
from lit_uniopd.cli.commands import TRAINER_COMMANDS
from lit_uniopd.cli.early_check import _outer_options, refuse_wrong_options
from lit_uniopd.cli.early_run_check import refuse_vain_run
from lit_uniopd.cli.entry_point import spell_out
from lit_uniopd.cli.options_in_source import Held, Plain, names_in_source, options_in_source, trainer_methods
from lit_uniopd.cli.parse_errors import options_of
from lit_uniopd.cli.typed_options import OURS as PACKAGES
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
WRONG_VALUES = [
    "--model.sampling.n abc",
    "--model.sampling.n=2.5",
    "--model.sampling.n true",
    "--model.sampling.n=-1e3",
    "--model.sampling.n -3.5",
    "--model.sampling.n 3 --model.sampling.n abc",
    "--model.gradient_clip=-x",
    "--model.seed 1.5",
    "--model.loss.kind forwardkl",
    "--model.loss.kind 5",
    "--model.loss.gap_threshold big",
    "--model.student.dtype float23",
    "--model.student.lora.rank 1.5",
    "--model.student.share_prompts 3",
    "--model.student.share_prompts maybe",
    "--model.teachers.math.lora.dropout much",
    "--model.teachers.new.placement gpu",
    "--model.val_sampling.engine vlm",
    "--model.sampling.server.requests few",
    "--data.train.limit few",
    "--data.train.limit -2.5",
    "--data.train.weight heavy",
    "--data.train.format verll",
    "--data.shuffle maybe",
    "--data.online_balance.scope all",
    "--trainer.max_steps many",
    "--trainer.max_steps 1e3",
    "--trainer.max_epochs -1.5",
    "--trainer.limit_train_batches all",
    "--trainer.enable_progress_bar maybe",
    "--trainer.fast_dev_run 0.5",
    "--model lit_uniopd.modules.UniOPDD",
    "--model lit_uniopd.modules.OmniDPOO",
    "--model.class_path lit_uniopd.modules.UniOPD --model lit_uniopd.modules.Sentinell",
    "--data datamodules.PromptDataModul",
]
RIGHT_VALUES = [
    "--model.sampling.n 3 --model.seed -3 --model.seed null --model.sampling.n 0x10",
    "--model.sampling.temperature 1 --model.sampling.temperature 1e-3 --model.sampling.top_p=.5",
    "--model.gradient_clip -.5 --model.gradient_clip null --model.gradient_clip .inf",
    "--model.loss.kind forward_kl --model.loss.kind='topk' --model.student.dtype auto",
    "--model.student.share_prompts no --model.student.share_prompts True",
    "--model.student.lora null --model.student.lora.rank 3 --model.student.lora '{rank: 4}'",
    "--model.teachers.math.lora.rank -3 --model.teachers '{math: {path: x, placement: http}}'",
    "--model.sampling '{n: 3}'",
    "--data.train.limit null --data.train.limit 5 --data.train.weight 2 --data.train.path 5",
    "--data.train '[{path: x}, {path: y}]' --data.train.limit 5 --data.train.domain no",
    "--trainer.max_steps -1 --trainer.max_epochs null --trainer.limit_train_batches .5 --trainer.fast_dev_run 3",
    "--trainer.devices auto --trainer.precision bf16-true --trainer.val_check_interval 3 --trainer.benchmark yes",
    "--model lit_uniopd.modules.SFT --model.policy.path x",
    "--model lit_uniopd.modules.sft.SFT --model.policy.path x",
]
"""Of a line that the parser takes."""
VALUES_LEFT_TO_THE_PARSER = [
    "--model.gradient_clip -x",
    "--model.sampling.n -1e3",
    "--model.sampling.n abc --model.sampling.n 3",
    "--model.sampling.n abc --model.sampling '{n: 3}'",
    "--model.sampling.n abc -c quickstart",
    "--model.sampling.n abc stray",
    "--model.sampling.n abc --print_config",
    "--model.sampling.n null",
    "--model.sampling.n [1]",
    "--model.sampling.n=",
    "--model.sampling.n+=abc",
    "--model.init_args.sampling.n abc",
    "--model my_file.MyModule --model.sampling.n abc",
    "--data datamodules.my_file.MyData --data.train.limit few",
    "--trainer.precision bf17 --trainer.accelerator banana --trainer.devices x --trainer.max_time x",
    "--model lit_uniopd.modules.UniOPDD --model lit_uniopd.modules.UniOPD",
    "--model lit_uniopd.modules.UniOPDD -c quickstart",
    "--model lit_uniopd.modules.sft",
    "--model lit_uniopd.modules.opd",
    "--model lit_uniopd.modules.NothingLikeIt",
    "--model lit_uniopd.modules.sft.SFTT",
    "--model.class_path lit_uniopd.modules.UniOPDD",
    "--model my_file.UniOPDD",
]
VAIN = {
    "--trainer.max_steps 0": "--trainer.max_steps 0 trains nothing; ",
    "--trainer.max_steps 3 --trainer.max_epochs 0": "--trainer.max_epochs 0 trains nothing; ",
    "--trainer.limit_train_batches 0.0": "--trainer.limit_train_batches 0 trains nothing; ",
    "--ckpt_path none.ckpt": "--ckpt_path none.ckpt does not exist; ",
    "--data.train.path none.jsonl": "--data.train.path none.jsonl matches no file (looked from ",
    "--data.val.path=none/*.parquet": "--data.val.path none/*.parquet matches no file (looked from ",
    "--model.student.path ./none": "--model.student.path ./none: there is no such directory; ",
    "--model.student.path=~/none": "--model.student.path ~/none: there is no such directory; ",
}
VAIN_ELSEWHERE = {
    ("validate", "--data.val.path none.jsonl"): "--data.val.path none.jsonl matches no file",
    ("test", "--data.test.path ./none"): "--data.test.path ./none matches no file",
    ("predict", "--data.predict.path none.csv"): "--data.predict.path none.csv matches no file",
    ("predict", "--ckpt_path none.ckpt"): "--ckpt_path none.ckpt does not exist",
    ("fit", "--ckpt_path last --ckpt_path none.ckpt"): "--ckpt_path none.ckpt does not exist",
    ("fit", "-c lists.yaml --model.student.path /none"): "--model.student.path /none: there is no such directory",
}
NOT_CERTAINLY_VAIN = [
    "--trainer.max_steps 0 --trainer.max_steps 3",
    "--trainer.max_steps 0 -c quickstart",
    "--trainer.max_steps 0 --trainer.fast_dev_run true",
    "-c fast.yaml --trainer.max_steps 0",
    "--trainer fast.yaml --trainer.max_steps 0",
    "--trainer.max_steps 0 stray",
    "--trainer.max_steps 0 --help",
    "--trainer.max_steps -1 --trainer.max_epochs null --trainer.limit_train_batches 1.0 --trainer.min_steps 0",
    "--ckpt_path last",
    "--ckpt_path null",
    "--ckpt_path here.jsonl",
    "--ckpt_path none.ckpt --ckpt_path last",
    "--ckpt_path none.ckpt -c quickstart",
    "--data.train.path owner/name",
    "--data.train.path playground:none",
    "--data.train.path here.jsonl",
    "--data.train.path '*.jsonl'",
    "--data.train.path ./",
    "--data.train.path [none.jsonl]",
    "--data.train.path null",
    "--data.test.path none.jsonl --data.predict.path none.jsonl",
    "--data.train.path none.jsonl --data.train null",
    "--data.train.path none.jsonl --data.train '{path: here.jsonl}'",
    "--data.train.path none.jsonl --data.init_args.train.path here.jsonl",
    "--data.train.path none.jsonl -c quickstart",
    "--data.train '[{path: here.jsonl}]' --data.train.path none.jsonl",
    "'--data.train+={path: here.jsonl}' --data.train.path none.jsonl",
    "-c lists.yaml --data.train.path none.jsonl",
    "-c elsewhere.yaml --data.train.path none.jsonl",
    "--data datamodules.my_file.MyData --data.train.path none.jsonl",
    "--model.student.path owner/name",
    "--model.student.path playground:student",
    "--model.student.path ./here.jsonl",
    "--model.student.path ./none --model.student.path owner/name",
    "--model.student.path ./none --model.student '{path: owner/name}'",
    "--model.student '{config: {model_type: qwen3}, tokenizer: x}' --model.student.path ./none",
    "--model.student.config '{model_type: qwen3}' --model.student.path ./none",
    "-c configured.yaml --model.student.path ./none",
    "-c elsewhere.yaml --model.student.path ./none",
    "--model.teachers.math.path ./none --model.student.tokenizer ./none",
    "--model my_file.MyModule --model.student.path ./none",
]


def arguments(line: str, verb: str = "fit") -> list[str]:
    return spell_out([verb, "-c", str(ROOT / "configs/quickstart.yaml"), *shlex.split(line)])


def early(argv: list[str]) -> str:
    with pytest.raises(UserError) as raised:
        refuse_wrong_options(argv)
    return str(raised.value)


@pytest.fixture
def desk(tmp_path, monkeypatch) -> Path:
    """A working directory with configs that say more than keys and values."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.jsonl").write_text(json.dumps({"prompt": "1+1=", "answer": "2"}) + "\n")
    for name, text in {
        "fast": "trainer: {fast_dev_run: true}",
        "lists": "data: {init_args: {train: [{path: here.jsonl}]}}",
        "elsewhere": "data: {init_args: {train: train.yaml}}\nmodel: {init_args: {student: student.yaml}}",
        "configured": "model: {init_args: {student: {config: {model_type: qwen3}}}}",
    }.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    return tmp_path


@pytest.mark.parametrize("path", OURS)
def test_the_source_has_the_parsers_options(path):
    waiting = [Held(*path.rsplit(".", 1))]
    for held in waiting:  # which grows on the way
        options = options_in_source(held.module, held.name)
        assert options is not None
        __import__(held.module)
        assert list(options) == options_of(f"{held.module}.{held.name}"), held
        parser = ArgumentParser(exit_on_error=False)
        parser.add_class_arguments(getattr(sys.modules[held.module], held.name), fail_untyped=False)
        types = {each.dest: getattr(each, "_typehint", each.type) for each in parser._actions}
        plain = {key: each.type for key, each in options.items() if isinstance(each, Plain)}
        assert plain == {key: types[key] for key in plain}, held
        waiting += [each for each in options.values() if isinstance(each, Held) and each not in waiting]
    assert len(waiting) > 1 or path == "datamodules.PictureDataModule"


@pytest.mark.parametrize("verb", TRAINER_COMMANDS)
def test_lightnings_source_has_the_parsers_options(verb):
    parser = uniopd_parser()._subcommands_action._name_parser_map[verb]  # type: ignore[attr-defined]
    assert _outer_options(verb) == [each.dest for each in parser._actions if "help" not in each.dest.split(".")]
    types = {each.dest: getattr(each, "_typehint", each.type) for each in parser._actions}
    options = {f"trainer.{key}": each.type for key, each in trainer_methods()["__init__"].items() if each}
    assert options == {key: types[key] for key in options}
    assert len(options) > 15


@pytest.mark.parametrize("package", PACKAGES.values())
def test_the_source_has_all_names_of_a_package(package):
    assert {name for name in dir(sys.modules[package]) if not name.startswith("__")} <= {*names_in_source(package)}


@pytest.mark.parametrize("line", MISTAKES)
def test_the_parser_would_say_the_same(line):
    words = arguments(line.replace("lit_uniopd.modules.uni_opd.", "lit_uniopd.modules.opd.uni_opd."))
    with pytest.raises(UserError) as raised:
        uniopd_parser().parse_args(words)
    assert early(arguments(line)) == str(raised.value)
    assert "there is no such option" in str(raised.value)


@pytest.mark.parametrize("line", WRONG_VALUES)
def test_the_parser_would_say_the_same_of_a_value(line):
    with pytest.raises(UserError) as raised:
        uniopd_parser().parse_args(arguments(line))
    assert early(arguments(line)) == str(raised.value)
    assert " expects " in str(raised.value) or "there is no" in str(raised.value)


@pytest.mark.parametrize("line", RIGHT_VALUES)
@pytest.mark.thinned(2)
def test_what_the_parser_takes_is_not_refused(line):
    uniopd_parser().parse_args(arguments(line))
    refuse_wrong_options(arguments(line))


@pytest.mark.parametrize("line", VALUES_LEFT_TO_THE_PARSER)
def test_a_value_that_is_not_certain_is_left_to_the_parser(line):
    refuse_wrong_options(arguments(line))


@pytest.mark.parametrize("line", VAIN)
@pytest.mark.thinned(2)
def test_the_run_would_say_the_same(line, desk, model_dirs):
    teachers = {name: {"path": model_dirs[name]} for name in ("math", "code")}
    model = {"student": {"path": model_dirs["student"]}, "teachers": teachers}
    data = {"train": {"path": "here.jsonl"}, "val": {"path": "here.jsonl"}}
    (desk / "tiny.yaml").write_text(json.dumps({"model": {"init_args": model}, "data": {"init_args": data}}))
    words = arguments(f"-c tiny.yaml {line}")
    refuse_wrong_options(words)
    with pytest.raises(UserError) as early:
        refuse_vain_run(words)
    assert str(early.value).startswith(VAIN[line])
    with pytest.raises(UserError) as late:
        run(words)
    assert str(early.value) == str(late.value)


@pytest.mark.parametrize(("verb", "line"), VAIN_ELSEWHERE)
def test_what_a_verb_needs_must_be_there(verb, line, desk):
    with pytest.raises(UserError) as raised:
        refuse_vain_run(arguments(line, verb))
    assert str(raised.value).startswith(VAIN_ELSEWHERE[verb, line])


@pytest.mark.parametrize("line", NOT_CERTAINLY_VAIN)
def test_what_may_not_be_vain_is_left_to_the_run(line, desk):
    refuse_vain_run(arguments(line))


def test_what_a_verb_does_not_read_may_be_missing(desk):
    refuse_vain_run(
        arguments("--trainer.max_steps 0 --data.train.path none.jsonl --model.student.path ./none", "validate")
    )


def test_the_paths_are_those_of_data_and_models():
    from datamodules.tables import TableArgs
    from lit_uniopd.policy import PolicyArgs

    wanting = set()
    for path in OURS:
        for key in ("train", "val", "test", "predict", "student", "policy"):
            held = (options_in_source(*path.rsplit(".", 1)) or {}).get(key)
            if held is not None:
                assert isinstance(held, Held)
                kind = TableArgs if path.startswith("datamodules.") else PolicyArgs
                assert issubclass(getattr(sys.modules[held.module], held.name), kind)
                wanting.add(key)
    assert len(wanting) == 6


def test_nothing_heavy_is_imported_for_an_answer(tmp_path):
    code = """
import json, sys
from lit_uniopd.cli import main
answers = []
for argv in json.loads(sys.argv[1]):
    try:
        main(argv)
    except SystemExit as stop:
        answers.append(stop.code)
print(answers, [m for m in ("torch", "lightning", "transformers", "datasets", "huggingface_hub") if m in sys.modules])
"""
    lines = [*map(arguments, ["--model.nonsense 3", *WRONG_VALUES, *VAIN])]
    lines += [["doctor", *arguments(line)[1:]] for line in ("--nonsense 3", "--model.sampling.n abc")]
    lines += [["push", "runs/none", "me/repo"], ["export", "runs/none", "out"]]
    command = [sys.executable, "-c", code, json.dumps(lines)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == f"{[2] * len(lines)} []"


def test_the_doctor_names_its_own_help(desk):
    from lit_uniopd.doctor.cli import main as doctor

    with pytest.raises(
        UserError, match=r"^--nonsense: .*`uniopd doctor --help` and `fit --help` list what there is\.$"
    ):
        doctor(arguments("--nonsense 3")[1:])


def test_a_class_that_a_folder_of_the_users_may_hold_is_left_to_the_parser(desk):
    refuse_wrong_options(arguments("--data datamodules.PromptDataModule"))
    early(arguments("--data datamodules.PromptDataModul"))
    (desk / "datamodules").mkdir()
    assert names_in_source("datamodules") == []
    refuse_wrong_options(arguments("--data datamodules.PromptDataModul"))


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
    refuse_wrong_options(arguments(f"{meant} 3"))


def test_a_section_of_ones_own_class_is_suggested_alone():
    answer = early(arguments("--model my_file.MyModule --modl.sampling.nn 3"))
    assert answer.startswith("--modl.sampling.nn: there is no such option (did you mean --model?); ")


@pytest.mark.parametrize("line", LEFT_TO_THE_PARSER)
def test_what_is_not_certain_is_left_to_the_parser(line):
    refuse_wrong_options(arguments(line))


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
    code = "import sys\nfrom lit_uniopd.cli.early_check import refuse_wrong_options\nrefuse_wrong_options(sys.argv[1:])"
    command = [sys.executable, "-c", code, *arguments("--data.nonsense 3")]
    paths = {"hiding": f"{tmp_path}{os.pathsep}{ROOT}", "ours": str(ROOT)}
    ends = {
        name: subprocess.run(command, cwd=tmp_path.parent, env={**os.environ, "PYTHONPATH": path}, capture_output=True)
        for name, path in paths.items()
    }
    assert {name: done.returncode for name, done in ends.items()} == {"hiding": 0, "ours": 1}
