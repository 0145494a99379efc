"""What the preference losses require of their arguments; every ``ValueError`` names the one that is wrong."""

import math

import torch
from torch import Tensor

from lit_uniopd.functional.projection import math_dtype

PAIR_ARGUMENTS = ("policy_chosen", "policy_rejected", "ref_chosen", "ref_rejected", "score_chosen", "score_rejected")
"""The tensors of a preference loss, in this order; a loss without a reference takes the first two."""


def checked_pairs(*tensors: Tensor, beta: float) -> tuple[Tensor, ...]:
    """What every preference loss checks before it computes: its tensors as of `as_pairs`, and a positive beta.

    Args:
        tensors: ``[P]`` each, named by `PAIR_ARGUMENTS`.
        beta: of the loss.
    """
    checked = as_pairs(**dict(zip(PAIR_ARGUMENTS, tensors, strict=False)))
    if not beta > 0 or not math.isfinite(beta):
        raise ValueError(f"beta is {beta}; it must be positive.")
    return checked


def as_pairs(**tensors: Tensor) -> tuple[Tensor, ...]:
    """Tensors of one shape ``[P]`` with at least one pair, in the widest dtype among them and at least float32."""
    (first, shape), *others = [(name, tuple(tensor.shape)) for name, tensor in tensors.items()]
    if len(shape) != 1 or not shape[0]:
        raise ValueError(f"{first} has shape {list(shape)}; it must be one value for each of at least one pair.")
    for name, other_shape in others:
        if other_shape != shape:
            raise ValueError(f"{name} has shape {list(other_shape)}, {first} {list(shape)}; they must be the same.")
    logps = {name: tensor for name, tensor in tensors.items() if not name.startswith("score")}
    for name, tensor in logps.items():
        if not tensor.is_floating_point():
            raise ValueError(f"{name} is {tensor.dtype}; log-probs are floating point.")
    dtype = math_dtype(*(logps or tensors).values())  # scores come in any dtype and must not decide it
    return tuple(tensor.to(dtype) for tensor in tensors.values())


def check_not_negative(**values: float) -> None:
    for name, value in values.items():
        if not value >= 0 or not math.isfinite(value):
            raise ValueError(f"{name} is {value}; it must not be negative.")


def check_not_nan(**values: float) -> None:
    for name, value in values.items():
        if math.isnan(value):
            raise ValueError(f"{name} is {value}; it must be a number.")


def check_finite(**scores: Tensor) -> None:
    """Each pair has a score. A NaN would make the loss NaN, or count as a poor answer."""
    for name, values in scores.items():
        if not bool(torch.isfinite(values).all()):
            raise ValueError(f"{name} has values that are not finite; every pair needs a number.")


def check_smoothing(label_smoothing: float) -> None:
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing is {label_smoothing}; it must be at least 0 and below one half.")
