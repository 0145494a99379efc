"""What the preference losses ask of their arguments; every ``ValueError`` names the one that is wrong."""

import math

import torch
from torch import Tensor

from lit_uniopd.functional.projection import math_dtype


def same_pairs(**tensors: Tensor) -> tuple[Tensor, ...]:
    """All of one shape ``[P]`` with at least one pair, in the widest dtype among them and at least float32."""
    (first, shape), *others = [(name, tuple(tensor.shape)) for name, tensor in tensors.items()]
    if len(shape) != 1 or not shape[0]:
        raise ValueError(f"{first} has shape {list(shape)}; it must be one value for each of at least one pair.")
    for name, other in others:
        if other != shape:
            raise ValueError(f"{name} has shape {list(other)}, {first} {list(shape)}; they must be the same.")
    logps = {name: tensor for name, tensor in tensors.items() if not name.startswith("score")}
    for name, tensor in logps.items():
        if not tensor.is_floating_point():
            raise ValueError(f"{name} is {tensor.dtype}; log-probs are floating point.")
    dtype = math_dtype(*(logps or tensors).values())  # judges speak in whatever precision they like
    return tuple(tensor.to(dtype) for tensor in tensors.values())


def positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0 or not math.isfinite(value):
            raise ValueError(f"{name} is {value}; it must be positive.")


def not_negative(**values: float) -> None:
    for name, value in values.items():
        if not value >= 0 or not math.isfinite(value):
            raise ValueError(f"{name} is {value}; it must not be negative.")


def number(**values: float) -> None:
    for name, value in values.items():
        if math.isnan(value):
            raise ValueError(f"{name} is {value}; it must be a number.")


def all_finite(**scores: Tensor) -> None:
    """Each pair has a score. A NaN would make the loss NaN, or count as a poor answer."""
    for name, values in scores.items():
        if not bool(torch.isfinite(values).all()):
            raise ValueError(f"{name} has values that are not finite; every pair needs a number.")


def smoothing_share(label_smoothing: float) -> None:
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing is {label_smoothing}; it must be at least 0 and below one half.")
