"""`uniopd export` and `push`: a run's last checkpoint as a Hugging Face directory, here and on the hub."""

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from lit_uniopd.cli import main
from lit_uniopd.cli.export import _extrapolated

ROOT = Path(__file__).parents[2]


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([*map(str, arguments)])
    return int(stopped.value.code or 0)


def export(*arguments: object) -> int:
    return run("export", *arguments)


def last_error(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def lora_run(tmp_path_factory: pytest.TempPathFactory, model_dirs: dict[str, str]) -> Path:
    """Two steps of Omni-DPO on adapters."""
    root = tmp_path_factory.mktemp("export")
    rows = [
        {"prompt": f"{i}=", "chosen": "a" * (i + 1), "rejected": "b", "score_chosen": 4, "score_rejected": i / 2}
        for i in range(4)
    ]
    (root / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    configs = [
        f"--config={ROOT / 'configs' / name}" for name in ("omni_dpo/llama3_8b_instruct.yaml", "trainer/cpu.yaml")
    ]
    main(
        [
            "fit",
            *configs,
            f"--model.policy.path={model_dirs['student']}",
            "--model.policy.lora={rank: 4, alpha: 8}",
            "--model.optimizer.init_args.lr=0.01",
            f"--data.train.path={root / 'pairs.jsonl'}",
            "--data.val=null",
            "--data.global_batch_size=2",
            "--trainer.max_steps=2",
            "--trainer.enable_progress_bar=false",
            f"--trainer.logger.init_args.save_dir={root}",
            "--trainer.logger.init_args.name=run",
            "--trainer.callbacks=[{class_path: lightning.pytorch.callbacks.ModelCheckpoint, init_args: "
            "{every_n_train_steps: 2, save_last: true}}, {class_path: callbacks.PolicyExport}]",
        ]
    )
    return root / "run/version_0"


def logits(model: torch.nn.Module) -> torch.Tensor:
    return model.eval()(input_ids=torch.arange(5, 25)[None]).logits.detach()


def test_a_run_becomes_a_directory_that_others_read(lora_run, tmp_path, model_dirs):
    assert export(lora_run, tmp_path / "out") == 0
    assert [file.name for file in tmp_path.iterdir()] == ["out"]
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert AutoTokenizer.from_pretrained(tmp_path / "out").get_vocab()
    at_the_end = AutoModelForCausalLM.from_pretrained(lora_run / "export/policy")
    torch.testing.assert_close(logits(merged), logits(at_the_end), rtol=0, atol=0)

    assert export(lora_run / "checkpoints/last.ckpt", tmp_path / "adapter", "--adapter") == 0
    base = AutoModelForCausalLM.from_pretrained(model_dirs["student"])
    before = logits(base)
    adapted = PeftModel.from_pretrained(base, str(tmp_path / "adapter"))
    torch.testing.assert_close(logits(merged), logits(adapted), atol=1e-5, rtol=1e-5)
    assert (logits(merged) - before).abs().max() > 1e-3


def test_a_smaller_type_on_demand(lora_run, tmp_path):
    assert export(lora_run, tmp_path / "out", "--dtype", "bfloat16") == 0
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == torch.bfloat16


def test_weights_go_on_beyond_the_trained_ones(lora_run, tmp_path, model_dirs, capsys):
    """first + 1.5 (trained - first), with adapters as with whole weights."""
    assert export(lora_run, tmp_path / "merged") == 0
    assert export(lora_run, tmp_path / "beyond", "--extrapolation", "0.5") == 0
    first, merged, beyond = (
        AutoModelForCausalLM.from_pretrained(path).state_dict()
        for path in (model_dirs["student"], tmp_path / "merged", tmp_path / "beyond")
    )
    assert any(not torch.equal(first[name], merged[name]) for name in first)
    for name, weight in first.items():
        expected = weight.double() + 1.5 * (merged[name].double() - weight.double())
        torch.testing.assert_close(beyond[name].double(), expected, atol=1e-6, rtol=1e-6)

    whole = {"w": torch.tensor([1.0, 3.0])}
    assert _extrapolated("w", torch.tensor([1.0, 1.0]), whole["w"], 0.5).tolist() == [1.0, 4.0]
    assert _extrapolated("w", torch.tensor([1.0, 1.0]), whole["w"], 0.0) is whole["w"]
    for text in ("nan", "inf", "a third"):
        assert export(lora_run, tmp_path / "nowhere", "--extrapolation", text) == 2
        assert f"--extrapolation: {text!r} is no finite number; see `uniopd export" in last_error(capsys)


def test_one_sentence_for_every_mistake(lora_run, tmp_path, capsys, model_dirs, new_model):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    (tmp_path / "moved.ckpt").write_bytes(b"no checkpoint")
    other = new_model("other", width=64)
    last = lora_run / "checkpoints/last.ckpt"
    mistakes = [
        ([tmp_path / "nothing", tmp_path / "out"], "does not exist; give a checkpoint or the directory of a run"),
        ([tmp_path / "full", tmp_path / "out"], "There is no checkpoint below"),
        ([lora_run, tmp_path / "full"], "is there already; choose another directory"),
        ([tmp_path / "moved.ckpt", tmp_path / "out"], "name it by --config"),
        (
            [tmp_path / "moved.ckpt", tmp_path / "out", "--config", lora_run / "config.yaml"],
            "is no checkpoint of a run",
        ),
        ([last, tmp_path / "out", "--model", other], "--model"),
        ([last, tmp_path / "out", "--model", tmp_path / "gone"], "there is no such directory"),
    ]
    for arguments, sentence in mistakes:
        assert export(*arguments) == 2
        error = last_error(capsys)
        assert error.startswith("error: ")
        assert sentence in error
    assert not (tmp_path / "out").exists()


def test_a_run_is_pushed_with_its_card(lora_run, tmp_path, monkeypatch):
    sent = {}

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        sent.update({file.name: file.read_bytes() for file in Path(folder_path).iterdir() if file.is_file()})
        return f"{repo_id}: {commit_message}"

    monkeypatch.setattr(HfApi, "create_repo", lambda self, repo_id, **options: sent.update(options, repo=repo_id))
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    assert run("push", lora_run, "ada/mine", "--adapter", "--private", "--license", "mit") == 0
    assert (sent["repo"], sent["private"], sent["exist_ok"]) == ("ada/mine", True, True)
    assert "license: mit" in sent["README.md"].decode()
    assert "after 2 optimizer steps of Omni-DPO" in sent["README.md"].decode()
    assert "adapter_model.safetensors" in sent

    assert run("push", lora_run, "ada/mine", "--adapter", "--dry_run", tmp_path / "out") == 0
    assert {file.name for file in (tmp_path / "out").iterdir()} >= {"README.md", "adapter_config.json"}


def test_a_push_that_cannot_be_is_answered_before_any_model_loads(lora_run, tmp_path, monkeypatch, capsys):
    def refuse(self, repo_id, **options):
        raise ConnectionError("no way there\nat all")

    monkeypatch.setattr(HfApi, "create_repo", refuse)
    monkeypatch.setattr("lit_uniopd.cli.export.Policy.load", None)
    assert run("push", lora_run, "ada/mine") == 2
    assert "The hub did not take ada/mine (ConnectionError: no way there); check the network, HF_TOKEN" in last_error(
        capsys
    )
    assert run("push", lora_run, "mine") == 2
    assert "uniopd push: 'mine' is no name on the hub (it has no owner); give OWNER/NAME." in last_error(capsys)
    made: list[str] = []
    monkeypatch.setattr(HfApi, "create_repo", lambda self, repo_id, **options: made.append(repo_id))
    assert run("push", tmp_path / "no_such_run", "ada/mine") == 2
    assert "does not exist; give a checkpoint or the directory of a run" in last_error(capsys)
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn/config.yaml").write_text((lora_run / "config.yaml").read_text())
    (tmp_path / "torn/summary.json").write_text('{"benchmarks": ')
    assert run("push", lora_run, "ada/mine", "--config", tmp_path / "torn/config.yaml") == 2
    assert "torn/summary.json is not JSON" in last_error(capsys)
    assert made == [], "a repository of nothing"
    assert run("push", lora_run, "a b/mine") == 2
    assert "uniopd push: 'a b/mine' is no name on the hub" in last_error(capsys)
