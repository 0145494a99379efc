"""What would make a run fit: the settings to change, those first that save most here."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from lit_uniopd.errors import UserError
from lit_uniopd.memory.plan import MemoryPlan, Setup, plan_memory, readable
from lit_uniopd.policy.args import LoraArgs


@dataclass(frozen=True)
class Suggestion:
    """A change of the settings, and what it saves once those before it are made."""

    flags: str
    saves: int


def suggest_savings(setup: Setup, capacity: int, wanted: Callable[[MemoryPlan], int]) -> tuple[list[Suggestion], int]:
    """Changes to make one after the other until the run fits, each time the one that saves most.

    Args:
        setup: of the run as it is.
        capacity: bytes that are free on a device.
        wanted: of a plan, the bytes that are to become fewer: all at the peak, or those that must be there.

    Returns:
        The changes, and the bytes that are left when all are made. Changes that save less than a hundredth are not
        among them.
    """
    path: list[Suggestion] = []
    size = wanted(plan_memory(setup))
    while size > capacity:
        tried = [(wanted(plan_memory(changed)), flags, changed) for flags, changed in _changes(setup, capacity)]
        best = min(tried, key=lambda change: change[0], default=(size, "", setup))
        if best[0] > 0.99 * size:
            break
        path.append(Suggestion(best[1], size - best[0]))
        size, _, setup = best
    return path, size


def check_fits(setup: Setup, plan: MemoryPlan, capacity: int, device: str) -> str | None:
    """Compare a plan with the memory that a device has.

    Args:
        setup: what the plan was made for.
        plan: of `plan_memory`.
        capacity: bytes that are free on the device.
        device: its name, for messages.

    Returns:
        None if it fits; a warning if the estimates say that it may not.

    Raises:
        UserError: naming levers, if what is known exactly is more than the device has.
    """
    if plan.total <= capacity:
        return None
    if plan.least > capacity:
        exact = sorted((p for p in plan.parts if p.phase == "always" and p.exact), key=lambda part: -part.bytes)
        held = ", ".join(f"{part.name} {readable(part.bytes)}" for part in exact[:4])
        raise UserError(
            f"This run cannot fit: it holds at least {readable(plan.least)} on each device ({held}), and {device} has "
            f"{readable(capacity)} free; {_told(*suggest_savings(setup, capacity, lambda plan: plan.least))}."
        )
    return (
        f"This run may not fit: about {readable(plan.total)} at its peak ({plan.peak}), and {device} has "
        f"{readable(capacity)} free; {_told(*suggest_savings(setup, capacity, lambda plan: plan.total))}."
    )


def _told(path: list[Suggestion], left: int) -> str:
    if not path:
        return "take a smaller model or a larger device"
    steps = ", then ".join(f"{lever.flags} (saves {readable(lever.saves)})" for lever in path)
    return f"set {steps}, which leaves {readable(left)}"


def _changes(setup: Setup, capacity: int) -> Iterator[tuple[str, Setup]]:
    yield from _smaller_batches(setup, capacity)
    yield from _lighter_policy(setup)
    yield from _lighter_teachers(setup)
    if setup.shards == 1 and setup.devices > 1:
        # As that file says: weights gathered in bfloat16, gradients whole within a step.
        types = {"precision": "32-true", "gathered_bytes": 2, "whole_gradients": True}
        yield "-c configs/trainer/fsdp.yaml", replace(setup, shards=setup.devices, buckets=False, **types)
    if setup.shards > 1 and setup.cuda and not setup.offloaded:
        yield "--trainer.strategy.init_args.cpu_offload true", replace(setup, offloaded=True)


def _smaller_batches(setup: Setup, capacity: int) -> Iterator[tuple[str, Setup]]:
    """As many rows, and as many tokens, as there is room for: what they take is proportional to their number."""
    load, plan = setup.workload, plan_memory(setup)
    room = max(0, capacity - plan.held("always"))
    rows = max(1, int(load.rows * min(1.0, room / max(1, plan.held("rollout")))))
    if rows < load.rows:
        fewer = replace(load, rows=rows, prompts=max(1, load.prompts * rows // load.rows))
        yield f"--{load.rows_flag} {rows}", replace(setup, workload=fewer)
    share = min(1.0, room / max(1, plan.held("update"), plan.held("score")))
    tokens = max(load.longest_row, int(load.train_tokens * share))
    if load.tokens_flag and tokens < load.train_tokens:
        fewer = replace(load, train_tokens=tokens, score_tokens=min(load.score_tokens, tokens))
        yield load.tokens_flag.format(tokens=tokens, rows=tokens // load.longest_row), replace(setup, workload=fewer)


def _lighter_policy(setup: Setup) -> Iterator[tuple[str, Setup]]:
    policy, flag = setup.policy, setup.flag
    if not policy.gradient_checkpointing:
        yield (
            f"--{flag}.gradient_checkpointing true",
            replace(setup, policy=replace(policy, gradient_checkpointing=True)),
        )
    if policy.lora is None:
        adapted = replace(policy, lora=LoraArgs())
        yield f"--{flag}.lora.rank 64", replace(setup, policy=adapted, reference_copy=False)
        if policy.config is None:
            both = replace(adapted, quantization="4bit")
            flags = f"--{flag}.lora.rank 64 --{flag}.quantization 4bit"
            yield flags, replace(setup, policy=both, reference_copy=False)
    elif policy.quantization == "none" and policy.config is None:
        yield f"--{flag}.quantization 4bit", replace(setup, policy=replace(policy, quantization="4bit"))
    yield "--model.optimizer bitsandbytes.optim.AdamW8bit", replace(setup, optimizer=_adamw_8bit)


def _lighter_teachers(setup: Setup) -> Iterator[tuple[str, Setup]]:
    for name, args in setup.teachers.items():
        flag = f"--model.teachers.{name}"
        placement = getattr(args, "placement", None)
        if args.quantization != "none" or placement not in (None, "resident"):
            continue
        if placement is not None:
            yield f"{flag}.placement cpu_offload", _with_teacher(setup, name, placement="cpu_offload")
        if args.config is None:
            yield f"{flag}.quantization 4bit", _with_teacher(setup, name, quantization="4bit")
            if args.dtype in ("auto", "float32"):
                yield f"{flag}.dtype bfloat16", _with_teacher(setup, name, dtype="bfloat16")


def _with_teacher(setup: Setup, name: str, **changes: Any) -> Setup:
    return replace(setup, teachers={**setup.teachers, name: replace(setup.teachers[name], **changes)})


def _adamw_8bit(parameters: Any) -> Any:
    from bitsandbytes.optim.adamw import AdamW8bit

    return AdamW8bit(parameters)
