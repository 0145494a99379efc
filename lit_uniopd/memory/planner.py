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
        allow_oom: start also a run that, by the estimates, may need more than there is.
        plan: of the last ``check``; None where there is none. Of several models, the last one's.
    """

    def __init__(self) -> None:
        self.allow_oom = False
        self.plan: MemoryPlan | None = None

    def check(self, trainer: Trainer, make_setups: Callable[[], list[Setup]]) -> None:
        """Print what the run will hold on each device, before any weights are loaded.

        Args:
            trainer: of the run.
            make_setups: from the module and its data to what the plans depend on: one for each model that is trained
                or evaluated. All of them are held; they compute in turn.

        Raises:
            UserError: naming what would make it smaller, if it cannot fit, or may not and ``allow_oom`` is off.
        """
        try:
            setups = make_setups()
            plans = [plan_memory(setup) for setup in setups]
        except UserError:
            raise
        except Exception as error:  # a model that the plan cannot read may still be trained
            log.warning("There is no memory plan for this model (%s: %s).", type(error).__name__, error)
            return
        device = trainer.strategy.root_device
        # All ranks decide alike, or those that go on would wait for those that stopped.
        free = trainer.strategy.broadcast(free_bytes(device, trainer.num_devices))
        for setup, plan in zip(setups, plans, strict=True):
            self.plan = plan
            others = [other for other in plans if other is not plan]
            publish(trainer, "memory/plan", f"Memory plan{f' of {setup.flag}' if others else ''}:", plan.table())
            room = free - sum(other.held("always") for other in others)
            warning = check_fits(setup, plan, room, str(device))
            if warning is None:
                continue
            if not self.allow_oom:
                remedy = "--allow_oom" if UserError.on_command_line else "module.memory.allow_oom = True"
                raise UserError(f"{warning.rstrip('.')}; {remedy} starts it as it is.")
            rank_zero_warn(warning)
