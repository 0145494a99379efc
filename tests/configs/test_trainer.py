"""What the files of `configs/trainer/` must say, and that they fit behind every science config."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny import Prompts, module, prompts, trainer

from lit_uniopd.cli import main
from lit_uniopd.distributed.fsdp import FSDP
from lit_uniopd.distributed.sharding import ShardingArgs
from lit_uniopd.errors import UserError

ROOT = Path(__file__).parents[2] / "configs"
SCIENCE = {
    "uni_opd": ["uni_opd/multi_teacher.yaml"],
    "quickstart": ["quickstart.yaml"],
    "omni_dpo": ["omni_dpo/llama3_8b_instruct.yaml"],
    "sentinel": ["sentinel/llava_1_5_7b.yaml"],
    "sft": ["sft.yaml"],
}
VALIDATED = {"benchmarks": ["benchmarks.yaml"], "bootstrap": ["sentinel/bootstrap.yaml"]}


def printed(capsys: pytest.CaptureFixture, command: str, files: list[str]) -> dict[str, Any]:
    with pytest.raises(SystemExit) as stopped:
        main([command, *(word for file in files for word in ("-c", str(ROOT / file))), "--print_config"])
    assert stopped.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


@pytest.mark.parametrize("name", [*SCIENCE, *VALIDATED])
@pytest.mark.thinned(3)
def test_fsdp_fits_behind_every_science_config(name, capsys):
    command = {"benchmarks": "validate", "bootstrap": "predict"}.get(name, "fit")
    files = [*(SCIENCE | VALIDATED)[name], "trainer/fsdp.yaml"]
    settings = printed(capsys, command, files)["trainer"]
    assert settings["accelerator"] == "gpu"
    assert settings["inference_mode"] is False  # else a validation's weights poison the backward passes that follow
    assert settings["use_distributed_sampler"] is False  # else rows are repeated
    assert settings["precision"] == "32-true"  # bf16-true casts the log-probs in a batch
    assert settings["strategy"]["class_path"] == "lit_uniopd.distributed.fsdp.FSDP"
    options = settings["strategy"]["init_args"]
    assert options["data_parallel_size"] == "auto"
    assert options["tensor_parallel_size"] == 1
    assert options["timeout"] == "2:00:00"
    strategy = FSDP(**options)
    assert strategy.sharding == ShardingArgs(param_dtype="bfloat16", reduce_dtype="float32")


@pytest.mark.parametrize("name", ["cpu", "gpu", "ddp", "fsdp"])
def test_every_machine_leaves_sampling_to_our_samplers(name):
    assert yaml.safe_load((ROOT / f"trainer/{name}.yaml").read_text())["trainer"]["use_distributed_sampler"] is False


def test_layers_are_not_split():
    with pytest.raises(UserError, match="tensor_parallel_size must be 1, not 2"):
        FSDP(tensor_parallel_size=2)


def test_sizes_must_fit_the_ranks(model_dirs, tmp_path):
    run = trainer(tmp_path, strategy=FSDP(data_parallel_size=3), inference_mode=False)
    with pytest.raises(
        UserError, match="data_parallel_size is 3, but of 1 ranks 1 share a copy of the weights; set it"
    ):
        run.fit(module(model_dirs), Prompts(prompts(4)))
    run = trainer(tmp_path, strategy=FSDP(data_parallel_replicate=2), inference_mode=False)
    with pytest.raises(
        UserError, match="data_parallel_replicate 2 does not divide the 1 ranks; set it to 1, or to the"
    ):
        run.fit(module(model_dirs), Prompts(prompts(4)))


def test_inference_mode_is_refused(model_dirs, tmp_path):
    run = trainer(tmp_path, strategy=FSDP())
    with pytest.raises(UserError, match=r"needs --trainer\.inference_mode false"):
        run.fit(module(model_dirs), Prompts(prompts(4)))
