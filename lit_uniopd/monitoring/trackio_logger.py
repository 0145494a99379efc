"""Lightning has no logger for Trackio: a small one, with the steps and the settings of a run."""

from argparse import Namespace
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from lit_uniopd.errors import UserError
from lit_uniopd.monitoring.logger_adapters import TrackioAdapter, logger_adapter


class TrackioLogger(Logger):
    """Log to Trackio: a local database, or a Space of the hub.

    Look at it with `trackio show`. The database is where the environment variable TRACKIO_DIR says, in the hub's cache
    if it says nothing.

    Args:
        project: runs of a project are drawn into the same charts.
        name: of the run; null: Trackio makes one up.
        resume: whether to go on with a run of this name: never, allow or must.
        group: of runs that belong together.
        space_id: of a Space on the hub that is logged to instead.
        options: further arguments of `trackio.init`, `auto_log_gpu` say.

    Raises:
        UserError: if Trackio is not installed.
    """

    def __init__(
        self,
        project: str = "lit_uniopd",
        name: str | None = None,
        resume: str = "never",
        group: str | None = None,
        space_id: str | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        package = find_spec("trackio")
        if package is None or package.origin is None:  # or a folder of that name in the working directory
            raise UserError("--trainer.logger TrackioLogger: Trackio is not installed; run `pip install trackio`.")
        super().__init__()
        self._project, self._run_name, self._resume = project, name, resume
        self._init: dict[str, Any] = {"group": group, "space_id": space_id, **(options or {})}
        self._settings: dict[str, Any] = {}
        self._run: Any = None

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The `trackio.Run`, started when it is first asked for."""
        if self._run is None:
            self._run = import_module("trackio").init(
                self._project, name=self._run_name, resume=self._resume, config=self._settings, **self._init
            )
            self._run_name = self._run.name
        return self._run

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        self.experiment.log(dict(metrics), step=step)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *_: Any, **__: Any) -> None:
        values = vars(params) if isinstance(params, Namespace) else params
        self._settings |= values
        self.finalize("success")  # Trackio writes settings with the first values after a start, and then no more

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what is waiting. A `validate` after a `fit` goes on with the same run."""
        if self._run is not None:
            self._run.finish()
            self._run, self._resume = None, "allow"

    @property
    def name(self) -> str:
        return self._project

    @property
    def version(self) -> str | None:
        return self._run_name


logger_adapter.register(TrackioLogger, TrackioAdapter)
