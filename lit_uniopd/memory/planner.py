"""The memory plan of a run: made, printed and held against what is free, before any weights are loaded."""

import logging
from collections.abc import Callable

from lightning import Trainer
from lightning.pytorch.utilities import rank_zero_warn

from lit_uniopd.errors import UserError
from lit_uniopd.memory.plan import MemoryPlan, Setup, plan_memory
from lit_uniopd.memory.report import free_bytes, publish
from lit_uniopd.memory.suggestions import check_fits

log = logging.getLogger(__name__)


class MemoryPlanner:
    """Plans what a run will hold on each device.

    Attributes:
        plan: of the last ``check``; None where there is none.
    """

    def __init__(self) -> None:
        self.plan: MemoryPlan | None = None

    def check(self, trainer: Trainer, make_setup: Callable[[], Setup]) -> None:
        """Print what the run will hold on each device, before any weights are loaded.

        Args:
            trainer: of the run.
            make_setup: from the module and its data to what the plan depends on.

        Raises:
            UserError: naming what would make it smaller, if it cannot fit.
        """
        try:
            setup = make_setup()
            self.plan = plan_memory(setup)
        except UserError:
            raise
        except Exception as error:  # a model that the plan cannot read may still be trained
            log.warning("There is no memory plan for this model (%s: %s).", type(error).__name__, error)
            return
        publish(trainer, "memory/plan", "Memory plan:", self.plan.table())
        device = trainer.strategy.root_device
        # All ranks decide alike, or those that go on would wait for those that stopped.
        free = trainer.strategy.broadcast(free_bytes(device, trainer.num_devices))
        warning = check_fits(setup, self.plan, free, str(device))
        if warning is not None:
            rank_zero_warn(warning)
