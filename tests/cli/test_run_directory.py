"""A run's files by the command line: the same layout with every logger, and nothing from a run that was refused."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from lit_uniopd.cli import main

ROOT = Path(__file__).parents[2]
LIGHTNING = "lightning.pytorch.loggers"
CSV = {"class_path": f"{LIGHTNING}.CSVLogger", "init_args": {"save_dir": "runs", "name": "sft"}}
MEMORY = {"class_path": "tiny.Memory"}


@pytest.fixture
def files(tmp_path: Path, model_dirs: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Arguments of a user who fine-tunes a model on a file, in a directory of their own."""
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"{i}+{i}=", "answer": str(2 * i)} for i in range(8)]
    Path("train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [
        f"--config={ROOT / 'configs/sft.yaml'}",
        f"--config={ROOT / 'configs/trainer/cpu.yaml'}",
        f"--model.policy.path={model_dirs['student']}",
        "--model.policy.gradient_checkpointing=false",
        "--data.train.path=train.jsonl",
        "--data.val.path=train.jsonl",
        "--data.global_batch_size=4",
        "--trainer.max_steps=2",
        "--trainer.callbacks.every_n_train_steps=2",
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false",
    ]


def runs_of(arguments: list[str], tmp_path: Path) -> None:
    """Train, train on, and validate: three directories with all that belongs to each."""
    main(["fit", *arguments])
    main(["fit", *arguments, "--trainer.max_steps=4", "--ckpt_path=last"])
    main(["validate", *arguments, "--ckpt_path=last"])
    root = tmp_path / "runs/sft"
    assert {path.name for path in root.iterdir()} == {"version_0", "version_1", "version_2"}
    for number, steps in enumerate([2, 4]):
        config = yaml.safe_load((root / f"version_{number}/config.yaml").read_text())
        assert config["trainer"]["max_steps"] == steps
        checkpoint = torch.load(root / f"version_{number}/checkpoints/last.ckpt", weights_only=True)
        assert checkpoint["global_step"] == steps
        assert (root / f"version_{number}/export/policy/config.json").is_file()
    assert (root / "version_2/config.yaml").is_file()


@pytest.mark.parametrize(
    "loggers",
    [
        [f"--trainer.logger={LIGHTNING}.CSVLogger"],
        ["--trainer.logger=false"],
        ["--trainer.logger=tiny.Memory"],
        [f"--trainer.logger={json.dumps([CSV, MEMORY])}"],
        [f"--trainer.logger={json.dumps([MEMORY, CSV])}"],
    ],
    ids=["csv", "none", "somebody's", "csv and somebody's", "somebody's and csv"],
)
@pytest.mark.thinned(6)
def test_with_every_logger_a_run_goes_on_from_the_one_before(loggers, files, tmp_path):
    runs_of([*files, *loggers], tmp_path)


def file_of_the_docs(name: str) -> str:
    """As docs/loggers.md shows it, written to where the run starts."""
    page = (ROOT / "docs/loggers.md").read_text()
    Path(name).write_text(page.partition(f'title="{name}"\n')[2].partition("```")[0])
    return f"--config={name}"


@pytest.mark.exhaustive  # as with every other logger
@pytest.mark.filterwarnings("ignore")  # of packages that are not ours
def test_so_it_does_with_weights_and_biases(files, tmp_path):
    wandb = pytest.importorskip("wandb", reason="pip install wandb")
    try:
        runs_of([*files, file_of_the_docs("wandb.yaml")], tmp_path)
    finally:
        wandb.finish()
    assert list((tmp_path / "runs/wandb").glob("offline-run-*"))  # one: W&B has one run a process


@pytest.mark.filterwarnings("ignore")
@pytest.mark.exhaustive
def test_so_it_does_with_mlflow(files, tmp_path):
    mlflow = pytest.importorskip("mlflow", reason="pip install mlflow")
    pytest.importorskip("alembic", reason="mlflow-skinny needs sqlalchemy and alembic for a database of its own")
    runs_of([*files, file_of_the_docs("mlflow.yaml")], tmp_path)
    client = mlflow.MlflowClient("sqlite:///mlflow.db")
    assert len(client.search_runs([client.get_experiment_by_name("mine").experiment_id])) == 3


@pytest.mark.filterwarnings("ignore")
def test_so_it_does_with_trackio(files, tmp_path, monkeypatch, capsys):
    pytest.importorskip("trackio", reason="pip install trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    runs_of([*files, file_of_the_docs("trackio.yaml")], tmp_path)
    assert "show --project mine" in capsys.readouterr().out


def error_of(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """The last line of a command that fails."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize("logger", ["", "--trainer.logger=false", f"--trainer.logger={LIGHTNING}.CSVLogger"])
@pytest.mark.parametrize(
    ("mistake", "sentence"),
    [
        ("--data.train.prompt_column=question", "question"),
        ("--model.policy.path=./nowhere", "./nowhere"),
        ("--ckpt_path=last", "there is no last.ckpt"),
        ("--model.optimizer.lr=-1", "Invalid learning rate"),
    ],
)
@pytest.mark.thinned(4)
def test_a_refused_start_leaves_nothing(logger, mistake, sentence, files, tmp_path, capsys):
    assert sentence in error_of(capsys, ["fit", *files, *([logger] if logger else []), mistake])
    assert [path.name for path in tmp_path.iterdir()] == ["train.jsonl"]


@pytest.mark.parametrize(
    ("arguments", "flag"),
    [
        (["--trainer.logger=false", "--trainer.default_root_dir=/proc/runs"], "--trainer.default_root_dir"),
        ([f"--trainer.logger={LIGHTNING}.CSVLogger", "--trainer.logger.save_dir=/proc/r"], "--trainer.logger.save_dir"),
    ],
)
def test_a_place_that_cannot_be_written_is_named_by_its_flag(arguments, flag, files, tmp_path, capsys):
    assert f"choose another directory by {flag}" in error_of(capsys, ["fit", *files, *arguments])
    assert [path.name for path in tmp_path.iterdir()] == ["train.jsonl"]


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* is not empty")
def test_a_stated_version_that_holds_a_run_is_refused_but_for_its_own_resumption(files, tmp_path, capsys):
    stated = [*files, "--trainer.logger.version=mine"]
    main(["fit", *stated])
    message = error_of(capsys, ["fit", *stated])
    assert message == (
        "error: runs/sft/mine holds a run; leave --trainer.logger.version out, which makes a new one, or name another."
    )
    main(["fit", *stated, "--trainer.max_steps=4", "--ckpt_path=last"])
    config = yaml.safe_load((tmp_path / "runs/sft/mine/config.yaml").read_text())
    assert config["trainer"]["max_steps"] == 4


@pytest.mark.parametrize(
    ("logger", "package"),
    [
        (f"{LIGHTNING}.CometLogger", "comet-ml>="),
        ("a_package_that_is_missing.Logger", "a_package_that_is_missing"),
        (json.dumps([CSV, {"class_path": f"{LIGHTNING}.CometLogger"}]), "comet-ml>="),
    ],
)
def test_a_logger_whose_package_is_missing_is_answered_by_the_command(logger, package, files, tmp_path, capsys):
    name = f"{LIGHTNING}.CometLogger" if "Comet" in logger else logger
    message = error_of(capsys, ["fit", *files, f"--trainer.logger={logger}"])
    assert message.startswith(f"error: --trainer.logger {name} needs a package; install it: pip install '{package}")


def test_what_a_logger_refuses_is_its_own_sentence(files, monkeypatch, capsys):
    pytest.importorskip("mlflow", reason="pip install mlflow-skinny")
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    message = error_of(capsys, ["fit", *files, f"--trainer.logger={LIGHTNING}.MLFlowLogger"])
    assert message.startswith(f"error: --trainer.logger {LIGHTNING}.MLFlowLogger: The filesystem tracking backend")
    assert "set MLFLOW_ALLOW_FILE_STORE=true" in message
