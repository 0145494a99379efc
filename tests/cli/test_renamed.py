"""A `config.yaml` that commit 838f5a7 wrote, before its modules moved, and what a user may have typed then."""

import importlib
import logging
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from lit_uniopd.benchmarks.harness.args import HarnessArgs
from lit_uniopd.cli import main
from lit_uniopd.cli.renamed import MOVED, with_current_class_paths
from lit_uniopd.sampling import ColocateArgs

# uniopd fit -c configs/uni_opd/multi_teacher.yaml -c configs/trainer/fsdp.yaml --print_config
OLD = Path(__file__).parent / "config_of_838f5a7.yaml"


def printed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict:
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--print_config"])
    assert not stop.value.code
    return yaml.safe_load(capsys.readouterr().out)


def test_an_old_config_means_what_it_meant(capsys, caplog):
    with caplog.at_level(logging.INFO, logger="lit_uniopd"):
        config = printed(["fit", "-c", str(OLD), f"--config={OLD}", "--trainer.max_steps=7"], capsys)
    assert caplog.messages == [f"{OLD}: lit_uniopd.fsdp is now lit_uniopd.distributed.fsdp."] * 2
    old = yaml.safe_load(OLD.read_text())
    assert config["trainer"]["strategy"].pop("class_path") == "lit_uniopd.distributed.fsdp.FSDP"
    assert old["trainer"]["strategy"].pop("class_path") == "lit_uniopd.fsdp.FSDP"
    # New since: weights were read whole by every rank, in one copy of all, and time-outs were PyTorch's.
    old["trainer"]["strategy"]["init_args"] |= {"read_shards": True, "data_parallel_replicate": 1, "timeout": "2:00:00"}
    old["model"]["init_args"]["loss"]["gap_mask_ends"] = False  # new since: ends are spared unless asked for
    old["model"]["init_args"]["sampling"]["colocate"] = asdict(ColocateArgs())  # new since, and not used by the loop
    old["model"]["init_args"]["sampling"]["lag"] = 0  # new since: a rollout was written when it was trained on
    old["model"]["init_args"]["grader_killed"] = "incorrect"  # new since: killed answers were unknown
    old["model"]["init_args"]["loss"] |= {"keep_tokens": 1.0, "entry_clip": None}  # new since: all tokens, no limit
    old["model"]["init_args"]["advantage"] |= {"baseline": "none", "reference_weight": 0.0}  # new since
    old["model"]["init_args"]["warm_start"] = None  # new since: the student wrote from the first step on
    old["model"]["init_args"]["split_groups"] = 1  # new since: ranks wrote whole groups
    old["model"]["init_args"]["horizon"] = None  # new since: answers of full length from the first step on
    old["model"]["init_args"]["student"]["freeze_vision"] = False  # new since: all of a model was trained
    update = {"compile": False, "activation_offloading": False, "use_kernels": False}  # new since: layers as they are
    old["model"]["init_args"]["student"] |= update
    for teacher in old["model"]["init_args"]["teachers"].values():
        teacher |= {"freeze_vision": False, **update}
        teacher["reads"] = None  # new since: it reads what the student reads
        teacher["gather"] = "whole"  # new since: that was the only way
        teacher["cross_tokenizer"] = False  # new since: it has the student's tokens
        teacher |= {"weights": "path", "decay": 0.999, "mixture": None}  # new since: the model of its path
        teacher["mixture_kind"] = "arithmetic"  # new since, and there is none
    assert config.pop("allow_oom") is False  # new since: what may not fit was begun
    for callback in old["trainer"]["callbacks"]:
        if callback["class_path"] == "callbacks.BenchmarkEvaluation":
            callback["init_args"]["harness"] = asdict(HarnessArgs())  # new since: tasks of lm-eval
            callback["init_args"]["judge"] = None  # new since: judged benchmarks were answered alone
    data = old["data"]["init_args"]
    data["global_batch_size"] = None  # new since: batch_size is of each rank
    for source in (data["train"], data["val"]):
        source |= {"format": None, "image_folder": None, "row_graders": [], "streaming": False}  # new since
        source |= {f"{name}_column": name for name in ("teacher_prompt", "teacher_system", "teacher_images")}
    assert config == {**old, "trainer": {**old["trainer"], "max_steps": 7}, "ckpt_path": config["ckpt_path"]}


@pytest.mark.parametrize("option", [["--model=OLD"], ["--model", "OLD"]])
def test_an_old_class_path_on_the_command_line(option, capsys):
    option = [word.replace("OLD", "lit_uniopd.modules.uni_opd.UniOPD") for word in option]
    config = printed(["fit", "-c", str(OLD), *option], capsys)
    assert config["model"]["class_path"] == "lit_uniopd.modules.opd.uni_opd.UniOPD"
    assert config["model"]["init_args"]["sampling"]["n"] == 16  # as in the file


def test_what_has_not_moved_stays(tmp_path):
    current = tmp_path / "config.yaml"
    current.write_text("model: {class_path: lit_uniopd.modules.evaluation_base.X}\n")
    arguments = [
        "fit",
        "-c",
        str(current),
        "--a",
        "my_lit_uniopd.fsdp.FSDP",
        "--b=lit_uniopd.fsdp.shards",
        "-c",
        "none",
    ]
    assert with_current_class_paths(arguments) == arguments


def test_a_mistake_in_an_old_config_is_answered_as_ever(tmp_path, capsys):
    (tmp_path / "old.yaml").write_text(OLD.read_text().replace("num_nodes: 1", "num_nods: 1"))
    with pytest.raises(SystemExit):
        main(["fit", "-c", str(tmp_path / "old.yaml")])
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert "num_nods" in error


@pytest.mark.parametrize("old", MOVED)
def test_every_module_is_where_the_table_says(old):
    package = old.rpartition(".")[0]
    assert importlib.import_module(MOVED[old])
    assert find_spec(package) is None or find_spec(old) is None
