"""What a run takes in memory: counted where it can be counted, estimated where it cannot (docs/memory.md)."""

from lit_uniopd.memory.meta_model import build_meta_model
from lit_uniopd.memory.optimizer_states import optimizer_bytes
from lit_uniopd.memory.parameter_counts import ModelSize, model_size
from lit_uniopd.memory.plan import Allocation, MemoryPlan, Setup, plan_memory
from lit_uniopd.memory.report import free_bytes, parameter_table, publish, trainer_facts
from lit_uniopd.memory.server_replies import replies_bytes
from lit_uniopd.memory.suggestions import Suggestion, check_fits, suggest_savings
from lit_uniopd.memory.workload import Workload

__all__ = [
    "Allocation",
    "MemoryPlan",
    "ModelSize",
    "Setup",
    "Suggestion",
    "Workload",
    "build_meta_model",
    "check_fits",
    "free_bytes",
    "model_size",
    "optimizer_bytes",
    "parameter_table",
    "plan_memory",
    "publish",
    "replies_bytes",
    "suggest_savings",
    "trainer_facts",
]
