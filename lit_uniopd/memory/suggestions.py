"""What would make a run fit: the settings to change, those first that save most."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

from lit_uniopd.errors import UserError
from lit_uniopd.memory.plan import MemoryPlan, Setup, plan_memory, readable
from lit_uniopd.policy.args import LoraArgs, PolicyArgs
from lit_uniopd.sampling.args import ColocateArgs


@dataclass(frozen=True)
class Suggestion:
    """A change of the settings, and what it saves once those before it are made."""

    flags: str
    saves: int


def suggest_savings(
    setup: Setup, capacity: int, bytes_to_save: Callable[[MemoryPlan], int]
) -> tuple[list[Suggestion], int]:
    """Changes to make one after the other until the run fits, each time the one that saves most.

    Args:
        setup: of the run as it is.
        capacity: bytes that are free on a device.
        bytes_to_save: of a plan, the bytes that must become fewer: all at the peak, or those that no setting avoids.

    Returns:
        The changes, and the bytes that remain when all are made. Changes that save less than a hundredth are left out.
    """
    suggestions: list[Suggestion] = []
    size = bytes_to_save(plan_memory(setup))
    while size > capacity:
        sizes = [(bytes_to_save(plan_memory(changed)), flags, changed) for flags, changed in _changes(setup, capacity)]
        best_size, flags, changed = min(sizes, key=lambda change: change[0], default=(size, "", setup))
        if best_size > 0.99 * size:
            break
        suggestions.append(Suggestion(flags, size - best_size))
        size, setup = best_size, changed
    return suggestions, size


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
        UserError: naming settings that save memory, if what is known exactly is more than the device has.
    """
    if plan.total <= capacity:
        return None
    if plan.least > capacity:
        exact = sorted((a for a in plan.allocations if a.phase == "always" and a.exact), key=lambda a: -a.bytes)
        largest = ", ".join(f"{allocation.name} {readable(allocation.bytes)}" for allocation in exact[:4])
        raise UserError(
            f"This run cannot fit: it holds at least {readable(plan.least)} on each device ({largest}), and {device} "
            f"has {readable(capacity)} free; {_remedy(*suggest_savings(setup, capacity, lambda plan: plan.least))}."
        )
    return (
        f"This run may not fit: about {readable(plan.total)} at its peak ({plan.peak}), and {device} has "
        f"{readable(capacity)} free; {_remedy(*suggest_savings(setup, capacity, lambda plan: plan.total))}."
    )


def _remedy(suggestions: list[Suggestion], remaining: int) -> str:
    if not suggestions:
        return "take a smaller model or a larger device"
    steps = ", then ".join(f"{each.flags} (saves {readable(each.saves)})" for each in suggestions)
    return f"set {steps}, which leaves {readable(remaining)}"


def _changes(setup: Setup, capacity: int) -> Iterator[tuple[str, Setup]]:
    """Flags, and the setup that they make: every change that is possible here."""
    yield from _smaller_batches(setup, capacity)
    yield from _lighter_policy(setup)
    if setup.optimizer is not None and setup.shards == 1:
        yield "--model.optimizer bitsandbytes.optim.AdamW8bit", replace(setup, optimizer=_adamw_8bit)
    elif setup.optimizer is not None and find_spec("torchao"):
        yield "--model.optimizer lit_uniopd.optimizers.AdamW8bit", replace(setup, optimizer=_sharded_adamw_8bit)
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
    if load.colocated is not None:
        yield from _smaller_engine(setup, load.colocated, room)
    elif rows < load.rows:
        smaller = replace(load, rows=rows, prompts=max(1, load.prompts * rows // load.rows))
        yield f"--{load.rows_flag} {rows}", replace(setup, workload=smaller)
    share = min(1.0, room / max(1, plan.held("update"), plan.held("score")))
    tokens = max(load.longest_row, int(load.train_tokens * share))
    if load.tokens_flag and tokens < load.train_tokens:
        smaller = replace(load, train_tokens=tokens, score_tokens=min(load.score_tokens, tokens))
        yield load.tokens_flag.format(tokens=tokens, rows=tokens // load.longest_row), replace(setup, workload=smaller)


def _smaller_engine(setup: Setup, args: ColocateArgs, room: int) -> Iterator[tuple[str, Setup]]:
    """A smaller share of the GPU for vLLM, where it has one and its weights leave room in it."""
    share = int(100 * room / setup.device_bytes) / 100 if setup.device_bytes else 0.0
    if args.kv_cache_gib is None and 0 < share < args.gpu_memory_utilization:
        workload = replace(setup.workload, colocated=replace(args, gpu_memory_utilization=share))
        yield f"--{setup.workload.engine_flag}.gpu_memory_utilization {share:g}", replace(setup, workload=workload)


LIGHTER: dict[str, tuple[str, Any]] = {
    "gradient_checkpointing": ("gradient_checkpointing true", True),
    "activation_offloading": ("activation_offloading true", True),
    "lora": ("lora.rank 64", LoraArgs()),
    "quantization": ("quantization 4bit", "4bit"),
    "gather": ("gather layers", "layers"),
    "placement": ("placement cpu_offload", "cpu_offload"),
    "dtype": ("dtype bfloat16", "bfloat16"),
}
"""Option of a model -> how to write the setting that saves memory, and its value."""


def _lighter(args: PolicyArgs, flag: str, *options: str) -> tuple[str, PolicyArgs]:
    """The flags that set some options of a model so that it takes less memory, and its arguments with them."""
    flags = " ".join(f"--{flag}.{LIGHTER[option][0]}" for option in options)
    return flags, replace(args, **{option: LIGHTER[option][1] for option in options})


def _lighter_policy(setup: Setup) -> Iterator[tuple[str, Setup]]:
    policy, is_pretrained = setup.policy, setup.policy.config is None  # random weights are not quantised
    if setup.optimizer is None:
        for option, applies in (
            ("dtype", is_pretrained and policy.dtype in ("auto", "float32")),
            ("quantization", is_pretrained and policy.quantization == "none"),
        ):
            if applies:
                flags, lighter = _lighter(policy, setup.flag, option)
                yield flags, replace(setup, policy=lighter)
        return
    for options, applies in (
        (["gradient_checkpointing"], not policy.gradient_checkpointing),
        (
            ["activation_offloading"],
            setup.cuda and policy.gradient_checkpointing and not policy.activation_offloading,
        ),
        (["lora"], policy.lora is None),
        (["lora", "quantization"], policy.lora is None and is_pretrained),
        (["quantization"], policy.lora is not None and policy.quantization == "none" and is_pretrained),
    ):
        if applies:
            flags, lighter = _lighter(policy, setup.flag, *options)
            # Without its adapters the policy is its own reference.
            reference_copy = setup.reference_copy and "lora" not in options
            yield flags, replace(setup, policy=lighter, reference_copy=reference_copy)


def _lighter_teachers(setup: Setup) -> Iterator[tuple[str, Setup]]:
    for name, args in setup.teachers.items():
        placement, is_pretrained = getattr(args, "placement", None), args.config is None
        if getattr(args, "is_student", False) or args.quantization != "none" or placement not in (None, "resident"):
            continue
        by_layer = getattr(args, "gather", None) == "layers"  # then it stays resident, and is not quantised
        for option, applies in (
            ("gather", setup.shards > 1 and placement is not None and not by_layer),
            ("placement", placement is not None and not by_layer),
            ("quantization", is_pretrained and not by_layer),
            ("dtype", is_pretrained and args.dtype in ("auto", "float32")),
        ):
            if applies:
                flags, lighter = _lighter(args, f"model.teachers.{name}", option)
                yield flags, replace(setup, teachers={**setup.teachers, name: lighter})


def _adamw_8bit(parameters: Any) -> Any:
    from bitsandbytes.optim.adamw import AdamW8bit

    return AdamW8bit(parameters)


def _sharded_adamw_8bit(parameters: Any) -> Any:
    from lit_uniopd.optimizers import AdamW8bit

    return AdamW8bit(parameters)
