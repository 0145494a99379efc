"""The presets of SENTINEL parse, hold the paper's numbers, and name every difference to the released code."""

from pathlib import Path

import pytest
import yaml
from transformers import AutoConfig, AutoModelForImageTextToText

from lit_uniopd.cli import main
from lit_uniopd.hallucination import PRESETS, BootstrapArgs
from lit_uniopd.policy import LoraArgs
from lit_uniopd.policy.lora import with_adapters

CONFIGS = Path(__file__).parents[2] / "configs/sentinel"
BASE = CONFIGS / "llava_1_5_7b.yaml"

# lr, warm-up, max_length: sentinel.md, sections 3.1 and 3.2
NUMBERS = {
    "llava_1_5_7b": (2e-6, 0.03, 2048),
    "llava_1_5_13b": (3e-6, 0.03, 2048),
    "llava_1_6_7b": (2e-6, 0.0, 4096),
    "llava_1_6_13b": (3e-6, 0.0, 4096),
    "qwen2_vl_2b": (2e-6, 0.0, 4096),
    "qwen2_vl_7b": (2e-6, 0.0, 4096),
    "qwen2_5_vl_7b": (3e-6, 0.0, 4096),
}


def printed(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, "--print_config"])
    assert stopped.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


def test_every_file_is_listed():
    assert {path.stem for path in CONFIGS.glob("*.yaml")} - {"bootstrap", "quickstart"} == NUMBERS.keys()


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.thinned(3)
def test_presets_hold_the_papers_numbers(name, capsys):
    files = [BASE] if name == BASE.stem else [BASE, CONFIGS / f"{name}.yaml"]
    config = printed(capsys, "fit", *(word for file in files for word in ("-c", str(file))))
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    rates = (model["optimizer"]["init_args"]["lr"], model["lr_scheduler"]["init_args"]["warmup_ratio"])
    assert (*rates, data["max_length"]) == pytest.approx(NUMBERS[name])
    assert data["global_batch_size"] == 64
    assert (model["loss"]["kind"], model["loss"]["beta"], model["loss"]["average"]) == ("dpo", 0.1, None)
    lora = model["policy"]["lora"]
    assert (lora["rank"], lora["alpha"], lora["dropout"]) == (128, 256, 0.0)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_of_the_bootstrapping(preset, capsys):
    files = ["-c", str(CONFIGS / "bootstrap.yaml"), "-c", str(CONFIGS / f"presets/{preset}.yaml")]
    model = printed(capsys, "predict", *files)["model"]["init_args"]
    assert BootstrapArgs(**model["bootstrap"]) == PRESETS[preset]
    assert (model["sampling"]["n"], model["sampling"]["temperature"]) == (10, 0.7)
    assert model["lexicon"] == {"paper": "coco", "released_code": "released_code"}[preset]
    assert model["scene_graph"]["class_path"].endswith(".SceneGraphParser")
    assert model["lexicon_finds"] == {"paper": False, "released_code": True}[preset]
    kinds = [detector["class_path"].rsplit(".", 1)[-1] for detector in model["detectors"]]
    assert kinds == {"paper": ["GroundingDino", "Owlv2"], "released_code": ["GroundingDino", "ClosedSet"]}[preset]


def test_captioning_without_training(capsys):
    files = ["-c", str(CONFIGS / "bootstrap.yaml"), "-c", str(CONFIGS / "presets/decode_time.yaml")]
    model = printed(capsys, "predict", *files)["model"]["init_args"]
    assert (model["sampling"]["n"], model["sampling"]["temperature"]) == (5, 0.7)
    assert [detector["class_path"].rsplit(".", 1)[-1] for detector in model["detectors"]] == ["GroundingDino"]
    assert BootstrapArgs(**model["bootstrap"]) == BootstrapArgs(when_no_factual="not_hallucinated")


@pytest.mark.parametrize("kind", ["llava", "qwen2_vl", "qwen2_5_vl"])
def test_adapters_reach_the_language_model_alone(kind):
    small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**small, "num_key_value_heads": 2, "vocab_size": 40}
    vision = {"llava": {**small, "model_type": "clip_vision_model", "image_size": 28, "patch_size": 14}}.get(
        kind, {"depth": 1, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "intermediate_size": 32}
    )
    text = {**text, "model_type": "llama"} if kind == "llava" else text
    config = AutoConfig.for_model(kind, text_config=text, vision_config=vision)
    model = AutoModelForImageTextToText.from_config(config)
    args = yaml.safe_load(BASE.read_text())["model"]["init_args"]["policy"]["lora"]
    trained = [n for n, p in with_adapters(model, LoraArgs(**args), "policy").named_parameters() if p.requires_grad]
    assert len(trained) == 14, "two matrices for each of seven layers"
    assert all("language_model" in name for name in trained)
