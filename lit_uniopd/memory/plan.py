"""The memory plan: what a run will hold on each device, from its settings alone, before any weight is loaded."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import nn

from lit_uniopd.memory.estimates import (
    Dimensions,
    Numerics,
    autocast_copies_bytes,
    dimensions,
    encoder_bytes,
    head_bytes,
    kv_cache_bytes,
    layer_inputs_bytes,
    logits_bytes,
    numerics,
    saved_bytes,
    working_bytes,
)
from lit_uniopd.memory.meta_model import build_meta_model
from lit_uniopd.memory.optimizer_states import optimizer_bytes, paged
from lit_uniopd.memory.parameter_counts import ModelSize, model_size, quantised_bits, unique_parameters
from lit_uniopd.memory.server_replies import replies_bytes
from lit_uniopd.memory.workload import Workload
from lit_uniopd.policy.args import PolicyArgs
from lit_uniopd.policy.backbone import body_of, layers_of, unwrap
from lit_uniopd.sampling.args import CPU_CACHE_GIB, ColocateArgs

Phase = Literal["always", "rollout", "score", "update", "step", "host"]
KIB, MIB, GIB = 2**10, 2**20, 2**30


@dataclass(frozen=True)
class Setup:
    """All that the plan depends on."""

    policy: PolicyArgs
    flag: str
    """The option that ``policy`` came from."""
    optimizer: Callable[[Any], torch.optim.Optimizer] | None
    """None: the policy is only evaluated."""
    workload: Workload
    teachers: Mapping[str, PolicyArgs] = field(default_factory=dict)
    waiting: frozenset[str] = frozenset()
    """Teachers whose hidden states of a rollout wait in the host's memory for others of a log-linear mixture."""
    reference_copy: bool = False
    """A frozen copy of the policy is kept."""
    precision: str = "32-true"
    """Of Lightning's trainer."""
    cuda: bool = False
    device_bytes: int = 0
    """Memory that a GPU has, in use or free; 0: unknown. vLLM takes a share of it."""
    shards: int = 1
    """Devices that share each weight, gradient and state (FSDP); 1: each holds all of them."""
    buckets: bool = False
    """Gradients are held twice: DDP exchanges them from buckets of its own."""
    gathered_bytes: int | None = None
    """Of a weight that FSDP has gathered. None: as many as it is held in."""
    whole_gradients: bool = False
    """Gradients of a step's micro-batches are kept whole, and exchanged once (FSDP)."""
    offloaded: bool = False
    """Shards, gradients and states are kept in the host's memory (FSDP)."""
    devices: int = 1
    """In all; what FSDP could share them over."""


@dataclass(frozen=True)
class Allocation:
    """One entry of the plan: a part of the memory that a run takes."""

    name: str
    bytes: int
    phase: Phase
    """While it is held. No two phases but `always` are at the same time; `host` is not on the device."""
    exact: bool
    """To the byte; else it is an estimate."""
    least: int = 0
    """Bytes with a single row or token, which no run can do without."""
    turn: str = ""
    """The model it belongs to, if models take turns in a phase: only one's allocations are held at a time."""


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes on one device."""

    allocations: tuple[Allocation, ...]

    @property
    def total(self) -> int:
        """Bytes held at the peak: what is always there, and the phase that needs most."""
        return self.held("always") + max(self.held(phase) for phase in PHASES)

    @property
    def peak(self) -> Phase:
        """The phase that needs most."""
        return max(PHASES, key=self.held)

    @property
    def least(self) -> int:
        """Bytes that no setting of rows and tokens avoids; the run cannot start with less."""
        least = {phase: sum(a.least for a in self.allocations if a.phase == phase) for phase in PHASES}
        return sum(each.bytes for each in self.allocations if each.phase == "always" and each.exact) + max(
            least.values()
        )

    def held(self, phase: Phase) -> int:
        """Bytes allocated in a phase; of those that take turns, only the largest turn counts."""
        turns: Counter[str] = Counter()
        for a in self.allocations:
            turns[a.turn] += a.bytes if a.phase == phase else 0
        return turns.pop("", 0) + max(turns.values(), default=0)

    def table(self) -> str:
        """A Markdown table, padded so that it reads well in a terminal."""
        rows = [
            (a.name, readable(a.bytes), f"{a.phase}{', in turn' if a.turn else ''}", "exact" if a.exact else "estimate")
            for a in self.allocations
            if a.bytes
        ]
        rows.append((f"total at the peak ({self.peak})", readable(self.total), "", ""))
        return padded(("on each device", "memory", "held", ""), rows)


PHASES: tuple[Phase, ...] = ("rollout", "score", "update", "step")


def readable(size: int) -> str:
    """Bytes for people."""
    unit, name = (GIB, "GiB") if size >= GIB / 10 else (MIB, "MiB") if size >= MIB / 10 else (KIB, "KiB")
    return f"{size / unit:.2f} {name}"


def padded(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table with columns of even width."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    even = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in (header, *rows)]
    rule = ["-" * width for width in widths]
    return "\n".join("| " + " | ".join(row) + " |" for row in (even[0], rule, *even[1:]))


def plan_memory(setup: Setup) -> MemoryPlan:
    """Add up what a run will hold on each device.

    Weights, gradients and optimizer states are counted on outlines of the models (meta device), so they are exact; KV
    cache and activations follow from dimensions, rows and tokens (`estimates`).

    Raises:
        UserError: if a model has no config, or its options contradict each other.
    """
    autocast, cast_to = setup.precision.endswith("-mixed"), _cast(setup.precision)
    trained = setup.optimizer is not None
    policy = build_meta_model(setup.policy, trainable=trained, flag=setup.flag, cast_to=cast_to)
    dims, types = dimensions(policy), numerics(policy, autocast=autocast)
    if setup.gathered_bytes is not None:
        types = replace(types, matmul=setup.gathered_bytes, residual=setup.gathered_bytes)
    allocations = _resident(setup, policy)
    for name, teacher in setup.teachers.items():
        if getattr(teacher, "is_student", False):
            scoring = _scoring(f"teacher {name}", dims, replace(types, trained=False), setup)
            allocations += _self_teacher_parts(setup, name, teacher, policy, scoring)
            allocations += _waiting_parts(setup, name, dims, types)
        else:
            allocations += _teacher_parts(setup, name, teacher, autocast)
    if setup.reference_copy:
        allocations += _weights("reference: weights", model_size(policy, shards=setup.shards), setup)
        allocations.append(_scoring("reference", dims, replace(types, trained=False), setup))
    allocations += _rollout_parts(setup, policy, dims, types)
    if setup.optimizer is not None:
        allocations += _update_parts(setup, policy, dims, types)
    if setup.shards > 1:
        allocations += [a for a in _gathered_parts(setup, policy, dims, types) if trained or a.phase == "rollout"]
    return MemoryPlan(tuple(allocations))


def _cast(precision: str) -> torch.dtype | None:
    return {"bf16-true": torch.bfloat16, "16-true": torch.float16}.get(precision)


def _resident(setup: Setup, policy: nn.Module) -> list[Allocation]:
    """Weights, gradients and optimizer states: held from the first step to the last."""
    size = model_size(policy, shards=setup.shards)
    if setup.optimizer is None:
        return _weights("policy: weights", size, setup)
    trained = [parameter for _, parameter in unique_parameters(policy) if parameter.requires_grad]
    states, exact = optimizer_bytes(setup.optimizer, trained)
    spread = size.trainable_bytes / max(1, sum(p.numel() * p.element_size() for p in trained))
    movable = setup.cuda and paged(setup.optimizer)
    held: Phase = "host" if setup.offloaded else "always"
    allocations = [
        *_weights("policy: weights", size, setup),
        Allocation("gradients", size.trainable_bytes, held, exact=True),
        Allocation(
            f"optimizer states{' (paged)' if movable else ''}", int(states * spread), held, exact and not movable
        ),
    ]
    if setup.buckets:
        allocations.append(Allocation("gradients: buckets of DDP", size.trainable_bytes, "always", exact=False))
    return allocations


def _weights(name: str, size: ModelSize, setup: Setup) -> list[Allocation]:
    """A model's weights; where shards are offloaded, what is not sharded stays."""
    if not setup.offloaded:
        return [Allocation(name, size.bytes, "always", exact=True)]
    stays = size.quantised_bytes + size.buffer_bytes
    return [
        Allocation(name, stays, "always", exact=True),
        Allocation(f"{name}, shards", size.bytes - stays, "host", exact=True),
    ]


def _teacher_parts(setup: Setup, name: str, args: PolicyArgs, autocast: bool) -> list[Allocation]:
    """A teacher's weights, where its placement leaves them on the device, and its forward pass; teachers take turns."""
    placement = getattr(args, "placement", "resident")
    if placement == "http":
        load, http = setup.workload, getattr(args, "http", None)
        if http is None or not load.top_k:
            return []
        lengths = {"row": load.longest_row, "new_tokens": load.new_tokens}
        size = replies_bytes(http, top_k=load.top_k, answers=load.answers, **lengths)
        return [Allocation(f"teacher {name}: replies", size, "host" if setup.cuda else "score", exact=False)]
    if placement == "quantized" and args.quantization == "none":
        args = replace(args, quantization="4bit")
    model, label = build_meta_model(args, trainable=False, flag=f"model.teachers.{name}"), f"teacher {name}"
    dims, types = dimensions(model), numerics(model, autocast=autocast)
    scoring = _scoring(label, dims, types, setup)
    waiting = _waiting_parts(setup, name, dims, types)
    if placement not in ("resident", "quantized"):  # whole on each device, when its turn comes
        weights = Allocation(f"{label}: weights", model_size(model).bytes, "score", exact=False, turn=label)
        return [weights, scoring, *waiting]
    allocations = _weights(f"{label}: weights", model_size(model, shards=setup.shards), setup)
    by_layer = getattr(args, "gather", "whole") == "layers"
    return [*allocations, *_gathered_to_score(setup, label, model, by_layer=by_layer), scoring, *waiting]


def _waiting_parts(setup: Setup, name: str, dims: Dimensions, types: Numerics) -> list[Allocation]:
    """What is kept of a teacher until the last of its log-linear mixture has read a rollout: states, output head."""
    if name not in setup.waiting:
        return []
    states = setup.workload.answers * setup.workload.new_tokens * dims.hidden * types.residual
    head = dims.vocabulary * dims.hidden * types.residual
    return [
        Allocation(f"teacher {name}: states that wait", states, "host" if setup.cuda else "score", exact=False),
        Allocation(f"teacher {name}: output head that waits", head, "score", exact=False),
    ]


def _self_teacher_parts(setup: Setup, name: str, args: Any, policy: nn.Module, scoring: Allocation) -> list[Allocation]:
    """What a teacher that is the student takes: an average of its own, if it is one; else no weights of its own."""
    label, size, allocations = f"teacher {name}", model_size(policy, shards=setup.shards), []
    if args.weights == "student_average" and setup.policy.lora is None:
        allocations = _weights(f"{label}: average", size, setup)
    elif args.weights == "student_average":
        held: Phase = "host" if setup.offloaded else "always"
        allocations = [Allocation(f"{label}: average of the adapters", size.trainable_bytes, held, exact=True)]
    return [*allocations, *_gathered_to_score(setup, label, policy), scoring]


def _gathered_to_score(setup: Setup, label: str, model: nn.Module, *, by_layer: bool = False) -> list[Allocation]:
    """FSDP: weights of the teacher whose turn it is, all of them, or what is outside the layers and two of those."""
    if setup.shards == 1:
        return []

    def gathered(parameters: Iterable[nn.Parameter]) -> int:
        return sum(p.numel() * (setup.gathered_bytes or p.element_size()) for p in parameters if not quantised_bits(p))

    size = gathered(p for _, p in unique_parameters(model))
    if by_layer:
        layers = [gathered(layer.parameters()) for layer in layers_of(model)]
        size += sum(sorted(layers)[-2:]) - sum(layers)
    return [Allocation(f"{label}: weights gathered to score", size, "score", exact=False, turn=label)]


def _scoring(label: str, dims: Dimensions, types: Numerics, setup: Setup) -> Allocation:
    tokens = setup.workload.score_tokens
    size = working_bytes(dims, types, tokens) + head_bytes(dims, types, tokens=tokens, cuda=setup.cuda, training=False)
    return Allocation(f"{label}: scoring", size if tokens else 0, "score", exact=False, turn=label)


def _rollout_parts(setup: Setup, policy: nn.Module, dims: Dimensions, types: Numerics) -> list[Allocation]:
    load = setup.workload
    if not load.rows:
        return []
    case = {"rows": load.rows, "prompts": load.prompts, "prompt": load.prompt_tokens, "new": load.new_tokens}
    cache = kv_cache_bytes(dims, types, **case, cuda=setup.cuda)
    if load.colocated is not None:
        held: Phase = "rollout" if setup.cuda else "always"  # it sleeps on GPUs only
        weights = sum(p.numel() for _, p in unique_parameters(unwrap(policy))) * types.matmul
        encoder = encoder_bytes(unwrap(policy).config, types, tokens=load.prompts * load.prompt_tokens)
        allocations = [
            Allocation("vLLM: weights", weights, held, exact=False),
            Allocation(
                "vLLM: keys and values", _vllm_cache(setup, load.colocated, weights + encoder, cache), held, False
            ),
            Allocation("vLLM: picture encoder", encoder, held, exact=False),
        ]
        return [allocation for allocation in allocations if allocation.bytes]
    least = kv_cache_bytes(dims, types, rows=1, prompt=1, new=1)
    prefill = working_bytes(dims, types, load.prompts * load.prompt_tokens)
    return [
        Allocation(f"KV cache of {load.rows} rows", cache, "rollout", exact=False, least=least),
        Allocation("logits and prefill", logits_bytes(dims, types, load.rows) + prefill, "rollout", exact=False),
    ]


def _vllm_cache(setup: Setup, args: ColocateArgs, others: int, cache: int) -> int:
    """Bytes of vLLM's keys and values: what others leave of its share, not what answers of any length could fill."""
    if args.kv_cache_gib is not None or not setup.cuda:
        return int((args.kv_cache_gib or CPU_CACHE_GIB) * GIB)
    return max(0, int(args.gpu_memory_utilization * setup.device_bytes) - others) if setup.device_bytes else cache


def _update_parts(setup: Setup, policy: nn.Module, dims: Dimensions, types: Numerics) -> list[Allocation]:
    assert setup.optimizer is not None, "only a policy that is trained is updated"
    tokens, row = setup.workload.train_tokens, setup.workload.longest_row
    checkpointing = setup.policy.gradient_checkpointing
    offloading = setup.policy.activation_offloading and setup.cuda  # on the CPU, the host's memory is the device's

    def activations(tokens: int, row: int) -> int:
        options = {"checkpointing": checkpointing, "offloading": offloading, "row_length": row}
        return saved_bytes(dims, types, tokens=tokens, **options) + working_bytes(dims, types, tokens)

    name = f"activations of {tokens} tokens{', checkpointed' if checkpointing else ''}"
    allocations = [
        Allocation(name, activations(tokens, row), "update", exact=False, least=activations(2, 2)),
        Allocation(
            "log-prob head", head_bytes(dims, types, tokens=tokens, cuda=setup.cuda, training=True), "update", False
        ),
    ]
    if offloading:
        inputs = layer_inputs_bytes(dims, types, tokens)
        allocations.append(Allocation("inputs of layers, offloaded", inputs, "host", exact=False))
    if types.autocast:
        copies = autocast_copies_bytes(policy, dims, checkpointing=checkpointing)
        allocations.append(Allocation("16-bit copies of float32 weights", copies, "update", exact=False))
    if setup.cuda and not setup.offloaded and _takes_roots(setup.optimizer):
        trained = model_size(policy, shards=setup.shards).trainable_bytes
        allocations.append(Allocation("optimizer step: square roots", trained, "step", exact=False))
    return allocations


def _takes_roots(make: Callable[[Any], torch.optim.Optimizer]) -> bool:
    """The Adam of torch takes the roots of all second moments at once on GPUs, unless it is fused or told not to."""
    optimizer = make([nn.Parameter(torch.empty(1))])
    options = optimizer.defaults
    return isinstance(optimizer, torch.optim.Adam) and not options.get("fused") and options.get("foreach") is not False


def _gathered_parts(setup: Setup, policy: nn.Module, dims: Dimensions, types: Numerics) -> list[Allocation]:
    """FSDP: whole weights for the rollout; in the update what is outside the layers, and two layers at a time."""
    sharded = [p for _, p in unique_parameters(unwrap(policy)) if not quantised_bits(p)]
    gathered = sum(p.numel() for p in sharded) * types.matmul
    in_layers = sum(
        p.numel() * types.matmul
        for name, p in body_of(policy).named_parameters()
        if ".layers." in f".{name}" and not quantised_bits(p)
    )
    layer = in_layers // max(1, dims.layers)
    allocations = [
        Allocation("weights gathered for the rollout", gathered, "rollout", exact=False),
        Allocation(
            "weights and gradients gathered layer by layer", gathered - in_layers + 3 * layer, "update", exact=False
        ),
    ]
    if setup.whole_gradients:
        trained = 4 * sum(p.numel() for p in sharded if p.requires_grad)
        allocations.append(Allocation("gradients kept whole between micro-batches", trained, "update", exact=False))
    return allocations
