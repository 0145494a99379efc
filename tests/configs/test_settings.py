"""The paper's settings: every config is parsed, and its models are built at their true size on the meta device."""

import json
import re
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning import LightningDataModule, LightningModule
from tiny import trainer

from lit_uniopd.cli import main
from lit_uniopd.cli.app import UniOPDCLI
from lit_uniopd.cli.error_messages import OneSentenceParser
from lit_uniopd.modules import UniOPD
from lit_uniopd.playground.untrained import write_tiny_text, write_tiny_vision
from lit_uniopd.sampling import SamplingArgs
from lit_uniopd.sampling.args import ColocateArgs, ServerArgs

ROOT = Path(__file__).parents[2]
QWEN3: dict[str, Any] = {
    "model_type": "qwen3",
    "vocab_size": 151936,
    "head_dim": 128,
    "num_key_value_heads": 8,
    "tie_word_embeddings": True,
}
# Dimensions as in the configs on the hub, written from memory: the sums of parameters below are the check.
QWEN3_4B = {
    **QWEN3,
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
}
QWEN3_30B_A3B = {
    **QWEN3,
    "model_type": "qwen3_moe",
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 48,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "tie_word_embeddings": False,
}
QWEN3_VL_4B = {
    "model_type": "qwen3_vl",
    "tie_word_embeddings": True,
    "text_config": {key: value for key, value in QWEN3_4B.items() if key != "model_type"},
    "vision_config": {
        "depth": 24,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_heads": 16,
        "patch_size": 16,
        "out_hidden_size": 2560,
        "deepstack_visual_indexes": [5, 11, 17],
    },
}
SETTINGS = {
    "multi_teacher": (QWEN3_4B, {"math": QWEN3_4B, "code": QWEN3_4B}),
    "single_teacher": (QWEN3_4B, {"default": QWEN3_4B}),
    "strong_to_weak": (QWEN3_4B, {"default": QWEN3_30B_A3B}),
    "multimodal": (QWEN3_VL_4B, {"math": QWEN3_VL_4B, "logic": QWEN3_VL_4B, "document": QWEN3_VL_4B}),
    "cross_modal": (QWEN3_VL_4B, {"code": QWEN3_VL_4B, "math": QWEN3_VL_4B}),
}
BILLIONS = {"qwen3": 4.02, "qwen3_moe": 30.5, "qwen3_vl": 4.44}


def configs(setting: str) -> list[str]:
    names = ["multi_teacher"] if setting == "multi_teacher" else ["multi_teacher", setting]
    return [f"--config={ROOT / f'configs/uni_opd/{name}.yaml'}" for name in names]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("tokenizers")
    write_tiny_text(root / "text", 0)
    write_tiny_vision(root / "vision", 0)
    return {"qwen3": str(root / "text"), "qwen3_moe": str(root / "text"), "qwen3_vl": str(root / "vision")}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.thinned(6)
def test_real_settings_are_parsed_and_built(setting, tokenizers, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["uniopd"])
    student, teachers = SETTINGS[setting]
    models = {"student": student, **{f"teachers.{name}": config for name, config in teachers.items()}}
    args = [
        *configs(setting),
        f"--config={ROOT / 'configs/uni_opd/presets/paper_text.yaml'}",
        "--data.train.path=none.jsonl",
        *(f"--model.{name}.config={json.dumps(config)}" for name, config in models.items()),
        *(f"--model.{name}.tokenizer={tokenizers[config['model_type']]}" for name, config in models.items()),
    ]
    cli = UniOPDCLI(
        LightningModule,
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        save_config_callback=None,
        parser_class=OneSentenceParser,
        args=args,
        run=False,
    )
    module = cli.model
    assert isinstance(module, UniOPD)
    module.trainer = trainer(tmp_path)
    module.trainer.state.fn = "fit"  # type: ignore[assignment]
    with torch.device("meta"):
        module.configure_model()
    sizes = {"student": module.policy, **{f"teachers.{name}": module.teachers[name] for name in teachers}}
    for name, policy in sizes.items():
        billions = sum(p.numel() for p in policy.parameters()) / 1e9
        assert billions == pytest.approx(BILLIONS[models[name]["model_type"]], rel=0.01)
    assert all(p.requires_grad for p in module.policy.parameters())
    assert not any(p.requires_grad for name in teachers for p in module.teachers[name].parameters())
    optimizer: Any = module.configure_optimizers()["optimizer"]  # type: ignore[index]
    # [scripts] section 5.1 of the paper's released training scripts
    group = optimizer.param_groups[0]
    assert (group["lr"] / 0.2, group["betas"], group["weight_decay"]) == (pytest.approx(1e-6), (0.9, 0.98), 0.1)
    assert (cli.datamodule.global_batch_size, module.sampling.n, module.updates_per_rollout) == (64, 16, 1)  # pyright: ignore[reportAttributeAccessIssue]
    assert (module.loss.clip_low, module.loss.clip_high, module.loss.gap_threshold) == (0.2, 0.28, 10.0)
    assert (module.sampling.max_new_tokens, module.sampling.temperature, module.gradient_clip) == (16384, 1.0, 1.0)
    assert cli.trainer.max_steps == 50


def test_a_setting_takes_its_answers_from_servers(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    more = ["--model.sampling.server.urls", '["http://a:1", "http://b:2"]', "--model.sampling.server.requests", "8"]
    more += ["--model.sampling.server.directory", "/mnt/weights"]
    files = ["-c", "configs/uni_opd/multi_teacher.yaml", "-c", "configs/uni_opd/vllm.yaml"]
    with pytest.raises(SystemExit) as stopped:
        main(["fit", *files, *more, "--print_config"])
    assert stopped.value.code == 0
    sampling = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]["sampling"]
    assert (sampling["engine"], sampling["n"], sampling["max_new_tokens"]) == ("vllm", 16, 16384)
    assert sampling["server"]["urls"] == ["http://a:1", "http://b:2"]
    nested = {"server": ServerArgs(**sampling["server"]), "colocate": ColocateArgs(**sampling["colocate"])}
    assert SamplingArgs(**{**sampling, **nested}).server.requests == 8  # type: ignore[union-attr]


def test_teachers_on_servers_are_parsed_and_asked_for(tokenizers, tmp_path, monkeypatch, capsys):
    """The config as it is, and its mistakes in one sentence."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.jsonl").write_text('{"prompt": "1=", "answer": "1", "domain": "math"}\n')
    served = [*configs("multi_teacher"), f"--config={ROOT / 'configs/uni_opd/http_teachers.yaml'}"]
    with pytest.raises(SystemExit) as stopped:
        main(["fit", *served, "--print_config"])
    assert stopped.value.code == 0
    teachers = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]["teachers"]
    assert {name: (args["placement"], args["http"]["protocol"]) for name, args in teachers.items()} == {
        "math": ("http", "vllm"),
        "code": ("http", "sglang"),
    }
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{free.getsockname()[1]}"
    models = [f"--model.student.path={tokenizers['qwen3']}", "--model.teachers.math.http.retries=0"]
    models += [f"--model.teachers.{name}.path={tokenizers['qwen3']}" for name in ("math", "code")]
    data = ["--data.train.path=p.jsonl", "--data.val.path=p.jsonl", f"--config={ROOT / 'configs/trainer/cpu.yaml'}"]
    for urls, message in (
        (f"[{nowhere}]", f"--model.teachers.math.http.urls {nowhere} cannot be reached"),
        ("[localhost:8001]", "--model.teachers.math.http.urls: The server's address localhost:8001 must begin with"),
    ):
        with pytest.raises(SystemExit):
            main(["fit", *served, *models, *data, f"--model.teachers.math.http.urls={urls}"])
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("setting", sorted(set(SETTINGS) - {"strong_to_weak"}))
@pytest.mark.thinned(8)
def test_teachers_that_are_not_released_are_asked_for(setting, tmp_path, monkeypatch, capsys, model_dirs):
    """Before anything is downloaded."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.jsonl").write_text('{"prompt": "1=", "answer": "1", "domain": "math"}\n')
    student = [f"--model.student.path={model_dirs['student']}", "--data.train.path=p.jsonl", "--data.val.path=p.jsonl"]
    with pytest.raises(SystemExit):
        main(["fit", *configs(setting), f"--config={ROOT / 'configs/trainer/cpu.yaml'}", *student])
    assert re.search(r"--model\.teachers\.\w+\.path is empty; give", capsys.readouterr().err)


PLAYGROUND = sorted(path.stem for path in (ROOT / "configs/playground").glob("*.yaml"))


@pytest.mark.parametrize("setting", PLAYGROUND)
@pytest.mark.thinned(2)
def test_playground_settings_are_parsed(setting, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "-c", "configs/quickstart.yaml", "-c", f"configs/playground/{setting}.yaml", "--print_config"])
    assert stopped.value.code == 0
    assert "playground:" in capsys.readouterr().out
