"""One directory for each run, whichever loggers it has, and none for a run that was refused."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tiny import Memory, Prompts, module, prompts, trainer

from datamodules import PromptDataModule, SourceArgs
from lit_uniopd.errors import UserError
from lit_uniopd.utils.run_directory import CHECKPOINTS, claim_directory, run_directory, run_root

OPTIONS: dict[str, Any] = {
    "accelerator": "cpu",
    "max_epochs": 1,
    "log_every_n_steps": 1,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


class Elsewhere(Memory):
    """Somebody else's logger, which keeps a folder of its own, the same for every run."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    @property
    def save_dir(self) -> str:
        return str(self.folder)

    log_dir = save_dir  # type: ignore[assignment]


LOGGERS = {
    "none": lambda root: False,
    "tensorboard": lambda root: TensorBoardLogger(root, name="mine"),
    "csv": lambda root: CSVLogger(root, name="mine"),
    "somebody's": lambda root: Elsewhere(root / "elsewhere"),
    "somebody's first": lambda root: [Elsewhere(root / "elsewhere"), TensorBoardLogger(root, name="mine")],
    "somebody's last": lambda root: [TensorBoardLogger(root, name="mine"), Elsewhere(root / "elsewhere")],
    "two of files": lambda root: [CSVLogger(root, name="mine"), TensorBoardLogger(root, name="mine")],
    "two of files, turned round": lambda root: [TensorBoardLogger(root, name="mine"), CSVLogger(root, name="mine")],
    "two of files apart": lambda root: [CSVLogger(root / "table"), TensorBoardLogger(root, name="mine")],
}


@pytest.mark.parametrize("loggers", LOGGERS.values(), ids=LOGGERS)
@pytest.mark.thinned(3)
def test_each_run_has_the_next_directory_and_saves_below_it(loggers, tmp_path, model_dirs):
    for number in range(2):
        saver = ModelCheckpoint(save_last=True)
        run = Trainer(
            default_root_dir=tmp_path / "mine",
            logger=loggers(tmp_path),
            callbacks=[saver],
            max_steps=1,
            limit_val_batches=0,
            **OPTIONS,
        )
        expected = tmp_path / f"mine/version_{number}"
        run.fit(module(model_dirs, updates_per_rollout=1), Prompts(prompts(4)))
        assert run_directory(run) == expected
        assert (expected / CHECKPOINTS / "last.ckpt").is_file()
        run.validate(module(model_dirs), Prompts(prompts(4)), verbose=False)
        assert run_directory(run) == expected  # one for all stages
        assert run_root(run) == tmp_path / "mine"
        for logger in run.loggers:
            files = {TensorBoardLogger: "events.out.*", CSVLogger: "metrics.csv"}
            apart = logger.root_dir is not None and "table" in logger.root_dir
            if type(logger) in files and not apart:
                assert list(expected.glob(files[type(logger)]))
    assert {path.name for path in (tmp_path / "mine").iterdir()} == {"version_0", "version_1"}


@pytest.mark.parametrize("kind", ["none", "tensorboard", "csv"])
def test_runs_that_start_at_the_same_moment_share_none(kind, tmp_path):
    runs = [Trainer(default_root_dir=tmp_path / "mine", logger=LOGGERS[kind](tmp_path), **OPTIONS) for _ in range(12)]
    with ThreadPoolExecutor(12) as threads:
        list(threads.map(claim_directory, runs))
    assert {run_directory(run) for run in runs} == {tmp_path / f"mine/version_{i}" for i in range(12)}
    for logger in (logger for run in runs for logger in run.loggers):
        assert Path(str(logger.log_dir)).is_dir()  # it does not go on to another


def test_a_stated_version_is_taken_and_an_older_run_is_counted(tmp_path):
    stated = Trainer(logger=TensorBoardLogger(tmp_path, name="mine", version="first"), **OPTIONS)
    assert run_directory(stated) == tmp_path / "mine/first"
    (tmp_path / "mine/version_7").mkdir()
    (tmp_path / "mine/version_x").mkdir()
    assert run_directory(Trainer(logger=CSVLogger(tmp_path, name="mine"), **OPTIONS)).name == "version_8"
    assert run_directory(Trainer(logger=TensorBoardLogger(tmp_path, name="mine", version=3), **OPTIONS)).name == (
        "version_3"
    )


def test_a_home_or_a_variable_in_a_path_is_spelt_out(tmp_path, monkeypatch):
    monkeypatch.setenv("PLACE", str(tmp_path))
    for number in range(2):
        run = Trainer(logger=TensorBoardLogger("$PLACE/runs", name="mine", sub_dir="curves"), **OPTIONS)
        assert run_directory(run) == tmp_path / f"runs/mine/version_{number}"
        assert Path(str(run.loggers[0].log_dir)) == run_directory(run) / "curves"


def test_the_working_directory_itself_is_no_root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_directory(Trainer(logger=False, **OPTIONS)) == tmp_path / "lightning_logs/version_0"


def test_a_place_that_is_not_on_this_machine_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"--trainer\.default_root_dir memory://runs is not on this machine"):
        run_directory(Trainer(logger=False, default_root_dir="memory://runs", **OPTIONS))


@pytest.mark.parametrize("logger", ["default_root_dir", "logger.save_dir"])
def test_a_place_that_cannot_be_written_is_named(logger):
    loggers = False if logger == "default_root_dir" else CSVLogger("/proc/runs", name="mine")
    run = Trainer(logger=loggers, default_root_dir="/proc/runs", **OPTIONS)
    with pytest.raises(UserError, match=rf"Cannot write to /proc/runs.* by --trainer\.{logger}\."):
        run_directory(run)


@pytest.mark.parametrize("loggers", LOGGERS.values(), ids=LOGGERS)
def test_a_refused_start_leaves_nothing(loggers, tmp_path, model_dirs):
    (tmp_path / "train.jsonl").write_text('{"prompt": "1+1=", "answer": "2"}\n')
    data = PromptDataModule(train=SourceArgs(path=str(tmp_path / "train.jsonl"), prompt_column="question"))
    run = Trainer(default_root_dir=tmp_path / "runs/mine", logger=loggers(tmp_path / "runs"), **OPTIONS)
    with pytest.raises(UserError, match="question"):
        run.fit(module(model_dirs), data)
    assert [path.name for path in tmp_path.iterdir()] == ["train.jsonl"]


def test_what_an_older_run_has_left_stays_after_a_refused_start(tmp_path, model_dirs):
    older = tmp_path / "mine/version_0/config.yaml"
    older.parent.mkdir(parents=True)
    older.touch()
    run = Trainer(logger=TensorBoardLogger(tmp_path, name="mine", version=0), **OPTIONS)
    with pytest.raises(UserError):
        run.fit(module(model_dirs), PromptDataModule(train=SourceArgs(path="none.jsonl")))
    assert older.exists()


def test_a_run_that_writes_nothing_leaves_nothing(tmp_path, model_dirs):
    trainer(tmp_path / "mine", max_steps=1).fit(module(model_dirs), Prompts(prompts(4)))
    assert not (tmp_path / "mine").exists()
