"""The presets of Omni-DPO parse, and hold the numbers of the released configs."""

from pathlib import Path

import pytest
import yaml

from lit_uniopd.cli import main

CONFIGS = Path(__file__).parents[2] / "configs/omni_dpo"
BASE = CONFIGS / "llama3_8b_instruct.yaml"

# beta, tau_ref, lambda, tau_good, lr, warm-up, pairs a step, max_length: papers' section 3
RELEASED = {
    "llama3_8b_instruct": (2, 1.0, 0.001, 3.2, 1e-6, 0.1, 128, 2048),
    "llama3_8b_base": (2, 0.8, 0.001, 3.2, 1e-6, 0.1, 128, 2048),
    "llama3_8b_instruct_v2": (10, 1.0, 0.001, 3.2, 1e-6, 0.1, 128, 2048),
    "gemma2_9b": (10, 0.8, 0.001, 3.2, 8e-7, 0.1, 128, 2048),
    "qwen2_5": (3.5, 0.8, 0.001, 3.2, 2e-6, 0.1, 128, 2048),
    "math": (2, 2.0, 0.2, 8.0, 1e-6, 0.0, 128, 4096),
    "multimodal": (2, 2.0, 0.001, 2.5, 6e-6, 0.0, 128, 4096),
}


def test_every_file_is_listed():
    assert {path.stem for path in CONFIGS.glob("*.yaml")} - {"pairs", "quickstart"} == RELEASED.keys()


@pytest.mark.parametrize("name", RELEASED)
@pytest.mark.thinned(3)
def test_presets_hold_the_released_numbers(name, capsys):
    files = [BASE] if name == BASE.stem else [BASE, CONFIGS / f"{name}.yaml"]
    with pytest.raises(SystemExit) as stopped:
        main(["fit", *(word for file in files for word in ("-c", str(file))), "--print_config"])
    assert stopped.value.code == 0
    config = yaml.safe_load(capsys.readouterr().out)
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    loss = model["loss"]
    numbers = (loss["beta"], loss["tau_ref"], loss["lam"], loss["tau_good"], model["optimizer"]["init_args"]["lr"])
    numbers += (model["lr_scheduler"]["init_args"]["warmup_ratio"],)
    numbers += (data["global_batch_size"], data["max_length"])
    assert numbers == pytest.approx(RELEASED[name])
    assert (loss["gamma"], data["weighting"]["eta"], loss["kind"]) == (3.0, 0.7, "omni_dpo")
    assert model["optimizer"]["class_path"].endswith("RMSprop" if name == "math" else "AdamW")
