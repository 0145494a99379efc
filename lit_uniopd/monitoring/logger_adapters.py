"""What each kind of logger does with all that is not a scalar: texts, pictures, histograms, the run's settings."""

import os
import re
import shlex
import warnings
from collections.abc import Mapping, Sequence
from functools import singledispatch
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from lit_uniopd.utils.markdown import cell, table, table_columns
from lit_uniopd.utils.programs import program

if TYPE_CHECKING:  # slow to import, and most runs draw late or never
    from matplotlib.figure import Figure

Charts = Mapping[str, Sequence[str]]
"""Title of a chart -> tags of its curves."""


class LoggerAdapter:
    """A logger that holds numbers only, which is what is known of one that was never registered.

    Args:
        logger: what is written to, at the step that it is given for scalars too.
    """

    holds_media = False
    """Whether texts and pictures go into it; if no logger of a run can hold them they become files."""

    def __init__(self, logger: Any) -> None:
        self.logger = logger

    def text(self, tag: str, markdown: str, step: int) -> None:
        """Show a text."""

    def image(self, tag: str, image_HWC: np.ndarray, step: int) -> None:
        """Show a picture: uint8, RGB."""

    def table(self, tag: str, markdown: str, step: int) -> None:
        """Show a table of ``lit_uniopd.utils.markdown.table``."""
        self.text(tag, markdown, step)

    def histogram(self, tag: str, values: np.ndarray, step: int, edges: Sequence[float] | None = None) -> None:
        """Show how values are spread, between these edges of bins if they are given."""
        self.image(tag, rendered(_histogram_figure(tag, values, edges)), step)

    def layout(self, title: str, charts: Charts) -> None:
        """Put curves together into charts."""

    def compared(self, settings: Mapping[str, str | int | float], tags: Sequence[str]) -> None:
        """Name the few settings, and the curves' last values, by which runs are compared."""

    def settings(self, values: Mapping[str, Any]) -> None:
        """Keep the run's settings, a plain tree, as its hyper-parameters."""
        self.logger.log_hyperparams(dict(values))

    def final_scores(self, labels: Mapping[str, Any], scores: Mapping[str, float], step: int) -> None:
        """Keep what a run came to; ``labels`` say of which model."""
        self.logger.log_metrics(dict(scores), step)

    def reference_scores(self, model: str, scores: Mapping[str, float], step: int) -> None:
        """Draw another model's scores beside those of the run."""
        self.logger.log_metrics({f"reference/{model}/{tag}": score for tag, score in scores.items()}, step)

    def view_command(self) -> str | None:
        """What shows the run's curves, where the logger does not say so itself."""
        return None


class TensorBoardAdapter(LoggerAdapter):
    """TensorBoard shows everything, each in a tab of its own."""

    holds_media = True

    def text(self, tag: str, markdown: str, step: int) -> None:
        self.logger.experiment.add_text(tag, markdown, step)

    def image(self, tag: str, image_HWC: np.ndarray, step: int) -> None:
        self.logger.experiment.add_image(tag, image_HWC, step, dataformats="HWC")

    def histogram(self, tag: str, values: np.ndarray, step: int, edges: Sequence[float] | None = None) -> None:
        self.logger.experiment.add_histogram(tag, values, step, bins="tensorflow" if edges is None else edges)

    def layout(self, title: str, charts: Charts) -> None:
        # TensorBoard takes tags as patterns that need only match the beginning of a tag.
        layout = {chart: ["Multiline", [f"{re.escape(tag)}$" for tag in tags]] for chart, tags in charts.items()}
        self.logger.experiment.add_custom_scalars({title: layout})
        self.text("about/run", _guide(title, charts), 0)
        if keep := getattr(self.logger, "keep", None):
            keep(tag for tags in charts.values() for tag in tags)

    def compared(self, settings: Mapping[str, str | int | float], tags: Sequence[str]) -> None:
        from torch.utils.tensorboard.summary import hparams

        # Not by `log_hyperparams`, which would write a value of its own to each curve.
        for summary in hparams(dict(settings), dict.fromkeys(tags, 0.0)):
            self.logger.experiment._get_file_writer().add_summary(summary)

    def settings(self, values: Mapping[str, Any]) -> None:
        """They are a text already; of hundreds, the tab HPARAMS has a few (``compared``)."""

    def final_scores(self, labels: Mapping[str, Any], scores: Mapping[str, float], step: int) -> None:
        self.logger.log_hyperparams(dict(labels), dict(scores))

    def reference_scores(self, model: str, scores: Mapping[str, float], step: int) -> None:
        """Lines in the same charts: TensorBoard draws equal tags of different runs into one chart."""
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(Path(self.logger.log_dir) / model) as writer:
            for tag, score in scores.items():
                writer.add_scalar(tag, score, step)

    def view_command(self) -> str:
        place = os.path.relpath(self.logger.log_dir)
        return f"{program('tensorboard', 'tensorboard.main')} --logdir {shlex.quote(place)}"


class WandbAdapter(LoggerAdapter):
    """W&B holds one kind of value under a key, so a table is ``<tag>_table``.

    Everything goes through ``log_metrics``: the logger adds ``trainer/global_step``, the axis of the scalars. A step
    that is given to W&B itself would drop, without a word, what comes after a higher one.
    """

    holds_media = True
    package = "wandb"

    @property
    def types(self) -> Any:
        """The package, which has a class for each kind of value."""
        return import_module(self.package)

    def text(self, tag: str, markdown: str, step: int) -> None:
        self.logger.log_metrics({tag: self.types.Html(_as_html(markdown), data_is_not_path=True)}, step)

    def image(self, tag: str, image_HWC: np.ndarray, step: int) -> None:
        self.logger.log_metrics({tag: self.types.Image(image_HWC)}, step)

    def table(self, tag: str, markdown: str, step: int) -> None:
        columns = table_columns(markdown)
        rows = [list(row) for row in zip(*columns.values(), strict=True)]
        self.logger.log_metrics({f"{tag}_table": self.types.Table(columns=list(columns), data=rows)}, step)

    def histogram(self, tag: str, values: np.ndarray, step: int, edges: Sequence[float] | None = None) -> None:
        counts = np.histogram(values, bins=64 if edges is None else list(edges))
        self.logger.log_metrics({tag: self.types.Histogram(np_histogram=counts)}, step)


class TrackioAdapter(WandbAdapter):
    """Trackio has W&B's kinds of values, and Markdown."""

    package = "trackio"

    def text(self, tag: str, markdown: str, step: int) -> None:
        self.logger.log_metrics({tag: self.types.Markdown(markdown)}, step)

    def view_command(self) -> str:
        return f"{program('trackio', 'trackio')} show --project {shlex.quote(str(self.logger.name))}"


class MLFlowAdapter(LoggerAdapter):
    """MLflow keeps texts as artifacts and pictures as its time-stepped images; it has no histograms."""

    holds_media = True

    def text(self, tag: str, markdown: str, step: int) -> None:
        self.logger.experiment.log_text(self.logger.run_id, markdown, f"media/{_mlflow_name(tag)}/{step}.md")

    def image(self, tag: str, image_HWC: np.ndarray, step: int) -> None:
        self.logger.experiment.log_image(self.logger.run_id, image_HWC, key=_mlflow_name(tag), step=step)

    def settings(self, values: Mapping[str, Any]) -> None:
        # MLflow refuses another value of what a run has already, and a run that goes on may have other settings.
        known = self.logger.experiment.get_run(self.logger.run_id).data.params
        flat = {_mlflow_name(name): value for name, value in _flat(values).items()}
        self.logger.log_hyperparams({name: value for name, value in flat.items() if name not in known})

    def view_command(self) -> str:
        return f"mlflow ui --backend-store-uri {shlex.quote(self.logger._tracking_uri)}"


class FolderAdapter(LoggerAdapter):
    """Files, for a run whose loggers hold numbers only.

    Args:
        directory: gets ``<tag>/<step>.md`` and ``<tag>/<step>.png``.
    """

    holds_media = True

    def __init__(self, directory: Path) -> None:
        super().__init__(None)
        self.directory = directory

    def text(self, tag: str, markdown: str, step: int) -> None:
        self._file(tag, f"{step}.md").write_text(markdown + "\n", encoding="utf-8")

    def image(self, tag: str, image_HWC: np.ndarray, step: int) -> None:
        from PIL import Image

        Image.fromarray(image_HWC).save(self._file(tag, f"{step}.png"))

    def _file(self, tag: str, name: str) -> Path:
        path = self.directory / _file_name(tag) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


@singledispatch
def logger_adapter(logger: Logger) -> LoggerAdapter:
    """The adapter for a logger, by its class or the nearest one above it.

    A class of your own is registered by a line, with one of the adapters here or one of your own:
    ``logger_adapter.register(MyLogger, MyAdapter)``.
    """
    return LoggerAdapter(logger)


logger_adapter.register(TensorBoardLogger, TensorBoardAdapter)
logger_adapter.register(MLFlowLogger, MLFlowAdapter)


@logger_adapter.register(WandbLogger)
def _wandb_or_trackio(logger: WandbLogger) -> LoggerAdapter:
    """Trackio mirrors W&B's interface, so some give its run to W&B's logger."""
    is_trackio = type(logger.experiment).__module__.partition(".")[0] == "trackio"
    return TrackioAdapter(logger) if is_trackio else WandbAdapter(logger)


def rendered(figure: "Figure") -> np.ndarray:
    """The pixels of a figure: uint8, RGB, ``[height, width, 3]``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _histogram_figure(title: str, values: np.ndarray, edges: Sequence[float] | None) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3))
    axes: Any = figure.subplots()
    axes.stairs(*np.histogram(values, bins=40 if edges is None else list(edges)), fill=True, color="#44546a")
    axes.set_title(title, fontsize=9)
    axes.set_ylabel("count")
    return figure


def _guide(title: str, charts: Charts) -> str:
    """A text that comes first in its tab: what is where."""
    places = {
        "CUSTOM SCALARS": f"the curves that {title} is read by: {'; '.join(charts)}",
        "TIME SERIES": "the same curves by their tags",
        "HPARAMS": "the settings and results of every run under this folder, a line a run",
        "IMAGES": "figures, the last ones at the end of the run",
        "TEXT": "answers or pairs as they are in training; memory; settings/config has every setting",
    }
    return table(["tab", "what it shows"], [[name, cell(text)] for name, text in places.items()])


def _as_html(markdown: str) -> str:
    """What TensorBoard would show."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of html5lib, inside TensorBoard
        from tensorboard.plugin_util import markdown_to_safe_html

    return markdown_to_safe_html(markdown)


def _mlflow_name(tag: str) -> str:
    """A tag without what MLflow does not take, as Lightning writes the names of scalars."""
    return re.sub("[^a-zA-Z0-9_/. -]+", "", tag)


def _file_name(tag: str) -> str:
    """A tag as a relative path that every file system takes, and that leads nowhere else."""
    return "/".join(re.sub(r'[<>:"\\|?*\x00-\x1f]', "_", part).strip(". ") or "_" for part in tag.split("/"))


def _flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """A tree of settings as ``a/b/c`` -> value."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{above}{name}/") if isinstance(value, Mapping) and value else {f"{above}{name}": value}
    return flat
