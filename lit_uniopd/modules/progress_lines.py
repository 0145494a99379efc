"""How a run goes, in lines for a log: where it stands, what it does, the numbers that matter."""

import sys
import time
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, Protocol

from lightning import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, Timer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.combined_loader import CombinedLoader

from lit_uniopd.modules.optimization import run_steps
from lit_uniopd.monitoring.step_timer import StepTimer
from lit_uniopd.utils.progress import heartbeat, in_notebook, silence_other_bars
from lit_uniopd.utils.progress_text import counted, duration, joined, left_of, number, rate, share, time_left

PARTS = {"rollout": "writing answers", "score": "scoring answers", "grade": "grading answers", "update": "updating"}
"""Part of a step, as the timer calls it -> in words."""
LOSS = {"train/loss": "train/loss"}
VALIDATION = {"val/accuracy": "val/accuracy", "val/loss": "val/loss"}
TOKENS = "time/tokens_per_second"


class Observed(Protocol):
    """A module. Some also have ``writes_rollouts``, whether a batch is a rollout of one or several optimizer steps.

    And ``line_values``, what a line about a step shows: name -> tag.
    """

    timer: StepTimer

    @property
    def steps_per_batch(self) -> int: ...

    @property
    def model_name(self) -> str: ...


class ProgressLines(Callback):
    """Write a line when work starts, one for each slow step, one in a while for fast ones, and one in each minute.

    Every module of the project brings one. It is silent where a progress bar is drawn on a terminal or in a notebook;
    only rank 0 speaks. Steps are counted in three units: `rollout` (of Uni-OPD: a batch of prompts, TensorBoard's x
    axis), `step` (optimizer steps, as `every_n_steps` of callbacks and `--trainer.max_steps`; the x axis of the other
    objectives) and `prompts` (rows that were trained on, over all ranks).

    Args:
        every_s: seconds from one line about steps to the next; steps that take longer get one each.
    """

    def __init__(self, every_s: float = 20.0) -> None:
        self.every_s = every_s
        self.prompts = 0
        self._speaks = False
        self._timer: StepTimer | None = None
        self._where, self._doing, self._since, self._counts_rows = "", "", 0.0, False
        self._began, self._first_step, self._first_prompts = 0.0, 0, 0
        self._total_steps: int | None = None
        self._said = float("-inf")
        self._paces: list[tuple[float, int]] = []
        self._rows, self._all_rows = 0, None
        self._sizes: list[list[int]] = []

    # --- what the heartbeat asks for, from its own thread ---

    def context(self) -> str:
        return joined(self._where, self._rows_text() if self._counts_rows else "") or self._doing

    def line(self) -> str:
        if self._counts_rows:
            return self.context()
        part = PARTS.get((self._timer.phase if self._timer is not None else None) or "", self._doing)
        return joined(self._where, f"{part} for {duration(time.monotonic() - self._since)}")

    # --- from the start to the end ---

    def setup(self, trainer: Trainer, pl_module: Observed, stage: str) -> None:  # type: ignore[override]
        self._speaks = trainer.is_global_zero and not bar_is_drawn(trainer)
        if self._speaks:
            heartbeat.end(self)
            heartbeat.begin(self)
        self._where, self._total_steps = "", None
        self._do("loading models")
        self._say(joined(f"{TrainerFn(stage).value} begins", type(pl_module).__name__, pl_module.model_name))

    def teardown(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        heartbeat.end(self)

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        heartbeat.end(self)

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._do("before training")

    def on_train_start(self, trainer: Trainer, pl_module: Observed) -> None:  # type: ignore[override]
        self._total_steps = run_steps(trainer, pl_module.steps_per_batch)
        self._began, self._first_step, self._first_prompts = time.monotonic(), trainer.global_step, self.prompts
        self._said = float("-inf")  # the first step is always told of
        self._paces = []
        self._do("training")
        self._say(joined("training begins", self._position(trainer, pl_module)))

    def on_train_batch_start(self, trainer: Trainer, pl_module: Observed, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        self._where = self._position(trainer, pl_module, under_way=True)
        self._timer = pl_module.timer
        self._do("training")

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: Observed, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.prompts += _length(batch) * _replicas(trainer)
        self._timer = None
        self._where = self._position(trainer, pl_module)
        if trainer.global_step > (self._paces[-1][1] if self._paces else self._first_step):
            self._paces = [*self._paces[:2], (time.monotonic(), trainer.global_step)]
        if not self._speaks or not self._is_due(last=trainer.global_step == self._total_steps):
            return
        seconds = time.monotonic() - self._began
        metrics = trainer.callback_metrics
        prompts_per_second = (self.prompts - self._first_prompts) / max(seconds, 1e-9)
        self._say(
            joined(
                self._where,
                counted("prompts", self.prompts),
                *values(metrics, getattr(pl_module, "line_values", LOSS)),
                rate(float(metrics[TOKENS]), "tok") if TOKENS in metrics else rate(prompts_per_second, "prompts"),
                self._time_left(trainer, seconds),
            )
        )

    def _time_left(self, trainer: Trainer, seconds: float) -> str:
        """How long the training still takes: from its third step on at the pace of all but the first, which is slow.

        Validations count as far as there were any.
        """
        step, total = trainer.global_step, self._total_steps
        if len(self._paces) < 3:
            return time_left(step - self._first_step, total and total - self._first_step, seconds)
        (since, first), (now, last) = self._paces[0], self._paces[-1]
        pace = (now - since) / (last - first)
        limits = [each.time_remaining() for each in trainer.callbacks if isinstance(each, Timer)]  # type: ignore[attr-defined]
        lefts = [left for left in (total and pace * (total - step), *limits) if left is not None]
        left = min(lefts, default=0.0)
        return left_of(left, pace * step + left, at_most=may_end_earlier(trainer)) if left > 0 else ""

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._do("finishing")

    # --- validation, test and prediction: rows of all rows ---

    def on_validation_start(self, trainer: Trainer, pl_module: Any) -> None:
        name = "sanity check" if trainer.sanity_checking else "validation"
        batches = trainer.num_sanity_val_batches if trainer.sanity_checking else trainer.num_val_batches
        self._begin_rows(name, trainer.val_dataloaders, batches)

    def on_test_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._begin_rows("test", trainer.test_dataloaders, trainer.num_test_batches)

    def on_predict_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._begin_rows("prediction", trainer.predict_dataloaders, trainer.num_predict_batches)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._rows += self._sizes[dataloader_idx][batch_idx] if self._sizes else _length(batch)
        if self._rows != self._all_rows and self._is_due():  # the end has a line of its own
            self._say(self._rows_text())

    on_test_batch_end = on_predict_batch_end = on_validation_batch_end

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            self._say(joined(self._rows_text(), *values(trainer.callback_metrics, VALIDATION)))
        self._do("training" if trainer.state.fn == "fit" else "finishing")

    def on_test_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._say(self._rows_text())
        self._do("finishing")

    on_predict_end = on_test_end

    def _begin_rows(self, name: str, loaders: Any, batches: Sequence[int | float]) -> None:
        self._do(name)
        self._counts_rows = True
        self._rows, self._sizes = 0, batch_sizes(loaders, batches)
        self._all_rows = sum(map(sum, self._sizes)) if self._sizes else None
        self._say(joined(f"{name} begins", "" if self._all_rows is None else share(None, self._all_rows, "row")))

    def _rows_text(self) -> str:
        seconds = time.monotonic() - self._since
        pace = rate(self._rows / seconds, "rows") if self._rows and seconds > 0 else ""
        rows = share(self._rows, self._all_rows, "row")
        return joined(f"{self._doing} {rows}", pace, time_left(self._rows, self._all_rows, seconds))

    # --- speaking ---

    def _do(self, what: str) -> None:
        self._doing, self._since, self._counts_rows = what, time.monotonic(), False

    def _is_due(self, *, last: bool = False) -> bool:
        """Whether to speak of a step now; the caller does."""
        due = last or time.monotonic() - self._said >= self.every_s
        if due:
            self._said = time.monotonic()
        return due

    def _say(self, text: str) -> None:
        if self._speaks:
            heartbeat.say(text)

    def _position(self, trainer: Trainer, module: Observed, under_way: bool = False) -> str:
        """Where the run stands, in rollouts and optimizer steps."""
        every, step, total = module.steps_per_batch, trainer.global_step, self._total_steps
        rollout = counted("rollout", step // every + under_way, None if total is None else total // every)
        return joined(rollout if getattr(module, "writes_rollouts", False) else "", counted("step", step, total))

    def state_dict(self) -> dict[str, Any]:
        return {"prompts": self.prompts}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.prompts = state_dict["prompts"]


def may_end_earlier(trainer: Trainer) -> bool:
    """Whether something can stop a run before it has taken all of its steps."""
    return any(isinstance(callback, EarlyStopping | Timer) for callback in trainer.callbacks)  # type: ignore[attr-defined]


def values(metrics: Mapping[str, Any], tags: Mapping[str, str]) -> list[str]:
    """Name and value of what was logged.

    Args:
        metrics: tag -> value.
        tags: name -> tag, in order.
    """
    return [f"{name} {number(float(metrics[tag]))}" for name, tag in tags.items() if tag in metrics]


def missing_lines(trainer: Trainer) -> list[Callback]:
    """Signs of life for a trainer that has none: the callback, and no bars of other libraries in a log."""
    silence_other_bars()
    has_lines = any(isinstance(callback, ProgressLines) for callback in trainer.callbacks)  # type: ignore[attr-defined]
    return [] if has_lines else [ProgressLines()]


def bar_is_drawn(trainer: Trainer) -> bool:
    """Whether a progress bar of the trainer is seen to move."""
    bar = trainer.progress_bar_callback
    return bar is not None and getattr(bar, "is_enabled", True) and (sys.stdout.isatty() or in_notebook())


def batch_sizes(loaders: Any, batches: Sequence[int | float]) -> list[list[int]]:
    """Rows of each batch of each loader, as far as they will be taken; empty where a loader does not know.

    Args:
        loaders: of the trainer.
        batches: how many are taken of each.
    """
    flat = [] if loaders is None else CombinedLoader(loaders).flattened
    if not all(isinstance(getattr(loader, "batches", None), list) for loader in flat):
        return []
    return [
        [len(batch) for batch in islice(loader.batches, int(count))]
        for loader, count in zip(flat, batches, strict=True)
    ]


def _length(batch: Any) -> int:
    try:
        return len(batch)
    except TypeError:
        return 0


def _replicas(trainer: Trainer) -> int:
    """Processes that see different data."""
    return (trainer.distributed_sampler_kwargs or {"num_replicas": 1})["num_replicas"]
