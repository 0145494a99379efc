"""Texts, figures, tables and histograms reach every logger that can hold them, at the steps of its scalars."""

import sys
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from logged_runs import LoggedRun, read_folder, read_mlflow, read_tensorboard, read_trackio, read_wandb
from matplotlib.figure import Figure
from PIL import Image
from tiny import Memory, Prompts, adam, module, prompts, trainer

from callbacks import MarginCalibration, OrderDiagnostics, RolloutBrowser
from lit_uniopd.errors import UserError
from lit_uniopd.monitoring.logger_adapters import FolderAdapter, LoggerAdapter, TrackioAdapter, logger_adapter, rendered
from lit_uniopd.monitoring.media import log_figure, log_histogram, log_image, log_settings, log_table, log_text
from lit_uniopd.monitoring.trackio_logger import TrackioLogger
from lit_uniopd.utils.markdown import cell, table

TEXT = "**bold** and <script>alert(1)</script>"
TABLE = table(["", "answer"], [[cell("1|2\n*3*"), "-0.5"]])
SETTINGS = {"model": {"loss": {"gap_threshold": None, "kinds": ["a", {"b": 1.5}]}, "teachers": {}}, "seed": 7}
TAG = "eval_samples/math@val"


class EveryKind(Callback):
    """Half of the answers right, so that there is an order, and one of each kind of media."""

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        log_settings(trainer, SETTINGS)

    def on_rollouts_scored(self, trainer: Trainer, pl_module: Any, rollouts: Any) -> None:
        rollouts.outcome_B[:] = torch.arange(len(rollouts)) % 2
        log_text(trainer, TAG, TEXT)
        log_table(trainer, "pairs/weights", TABLE)
        log_image(trainer, "eval_images/math@val/0", np.full((4, 5, 3), 200, dtype=np.uint8))
        log_figure(trainer, "pairs/weights", Figure(figsize=(2, 1), dpi=50))
        log_histogram(trainer, "eval_len/math@val/right", [1, 2, 2], edges=[0.5, 1.5, 2.5])
        log_histogram(trainer, "eval_len/math@val/wrong", [])


class Numbers(Memory):
    """A third party's logger, which knows nothing but numbers; of a release in which it has a directory."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root
        self.logged = LoggedRun()

    @property
    def save_dir(self) -> str:
        return str(self.root)

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        assert step is not None
        for tag, value in metrics.items():
            self.logged.scalars[tag][step] = float(value)

    def log_hyperparams(self, *params: Any, **_: Any) -> None:  # type: ignore[override]
        self.logged.settings |= params[0]


Reader = Callable[[Logger, Path], LoggedRun]


def _wandb(root: Path) -> tuple[Logger, Reader]:
    pytest.importorskip("wandb", reason="W&B is not installed")
    return WandbLogger(offline=True, save_dir=root / "wandb", project="p"), lambda logger, root: read_wandb(
        root / "wandb"
    )


def _mlflow(root: Path) -> tuple[Logger, Reader]:
    pytest.importorskip("mlflow", reason="MLflow is not installed")
    uri = f"file:{root}/mlruns"
    return MLFlowLogger("e", tracking_uri=uri), lambda logger, root: read_mlflow(uri, str(logger.version))


def _trackio(root: Path) -> tuple[Logger, Reader]:
    pytest.importorskip("trackio", reason="Trackio is not installed (it needs pillow below 13)")
    logger = TrackioLogger("p", name=root.name, options={"auto_log_cpu": False, "auto_log_gpu": False})
    return logger, lambda logger, root: read_trackio("p", root.name)


def _csv(root: Path) -> tuple[Logger, Reader]:
    logger = CSVLogger(root, name="csv")
    return logger, lambda logger, root: read_folder(
        Path(logger.log_dir or "") / "media", Path(logger.log_dir or "") / "metrics.csv"
    )


MAKERS = {"wandb": _wandb, "mlflow": _mlflow, "trackio": _trackio}


@pytest.fixture(autouse=True)
def no_network_and_no_run_left(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: Any) -> Iterator[None]:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("WANDB_SILENT", "true")
    if "trackio" not in sys.modules:  # read once, when Trackio is imported
        monkeypatch.setenv("TRACKIO_DIR", str(tmp_path_factory.mktemp("trackio")))
    yield
    if (wandb := sys.modules.get("wandb")) is not None:
        wandb.finish()


def fit(root: Path, paths: dict[str, str], loggers: Any) -> None:
    callbacks = [
        EveryKind(),
        MarginCalibration(),
        OrderDiagnostics(every_n_steps=1),
        RolloutBrowser(every_n_steps=1, tokens=3),
    ]
    run = trainer(root, callbacks=callbacks, logger=loggers, max_epochs=1)
    run.fit(module(paths, optimizer=adam, updates_per_rollout=2), Prompts(prompts(8)))
    for logger in run.loggers:
        logger.finalize("success")
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()


def compare(run: LoggedRun, board: LoggedRun, *, name: Callable[[str], str] = str, draws_histograms: bool) -> None:
    """A logger has all that TensorBoard has, at the same steps."""
    assert {name(tag) for tag in board.scalars} <= set(run.scalars)
    for tag, values in board.scalars.items():
        assert run.scalars[name(tag)] == pytest.approx(values, rel=1e-6, nan_ok=True), tag  # TensorBoard's are float32
    assert {tag: set(texts) for tag, texts in run.texts.items()} == {
        name(tag): set(texts)
        for tag, texts in board.texts.items()
        if tag != "about/run"  # which names TensorBoard's tabs
    }
    pictures = {name(tag): steps for tag, steps in board.images.items()}
    spreads = {name(tag): steps for tag, steps in board.histograms.items()}
    assert run.images == (pictures | spreads if draws_histograms else pictures)
    assert run.histograms == ({} if draws_histograms else spreads)


def without_signs(tag: str) -> str:
    """How MLflow's names are."""
    return tag.replace("@", "")


@pytest.mark.parametrize("first", [True, False], ids=["first", "second"])
@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.thinned(4)
def test_a_logger_has_all_that_tensorboard_has(model_dirs, tmp_path, kind, first):
    logger, read = MAKERS[kind](tmp_path)
    board_logger = TensorBoardLogger(tmp_path / "board", name="run")
    fit(tmp_path, model_dirs, [logger, board_logger] if first else [board_logger, logger])
    board, run = read_tensorboard(board_logger.log_dir), read(logger, tmp_path)
    assert set(board.scalars["train/loss"]) == {0, 1}, "rollouts, each of which is two updates"
    assert set(board.images["order/returns_and_margins"]) == set(board.texts["rollout/math"]) == {0, 1}
    assert board.images["pairs/weights"] == board.histograms["eval_len/math@val/right"] == {0, 1}
    assert "eval_len/math@val/wrong" not in board.histograms
    mlflow = kind == "mlflow"
    compare(run, board, name=without_signs if mlflow else str, draws_histograms=mlflow)
    text = run.texts[without_signs(TAG) if mlflow else TAG][0]
    assert text.rstrip() == TEXT if kind != "wandb" else "<strong>bold</strong>" in text and "<script>" not in text
    rows = run.texts["pairs/weights"][0]
    assert rows.rstrip() == TABLE if mlflow else r"1|2\n*3*" in rows and "-0.5" in rows
    assert not list(tmp_path.rglob("media/**/*.md")) or mlflow, "no files, where a logger holds texts"


@pytest.mark.parametrize("kind", MAKERS)
def test_settings_are_kept_once_and_plainly(tmp_path, kind):
    logger, read = MAKERS[kind](tmp_path)
    board_logger = TensorBoardLogger(tmp_path / "board", name="run")
    run = trainer(tmp_path, logger=[board_logger, logger])
    logger.log_metrics({"train/loss": 2.0}, step=0)
    log_settings(run, SETTINGS)
    logger.log_metrics({"train/loss": 1.0}, step=1)
    logger.finalize("success")
    if isinstance(logger, WandbLogger):
        logger.experiment.finish()
    settings = read(logger, tmp_path).settings
    if kind == "mlflow":
        assert settings["model/loss/gap_threshold"] == "None"
        assert settings["seed"] == "7"
        log_settings(run, {"seed": 8, "new": 1})  # a run that goes on: MLflow refuses another value
        assert read(logger, tmp_path).settings["new"] == "1"
    else:
        assert {name: settings[name] for name in SETTINGS} == SETTINGS
    assert not Path(board_logger.log_dir).exists(), "the tab HPARAMS is for final scores"


def test_files_hold_media_where_no_logger_does(model_dirs, tmp_path):
    board_logger = TensorBoardLogger(tmp_path / "board", name="run")
    fit(tmp_path / "with_board", model_dirs, [CSVLogger(tmp_path / "with_board"), board_logger])
    assert not list((tmp_path / "with_board").rglob("media"))
    board = read_tensorboard(board_logger.log_dir)
    logger, read = _csv(tmp_path)
    fit(tmp_path, model_dirs, [logger])
    run = read(logger, tmp_path)
    times = [tag for tag in board.scalars if tag.startswith("time/") or "per_second" in tag]
    assert set(times) <= set(run.scalars)
    board.scalars = {tag: values for tag, values in board.scalars.items() if tag not in times}
    compare(run, board, draws_histograms=True)
    assert run.texts[TAG][0] == TEXT + "\n"
    with Image.open(Path(logger.log_dir or "") / "media/pairs/weights/0.png") as picture:
        assert picture.size == (100, 50)


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.thinned(2)
def test_a_third_partys_logger_is_given_files_once(model_dirs, tmp_path, order):
    numbers = Numbers(tmp_path / "third")
    fit(tmp_path, model_dirs, [numbers, CSVLogger(tmp_path, name="csv")][::order])
    (media,) = [path for path in tmp_path.rglob("media") if path.is_dir()]
    assert set(read_folder(media).texts[TAG]) == {0, 1}
    assert set(numbers.logged.scalars["train/loss"]) == {0, 1}
    assert numbers.logged.settings == SETTINGS


@pytest.mark.parametrize("options", [{"logger": False}, {"fast_dev_run": True}], ids=["none", "fast_dev_run"])
def test_without_a_logger_nothing_is_written(model_dirs, tmp_path, monkeypatch, options):
    monkeypatch.chdir(tmp_path)
    run = trainer(tmp_path, callbacks=[EveryKind(), RolloutBrowser(every_n_steps=1)], **options)
    run.fit(module(model_dirs), Prompts(prompts(4)))
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".md", ".png")]


def test_only_rank_0_writes(tmp_path):
    run = trainer(tmp_path, logger=CSVLogger(tmp_path))
    fake: Any = type("OtherRank", (), {"is_global_zero": False, "loggers": run.loggers})()
    log_text(fake, "tag", "text", 0)
    log_figure(fake, "tag", Figure(), 0)
    assert not list(tmp_path.rglob("*.md"))


def test_a_line_registers_a_logger(tmp_path):
    class Mine(Numbers):
        pass

    class Texts(LoggerAdapter):
        holds_media = True

        def text(self, tag: str, markdown: str, step: int) -> None:
            self.logger.logged.texts[tag][step] = markdown

    logger_adapter.register(Mine, Texts)

    class MineToo(Mine):
        pass

    logger = MineToo(tmp_path)
    run = trainer(tmp_path, logger=[CSVLogger(tmp_path), logger])
    log_text(run, "a/b", "text", 3)
    log_table(run, "a/c", TABLE, 4)
    assert logger.logged.texts == {"a/b": {3: "text"}, "a/c": {4: TABLE}}
    assert not list(tmp_path.rglob("media"))


def test_a_tag_stays_in_its_folder(tmp_path):
    FolderAdapter(tmp_path / "media").text("../a/..//b:c", "text", 1)
    (file,) = tmp_path.rglob("*.md")
    assert file == tmp_path / "media/_/a/_/_/b_c/1.md"


def test_wandbs_logger_around_a_run_of_trackio():
    pytest.importorskip("trackio", reason="Trackio is not installed (it needs pillow below 13)")
    pytest.importorskip("wandb", reason="W&B is not installed")
    import trackio  # pyright: ignore[reportMissingImports]

    logger = WandbLogger(experiment=trackio.init("q", name="r", auto_log_cpu=False, auto_log_gpu=False))
    assert isinstance(logger_adapter(logger), TrackioAdapter)
    logger_adapter(logger).text("a/b", "text", 3)
    logger.experiment.finish()
    (row,) = read_trackio("q", "r").texts["a/b"].values()
    assert row == "text"


def test_trackios_logger_goes_on_after_it_was_finalized(tmp_path):
    logger, read = _trackio(tmp_path)
    logger.finalize("success")
    for step in (5, 3):  # a lower step later is kept too
        logger.log_metrics({"train/loss": float(step)}, step=step)
        logger.finalize("success")
    assert read(logger, tmp_path).scalars["train/loss"] == {5: 5.0, 3: 3.0}


@pytest.mark.parametrize("package", [None, ModuleSpec("trackio", None, is_package=True)], ids=["none", "folder"])
def test_a_missing_trackio_is_one_sentence(monkeypatch, package):
    monkeypatch.setattr("lit_uniopd.monitoring.trackio_logger.find_spec", lambda _: package)
    with pytest.raises(UserError, match="pip install trackio"):
        TrackioLogger()


def test_a_figure_is_drawn_as_tensorboard_draws_it():
    from torch.utils.tensorboard._utils import figure_to_image

    figure = Figure(figsize=(2, 1), dpi=50)
    figure.subplots().plot([1, 3, 2])
    assert (rendered(figure) == figure_to_image(figure, close=False).transpose(1, 2, 0)).all()
