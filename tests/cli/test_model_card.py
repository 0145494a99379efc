"""The model card that `uniopd push` writes, and what it keeps to itself."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard, ModelCardData

from lit_uniopd.cli.export import Exported
from lit_uniopd.cli.model_card import is_hub_id, model_card, public, read_facts

SETTINGS = {
    "seed_everything": 3,
    "trainer": {"precision": "bf16-mixed", "max_steps": 40, "devices": 8, "default_root_dir": "/home/ada/runs"},
    "model": {
        "class_path": "lit_uniopd.modules.UniOPD",
        "init_args": {
            "student": {"path": "Qwen/Qwen3-0.6B", "revision": None},
            "teachers": {
                "math": {"path": "/mnt/ada/experts/math-7b"},
                "code": {"path": "org/coder", "http": {"urls": ["http://10.0.0.7:8000/v1"], "token": "hf_abc"}},
            },
        },
    },
    "data": {
        "init_args": {"train": [{"path": "org/prompts"}, {"path": "/home/ada/secret/own.jsonl"}], "batch_size": 8}
    },
}
SCORES = {
    "domain": "math",
    "profile": "paper",
    "complete": True,
    "answers": 30,
    "judge": None,
    "scores": {"accuracy": 0.5},
    "card": {"primary": "accuracy", "interval": {"accuracy": [0.3, 0.7]}},
}
JUDGED = {
    "alpaca_eval2@export": SCORES | {"scores": {}, "card": None, "judge": "AlpacaEval 2"},
    "aime24@unidpo": SCORES | {"scores": {}, "card": None, "complete": False},
}
"""What has no score of ours."""
WON = SCORES | {
    "judge": "GPT-4 Turbo",
    "scores": {"win_rate": 0.25},
    "card": {"primary": "win_rate", "interval": {"win_rate": [0.2, 0.4]}},
    "judged": [{"judge": {"name": "/mnt/ada/big"}, "scores": {"win_rate": 0.25}}],
}
EXPORTED = Exported(Path("last.ckpt"), Path("config.yaml"), "Qwen/Qwen3-0.6B", steps=40, images=False)
SUMMARY = {
    "step": 40,
    "before": {"aime24@gopd": 0.25, "math": 0.125},
    "teachers": {"aime24@gopd": 0.75},
    "benchmarks": {
        "aime24@gopd": SCORES,
        "mine@val": SCORES | {"answers": 5},
        "aime25@gopd": SCORES | {"complete": False},
        **JUDGED,
        "arena_hard@export": WON,
    },
    "versions": {"torch": "2.13.0"},
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Of a run with a summary and a figure."""
    (tmp_path / "summary.json").write_text(json.dumps(SUMMARY))
    (tmp_path / "curves.png").write_bytes(b"a picture")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(SETTINGS, sort_keys=False))
    return tmp_path / "config.yaml"


def fields_of(card: ModelCard) -> ModelCardData:
    assert isinstance(card.data, ModelCardData)
    return card.data


def test_the_hub_reads_its_fields(config):
    card = model_card(read_facts(config), EXPORTED, "ada/mathy", licence="apache-2.0")
    card.save(config.with_name("README.md"))
    data = fields_of(ModelCard.load(config.with_name("README.md")))
    assert (data.license, data.base_model, data.library_name) == ("apache-2.0", "Qwen/Qwen3-0.6B", "transformers")
    assert (data.pipeline_tag, data.datasets) == ("text-generation", ["org/prompts"])
    assert {"lit_uniopd", "uni-opd"} <= set(data.tags or [])
    [result] = data.eval_results or []  # neither one's own rows nor what was only begun
    assert (result.dataset_name, result.metric_type, result.metric_value) == ("aime24@gopd", "accuracy", 0.5)
    assert result.dataset_type == "Maxwell-Jia/AIME_2024"


def test_a_person_reads_method_teachers_scores_and_figures(config):
    text = model_card(read_facts(config), EXPORTED, "ada/mathy").content
    assert "after 40 optimizer steps of Uni-OPD, on-policy distillation" in text
    assert "math (`math-7b`), code (`org/coder`)" in text
    assert "| aime24&#64;gopd | accuracy | 0.250 | 0.750 | 0.500 (0.300 to 0.700) | 30 |" in text
    assert "| mine&#64;val | accuracy | 0.125 | - | 0.500 (0.300 to 0.700) | 5 |" in text
    assert "30, not complete |" in text
    assert "| alpaca&#95;eval2&#64;export | judged by AlpacaEval 2 | - | - | - | 30 |" in text
    assert "| arena&#95;hard&#64;export | win_rate, judged by big | - | - | 0.250 (0.200 to 0.400) | 30 |" in text
    assert "| aime24&#64;unidpo | none yet | - | - | - | 30, not complete |" in text
    assert "![curves](figures/curves.png)" in text
    assert "max_steps: 40" in text
    assert "license" not in text.partition("# mathy")[0]

    assert "extrapolated" not in text
    beyond = model_card(read_facts(config), EXPORTED, "ada/mathy", extrapolation=0.5).content
    assert "0.5 of the way from the first to the trained ones was added" in beyond


def test_what_is_private_stays_here(config):
    text = str(model_card(read_facts(config), EXPORTED, "ada/mathy"))
    assert "own.jsonl" in text
    for private in ("/home", "ada/secret", "/mnt", "10.0.0.7", "hf_abc"):
        assert private not in text


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("Qwen/Qwen3-4B", "Qwen/Qwen3-4B"),
        ("playground:student", "playground:student"),
        ("/home/ada/my model", "my model"),
        ("~/x/model", "model"),
        ("../up/model", "model"),
        ("runs/a/export/policy", "policy"),
        ("https://user:word@host/v1", "(an address)"),
        ("See https://example.org/a/b, then solve {prompt}", "See https://example.org/a/b, then solve {prompt}"),
        ({"a": None, "b": {"c": None}, "d": 0, "e": False}, {"d": 0, "e": False}),
    ],
)
def test_settings_as_strangers_read_them(value, expected):
    assert public(value) == expected


def test_an_adapter_is_loaded_onto_its_base(config):
    card = model_card(read_facts(config), replace(EXPORTED, images=True), "ada/mathy", adapter=True)
    data = fields_of(card)
    assert (data.library_name, data.pipeline_tag) == ("peft", "image-text-to-text")
    assert 'AutoModelForImageTextToText.from_pretrained("Qwen/Qwen3-0.6B"), "ada/mathy")' in card.content


def test_a_folder_here_is_no_repository_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_hub_id("models/mine")
    (tmp_path / "models/mine").mkdir(parents=True)
    assert not is_hub_id("models/mine")
    assert not is_hub_id("playground:student")
