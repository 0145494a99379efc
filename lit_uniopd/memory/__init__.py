"""What a run takes in memory: counted where it can be counted, estimated where it cannot (docs/memory.md)."""

from lit_uniopd.memory.census import ModelSize, model_size
from lit_uniopd.memory.levers import Lever, check_fits, levers
from lit_uniopd.memory.optimizers import optimizer_bytes
from lit_uniopd.memory.outline import outline
from lit_uniopd.memory.plan import MemoryPlan, Part, Setup, Workload, plan_memory
from lit_uniopd.memory.report import free_bytes, parameter_table, publish, trainer_facts

__all__ = [
    "Lever",
    "MemoryPlan",
    "ModelSize",
    "Part",
    "Setup",
    "Workload",
    "check_fits",
    "free_bytes",
    "levers",
    "model_size",
    "optimizer_bytes",
    "outline",
    "parameter_table",
    "plan_memory",
    "publish",
    "trainer_facts",
]
