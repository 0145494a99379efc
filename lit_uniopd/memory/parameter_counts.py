"""What a model weighs: parameters, by whether they are trained, frozen or quantised, and their bytes.

Works on loaded models, on sharded ones, and on outlines whose tensors are on the meta device.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import ceil
from typing import Any

from torch import Tensor, nn

BLOCK_4BIT, BLOCK_OF_BLOCKS = 64, 256
"""nf4 keeps an 8-bit scale per 64 weights, and of these scales a float32 one per 256 (QLoRA, section 3)."""


@dataclass(frozen=True)
class ModelSize:
    """Parameters and bytes of a model. Weights that are tied count once."""

    trainable: int
    """Parameters that are trained."""
    frozen: int
    """Parameters that are not, quantised ones included."""
    quantised: int
    """Parameters held in 8 or 4 bits, as many as they stand for."""
    trainable_bytes: int
    """On this device, like all bytes here."""
    frozen_bytes: int
    """Scales of quantised weights included."""
    quantised_bytes: int
    """Of those, bytes held in 8 or 4 bits."""
    buffer_bytes: int
    """Tables of rotary positions, say."""
    types: Counter[str] = field(default_factory=Counter)
    """Type -> parameters of that type."""
    devices: tuple[str, ...] = ()

    @property
    def parameters(self) -> int:
        return self.trainable + self.frozen

    @property
    def bytes(self) -> int:
        return self.trainable_bytes + self.frozen_bytes + self.buffer_bytes


def model_size(model: nn.Module, *, shards: int = 1) -> ModelSize:
    """Count a model.

    Args:
        model: any module; bitsandbytes' layers, PEFT's adapters and DTensors are understood.
        shards: over how many devices parameters that are still whole will be cut along their first dimension.
    """
    counts = dict.fromkeys(("trainable", "frozen", "quantised"), 0)
    sizes = {"trainable": 0, "frozen": 0, "quantised": 0}
    types: Counter[str] = Counter()
    devices = {}
    for owner, parameter in unique_parameters(model):
        kind = "trainable" if parameter.requires_grad else "frozen"
        numel, bits = true_numel(parameter), quantised_bits(parameter)
        counts[kind] += numel
        held = share(parameter, parameter_bytes(owner, parameter), shards)
        sizes[kind] += held
        sizes["quantised"] += held if bits else 0
        counts["quantised"] += numel if bits else 0
        types[f"{bits}bit" if bits else str(parameter.dtype).removeprefix("torch.")] += numel
        devices[str(parameter.device)] = None
    buffers = {id(buffer): buffer.nbytes for buffer in model.buffers()}
    return ModelSize(
        **counts,
        trainable_bytes=sizes["trainable"],
        frozen_bytes=sizes["frozen"],
        quantised_bytes=sizes["quantised"],
        buffer_bytes=sum(buffers.values()),
        types=types,
        devices=tuple(devices),
    )


def unique_parameters(model: nn.Module) -> Iterator[tuple[nn.Module, nn.Parameter]]:
    """Every parameter once, with the module that owns it."""
    visited: set[int] = set()
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if id(parameter) not in visited:
                visited.add(id(parameter))
                yield module, parameter


def quantised_bits(parameter: Tensor) -> int:
    """4 or 8 for bitsandbytes' weights, else 0."""
    return {"Params4bit": 4, "Int8Params": 8}.get(type(parameter).__name__, 0)


def true_numel(parameter: Any) -> int:
    """Weights that a parameter stands for: packed ones hold two in a byte."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else state.shape.numel()


def parameter_bytes(owner: Any, parameter: Any) -> int:
    """Bytes of a parameter and, where it is quantised, of its scales and tables.

    Args:
        owner: the layer that holds it; 8-bit layers keep the scales.
        parameter: one of a loaded model, or of an outline, whose quantised weights are not packed yet.
    """
    bits = quantised_bits(parameter)
    if bits == 4:
        state = getattr(parameter, "quant_state", None)
        return packed_4bit_bytes(parameter.numel()) if state is None else parameter.nbytes + _state_bytes(state)
    if bits == 8:
        scales = [getattr(parameter, "SCB", None), getattr(getattr(owner, "state", None), "SCB", None)]
        held = {id(scale): scale.nbytes for scale in scales if scale is not None}
        # Without scales it is an outline: one byte per weight and a float32 per output.
        return parameter.numel() + (sum(held.values()) or 4 * parameter.shape[0])
    return parameter.numel() * parameter.element_size()


def packed_4bit_bytes(numel: int) -> int:
    """Bytes of ``numel`` weights in nf4 with double quantisation: a nibble each, the scales, the scales' scales, the
    offset, and two tables of 16 and 256 float32 numbers.
    """
    blocks = ceil(numel / BLOCK_4BIT)
    return ceil(numel / 2) + blocks + 4 * ceil(blocks / BLOCK_OF_BLOCKS) + 4 + 4 * 16 + 4 * 256


def share(parameter: Any, size: int, shards: int) -> int:
    """Bytes on this device: FSDP2 cuts along the first dimension; quantised weights stay whole on each."""
    if quantised_bits(parameter):
        return size
    local = getattr(parameter, "_local_tensor", None)  # of a DTensor, which is cut already
    if local is not None:
        return local.numel() * local.element_size()
    rows = parameter.shape[0] if parameter.ndim else 1
    return size if shards == 1 else ceil(size * ceil(rows / shards) / max(rows, 1))


def _state_bytes(state: Any) -> int:
    inner = state.state2
    tensors: Iterable[Tensor | None] = (state.absmax, state.code, state.offset)
    size = sum(tensor.nbytes for tensor in tensors if isinstance(tensor, Tensor))
    return size + (0 if inner is None else _state_bytes(inner))
