"""What TensorBoard opens on: an objective's essential curves in one place, a text that says what is where, and the
settings by which runs are compared.
"""

from collections.abc import Mapping
from typing import Any

from lightning import LightningModule, Trainer

from lit_uniopd.monitoring.logger_adapters import Charts
from lit_uniopd.monitoring.media import run_adapters
from lit_uniopd.utils.run_directory import CONFIG, run_directory
from lit_uniopd.utils.strict_yaml import parse_yaml

__all__ = ["Charts", "compared_settings", "compared_tags", "write_compared", "write_layout"]

COMPARED = {
    "module": ("model.class_path",),
    "model": ("model.init_args.student.path", "model.init_args.policy.path"),
    "loss": ("model.init_args.loss.kind",),
    "advantage": ("model.init_args.advantage.kind",),
    "beta": ("model.init_args.loss.beta",),
    "gamma": ("model.init_args.loss.gamma",),
    "learning rate": ("model.init_args.optimizer.init_args.lr",),
    "batch size": ("data.init_args.batch_size",),
    "answers a prompt": ("model.init_args.sampling.n",),
    "temperature": ("model.init_args.sampling.temperature",),
    "updates a rollout": ("model.init_args.updates_per_rollout",),
    "max steps": ("trainer.max_steps",),
    "training data": ("data.init_args.train.path",),
    "seed": ("seed_everything",),
}
"""Column of the tab HPARAMS -> where the setting stands in a config."""
RESULTS = ("val/", "eval", "hallucination/")
"""Beginnings of the tags that say what a run came to."""


def write_layout(trainer: Trainer, module: LightningModule) -> Charts:
    """Write the charts of the module and of the callbacks as the run's layout, under the module's name.

    Args:
        trainer: its loggers get the layout; TensorBoard alone of those that we know has a place for it.
        module: names the layout.

    Returns:
        The charts: title -> tags.
    """
    charts: dict[str, list[str]] = {}
    for source in (module, *trainer.callbacks):  # type: ignore[attr-defined]
        essential_charts = getattr(source, "essential_charts", None)
        for title, tags in (essential_charts() if essential_charts is not None else {}).items():
            charts[title] = [*charts.get(title, []), *tags]
    layout = {title: list(dict.fromkeys(tags)) for title, tags in charts.items()}
    for adapter in run_adapters(trainer) if layout else []:
        adapter.layout(type(module).__name__, layout)
    return layout


def write_compared(trainer: Trainer, charts: Charts) -> None:
    """Name the settings and the curves by which runs are compared; nothing in plain Python, where there is no config.

    Args:
        trainer: its loggers get them; TensorBoard alone of those that we know has a tab for it.
        charts: of ``write_layout``.
    """
    config = run_directory(trainer) / CONFIG
    if trainer.is_global_zero and config.is_file():
        settings = parse_yaml(config.read_text(encoding="utf-8"), str(config)) or {}
        for adapter in run_adapters(trainer):
            adapter.compared(compared_settings(settings), compared_tags(charts))


def compared_settings(config: Mapping[str, Any]) -> dict[str, str | int | float]:
    """The settings by which runs are told apart, out of the hundreds that a config has."""
    settings: dict[str, str | int | float] = {}
    for name, places in COMPARED.items():
        value = next((value for place in places if (value := _at(config, place)) is not None), None)
        if isinstance(value, str | int | float) and value != -1:  # Lightning's "without end"
            settings[name] = value.rpartition(".")[2] if name == "module" else value  # type: ignore[union-attr]
    return settings


def compared_tags(charts: Charts) -> list[str]:
    """The curves whose last value says what a run came to; the loss, where there is none.

    Args:
        charts: title -> tags, all of which the run logs.
    """
    tags = list(dict.fromkeys(tag for curves in charts.values() for tag in curves))
    return [tag for tag in tags if tag.startswith(RESULTS)] or [tag for tag in tags if tag == "train/loss"]


def _at(config: Mapping[str, Any], place: str) -> Any:
    value: Any = config
    for key in place.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
