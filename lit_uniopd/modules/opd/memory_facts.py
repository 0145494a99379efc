"""What the memory plan of on-policy distillation depends on."""

from dataclasses import replace
from typing import Any

from lit_uniopd.memory import Setup, Workload
from lit_uniopd.modules.opd.scoring import longest_reading
from lit_uniopd.modules.opd.writing_teams import member_sampling


def rollout_workload(module: Any, processor: Any) -> Workload:
    """What a step of ``UniOPD`` asks of the device.

    Args:
        module: with its trainer; nothing is loaded.
        processor: of the student.
    """
    data, trained = module.trainer_data, module.trainer_data.prompts("train")
    return Workload.of_rollouts(
        member_sampling(module, module.sampling),
        answers=data.batch_size * module.sampling.n,
        longest_prompt=module.longest_prompt(trained),
        longest_read=longest_reading(module, trained, processor),
        micro_batch_tokens=module.micro_batch_tokens,
        here=module.writer == "student" and module.sampling.server is None,
        cuda=module.trainer.strategy.root_device.type == "cuda",
        top_k=module.loss.asked_top_k,
    )


def with_teachers(module: Any, setup: Setup) -> Setup:
    """The setup of the student's plan, with its teachers and a copy of it as it was at the start, if one is needed."""
    teachers = module.teachers.args
    of_start = module.advantage.needs_reference or any(t.weights == "student_at_start" for t in teachers.values())
    return replace(
        setup,
        teachers=teachers,
        waiting=_waiting(module, setup.shards) if module.loss.kind == "sampled" else frozenset(),
        reference_copy=of_start and setup.policy.lora is None,
    )


def _waiting(module: Any, shards: int) -> frozenset[str]:
    """The teachers of log-linear mixtures that do not all have whole weights on the device all the time."""
    args, names = module.teachers.args, set[str]()
    for mixture in module.teachers.routing.mixtures.values():
        visits = any(args[name].placement in ("cpu_offload", "disk_cache") for name in mixture.shares)
        if mixture.kind == "log_linear" and len(mixture.shares) > 1 and (visits or shards > 1):
            names |= mixture.shares.keys()
    return frozenset(names)
