"""Runs that certainly come to nothing, refused before torch is imported, in the words in which they would end."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from lit_uniopd.cli.typed_options import Line, Typed, asks_for_help, read_line
from lit_uniopd.errors import UserError
from lit_uniopd.utils.data_paths import is_hub_dataset, matching_paths
from lit_uniopd.utils.paths import has_scheme, is_local_model, no_directory

_READ = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ("predict",)}
"""Verb -> the options of our datamodules that it reads data by, if they are given."""
_TRAINED = ("student", "policy")
"""The options of our modules that hold the model which is trained."""


def refuse_vain_run(argv: Sequence[str]) -> None:
    """Refuse a fit without a step, and a file or model that is not there; what is not certain is left to the run.

    Only what was typed is looked at, no value of a config.

    Args:
        argv: what stands behind ``uniopd``, a verb of the trainer first.

    Raises:
        UserError: naming the option.
    """
    verb, *arguments = argv
    if verb not in _READ or asks_for_help(arguments):
        return
    line = read_line(arguments)
    values = {typed.option: _value(typed) for typed in line.last}
    classes = line.options[-1].classes if line.options else {}
    if verb == "fit" and _can_be_followed(line, "trainer", without="fast_dev_run"):  # which makes a step of none
        refuse_no_step(lambda option: values.get(f"trainer.{option}"))
    if isinstance(path := values.get("ckpt_path"), str):
        refuse_missing_checkpoint(path)
    for split in _READ[verb] if classes.get("data") else ():
        path = _typed_path(line, f"data.{split}")
        if path and not is_hub_dataset(path):
            matching_paths(path, f"--data.{split}")
    for model in _TRAINED if verb == "fit" and classes.get("model") else ():
        path = _typed_path(line, f"model.{model}", without="model_type")  # which a config in the place of weights has
        if path and is_local_model(path) and not Path(path).exists():
            raise no_directory(f"--model.{model}.path", path)


def refuse_no_step(limit: Callable[[str], Any]) -> None:
    """Refuse a fit that would take no step.

    Args:
        limit: the value of an option of the trainer.

    Raises:
        UserError: naming the flag.
    """
    for option in ("max_steps", "max_epochs", "limit_train_batches"):
        if limit(option) == 0:
            raise UserError(
                f"--trainer.{option} 0 trains nothing; raise it, or score the model as it is by `uniopd validate`."
            )


def refuse_missing_checkpoint(path: str) -> None:
    """Refuse a checkpoint that is not there.

    Args:
        path: of the checkpoint, or ``last``, which is looked for elsewhere.

    Raises:
        UserError: naming the path.
    """
    if path != "last" and not Path(path).exists():
        raise UserError(f"--ckpt_path {path} does not exist; give a file under runs/<name>/version_N/checkpoints/.")


def _value(typed: Typed) -> str | float | None:
    """A number, or a text that stands for itself."""
    from lit_uniopd.cli.arguments import load_argument  # which imports jsonargparse

    try:
        value = load_argument(typed.value)
    except (yaml.YAMLError, UserError):
        return None
    return value if value == typed.value or type(value) in (int, float) else None


def _typed_path(line: Line, option: str, without: str = "") -> str:
    """Where a model or data are, as it was typed; empty if that is not certain, or a scheme says it."""
    path = next((_value(typed) for typed in line.last if typed.option == f"{option}.path"), None)
    certain = isinstance(path, str) and not has_scheme(path) and _can_be_followed(line, option, without)
    return str(path) if certain else ""


def _can_be_followed(line: Line, option: str, without: str = "") -> bool:
    """Whether nothing sets an option as a whole but configs, and these only to keys and values, without a word in them.

    Else it may be a list, or be in another file.
    """
    section, *keys = option.split(".")
    for typed in line.options:
        if typed.option != "config":
            if f"{option}.".startswith(f"{typed.sets}."):
                return False
        else:
            settings = typed.settings or {}
            for key in (section, *(("init_args", *keys) if keys else ())):
                settings = settings.get(key, {}) if isinstance(settings, dict) else None
            if not isinstance(settings, dict):
                return False
        if without and without in f"{typed.option} {typed.value} {typed.settings}":
            return False
    return True
