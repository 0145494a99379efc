"""Is a checkpoint of the run that goes on from it? Each records objective, model, optimizer, rows and settings."""

import hashlib
import inspect
import logging
from collections.abc import Collection, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from lightning import Trainer
from torch.nn import Parameter

from lit_uniopd.distributed.preemption import rescale_progress
from lit_uniopd.errors import UserError
from lit_uniopd.modules.optimization import new_optimizer, new_schedule
from lit_uniopd.modules.same_model import check_same_model
from lit_uniopd.utils.trainer_data import TrainerData

log = logging.getLogger(__name__)

RECORD = "run"
"""Key of the record in a checkpoint."""
FORMAT = 1
"""Of what a checkpoint holds and what a resumed run makes of it; a new one where old code would go on wrongly."""
_HARMLESS = {
    "path",
    "gradient_checkpointing",
    "activation_offloading",
    "compile",
    "use_kernels",
    "micro_batch_tokens",
    "val_sampling",
    "val_batch_size",
    "reference_cache",
}
"""Settings whose change does not change what is trained."""
_START_ANEW = "or start a new run from its weights: `uniopd export` writes them as a model"


class CheckpointRecord:
    """What a module's checkpoints say of their run, and whether one may be loaded.

    Args:
        module: a ``PolicyModule``.

    Attributes:
        expected: the record of the checkpoint that is going to be loaded, to refuse it before any model is; None: not
            known, or it has none.
    """

    def __init__(self, module: Any) -> None:
        self.module = module
        self.expected: Mapping[str, Any] | None = None
        self._rows: str | None = None

    def expect(self, record: Mapping[str, Any] | None, trainer: Trainer) -> None:
        """A run is going to train on from this checkpoint: refuse what can be seen without data and models.

        Raises:
            UserError: as ``check_same_run``.
        """
        self.expected = record
        if record is not None:
            check_same_run(record, run_record(self.module, trainer), self.module.policy_flag, trains=True)

    def read_rows(self) -> None:
        """Once the data are read, and before the models are.

        Raises:
            UserError: as ``check_same_run``.
        """
        self._rows = rows_digest(self.module.trainer_data)
        if self.expected is not None:
            check_same_run(self.expected, self._current(), self.module.policy_flag, trains=True)

    def save(self, checkpoint: dict[str, Any]) -> None:
        """Add the record."""
        checkpoint["policy_path"] = self.module.policy_args.path
        checkpoint[RECORD] = self._current()

    def check(self, checkpoint: dict[str, Any]) -> None:
        """Compare a checkpoint with the run and with its model, and count its batches in those of the run.

        Raises:
            UserError: if it is of another run, another model or another choice of trained weights.
        """
        args, flag = self.module.policy_args, self.module.policy_flag
        trains, record, current = self.module.trainer.state.fn == "fit", checkpoint.get(RECORD), self._current()
        check_same_run(record, current, flag, trains=trains)
        if trains:
            log_changed_settings(record, current)
        check_same_model(self.module, checkpoint, args.path, flag)
        before, now = (record or {}).get("rows_per_batch"), current["rows_per_batch"]
        if trains and before and before != now:
            rescale_progress(checkpoint["loops"]["fit_loop"], before=before, now=now)

    def _current(self) -> dict[str, Any]:
        return run_record(self.module, self.module.trainer, self._rows)


def run_record(module: Any, trainer: Trainer, rows: str | None = None) -> dict[str, Any]:
    """What a checkpoint says of the run that wrote it, in types that load without executing pickles.

    Args:
        module: a ``PolicyModule``; its model need not be loaded.
        trainer: of the run.
        rows: ``rows_digest`` of the data; None: not known.
    """
    optimizer = new_optimizer(module.make_optimizer, [Parameter(torch.zeros(1))])
    schedule = None if module.make_lr_scheduler is None else new_schedule(module.make_lr_scheduler, optimizer)
    args = module.policy_args
    return {
        "format": FORMAT,
        "objective": type(module).__name__,
        "architecture": None if module.policy is None else module.policy.model.config.model_type,
        "lora": None if args.lora is None else str({k: v for k, v in _flat("", args.lora) if k != "dropout"}),
        "optimizer": type(optimizer).__name__,
        "lr_scheduler": "none" if schedule is None else type(schedule).__name__,
        "rows": rows,
        "rows_per_batch": TrainerData(trainer).batch_size * trainer.world_size,
        "settings": dict(_settings(module, trainer)),
        "optimizer_settings": {f"model.optimizer.{k}": v for k, v in _flat("", optimizer.defaults)},
    }


def rows_digest(data: TrainerData) -> str | None:
    """Names the training rows and their order; None: there are none, or they have not been read."""
    digest = hashlib.blake2b(digest_size=8)
    prompts, pairs = data.prompts("train"), data.train_pairs
    for prompt in prompts:
        digest.update(f"{prompt.teacher_key} {prompt.gold!r}\n".encode())
    for pair in (encoded.pair for encoded in pairs):
        digest.update(f"{pair.prompt.key} {pair.chosen!r} {pair.rejected!r} {pair.quality}\n".encode())
    return digest.hexdigest() if prompts or pairs else None


def check_same_run(record: Mapping[str, Any] | None, current: Mapping[str, Any], flag: str, *, trains: bool) -> None:
    """Refuse to go on from a checkpoint of another run, and log what differs harmlessly.

    Args:
        record: of the checkpoint; None: it was written before there were records.
        current: of this run; what is None is not known yet and not compared.
        flag: the option that the policy came from.
        trains: whether the run trains; to be evaluated, weights may be of any objective, optimizer and rows.

    Raises:
        UserError: naming what differs and the remedy.
    """
    if record is None:
        log.warning(
            "The checkpoint has no record of its run, as older versions wrote it: whether it is of this objective and "
            "of these rows was not looked at."
        )
        return
    if record["format"] > FORMAT:
        raise UserError(
            f"--ckpt_path is of a newer version (format {record['format']}, this one reads up to {FORMAT}); install "
            "a newer lit_uniopd."
        )
    differs = {key for key, value in current.items() if None not in (value, record.get(key)) and value != record[key]}
    if "lora" in differs:
        raise UserError(
            f"--ckpt_path holds adapters of --{flag}.lora {record['lora']}, this run has {current['lora']}; give the "
            "lora settings with which they were made."
        )
    if "architecture" in differs:
        raise UserError(
            f"--ckpt_path holds a model of another architecture ({record['architecture']}) than --{flag}.path "
            f"({current['architecture']}); give the model with which it was made."
        )
    if not trains:
        return
    if "objective" in differs:
        raise UserError(
            f"--ckpt_path is of a run of {record['objective']}, --model is {current['objective']}; give a checkpoint "
            f"of {current['objective']}, {_START_ANEW}."
        )
    for key in ("optimizer", "lr_scheduler"):
        if key in differs:
            raise UserError(
                f"--ckpt_path is of a run with --model.{key} {record[key]}, not {current[key]}; give the one with "
                f"which it was made, {_START_ANEW}."
            )
    if "rows" in differs:
        raise UserError(
            "--ckpt_path is of a run on other training rows than those of --data; give the data with which it was "
            f"made, {_START_ANEW}."
        )


def log_changed_settings(record: Mapping[str, Any] | None, current: Mapping[str, Any]) -> None:
    """Say which settings a run that goes on has changed, and which of its own are not taken."""
    if record is None:
        return
    if changed := _changed(record["settings"], current["settings"]):
        log.warning("The run goes on with other settings than the checkpoint's, so not exactly as it: %s.", changed)
    if changed := _changed(record["optimizer_settings"], current["optimizer_settings"]):
        log.warning(
            "The optimizer goes on with the checkpoint's settings, not with this run's: %s. For others start a new run "
            "from its weights: `uniopd export` writes them as a model.",
            changed,
        )


def _changed(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """What is there with another value, or only on one side; an older version's record has no word of new settings."""
    changes = {key: (before[key], now[key]) for key in now if key in before and now[key] != before[key]}
    for key in now.keys() - before.keys():
        if (whole := _null_above(key, before)) is not None:
            changes[whole] = ("None", "set")
    for key in before.keys() - now.keys():
        if (whole := _null_above(key, now)) is not None:
            changes[whole] = ("set", "None")
    return ", ".join(f"{key} {value} (was {old})" for key, (old, value) in sorted(changes.items()))


def _null_above(key: str, settings: Mapping[str, str]) -> str | None:
    """The option that is null there and has this one inside here."""
    parts = key.split(".")
    above = (".".join(parts[:n]) for n in range(1, len(parts)))
    return next((whole for whole in above if settings.get(whole) == "None"), None)


def _settings(module: Any, trainer: Trainer) -> Iterator[tuple[str, str]]:
    """Names and values of what an exact resumption depends on, as far as module and datamodule still have them."""
    datamodule = TrainerData(trainer).datamodule
    # With a global batch these follow from the number of processes, and change nothing.
    derived = getattr(datamodule, "global_batch_size", None) is not None
    names = ("world_size", "precision", *(() if derived else ("accumulate_grad_batches",)))
    yield from ((f"trainer.{name}", str(getattr(trainer, name))) for name in names)
    yield from _flat(module.policy_flag, module.policy_args)
    yield "model.seed", str(module.seed)
    yield from _teacher_settings(getattr(module, "teachers", None))
    graders = getattr(module, "graders", None)
    if graders is not None:
        kept = {"grader_timeout": graders.time_limit, "grader_killed": graders.killed, "sandbox": graders.sandbox_args}
        yield from _flat("model", kept)
    changing = [each for each in trainer.callbacks if getattr(each, "changes_advantages", False)]  # pyright: ignore[reportAttributeAccessIssue]
    yield "trainer.callbacks", str([type(callback).__name__ for callback in changing])
    for callback in changing:
        yield from _arguments(f"trainer.callbacks.{type(callback).__name__}", callback)
    yield from _arguments("model", module)
    if datamodule is not None:
        yield from _arguments("data", datamodule, but=("batch_size",) if derived else ())


def _arguments(name: str, owner: Any, but: Collection[str] = ()) -> Iterator[tuple[str, str]]:
    """Values of the arguments that an object was made with, as far as it still has them."""
    for argument in inspect.signature(type(owner).__init__).parameters:
        if argument not in ("self", "seed", *but) and hasattr(owner, argument):
            yield from _flat(f"{name}.{argument}", getattr(owner, argument))


def _teacher_settings(teachers: Any) -> Iterator[tuple[str, str]]:
    """Who teaches: a ``TeacherPool``; of a teacher, unlike of the policy, the path says what is learned."""
    if teachers is None:
        return
    yield "model.teachers", str(sorted(teachers.routing.given))
    for name, args in teachers.args.items():
        yield f"model.teachers.{name}.path", str(args.path)
        yield from _flat(f"model.teachers.{name}", args)
    for name in teachers.routing.given:
        if name in teachers.routing.mixtures:
            yield from _flat(f"model.teachers.{name}", teachers.routing.mixtures[name])


def _flat(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Plain values below a name; what is none, a loaded model say, is left out."""
    if name.rpartition(".")[2] in _HARMLESS:
        return
    if is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(f"{name}.{key}" if name else str(key), inner)
    elif value is None or isinstance(value, str | int | float):
        yield name, str(value)
    elif isinstance(value, list | tuple) and all(isinstance(item, str | int | float) for item in value):
        yield name, str(list(value))
