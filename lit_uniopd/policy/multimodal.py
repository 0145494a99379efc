"""Inputs of image-text models beside token ids: pictures, and positions in which a picture is a grid.

Extra shape letters: R rows, L positions.
"""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from lit_uniopd.policy.backbone import body_of, unwrap

Vision = Mapping[str, Tensor]
"""A prompt's tensors from the processor, pictures along the first dimension (``pixel_values``, ``image_grid_thw`` ...);
empty for text."""


def image_token_ids(model: nn.Module) -> list[int]:
    """Token ids that stand for pictures; an answer must not contain them, since no picture would belong to them."""
    config: Any = unwrap(model).config
    names = ("image_token_id", "image_token_index", "video_token_id", "video_token_index")
    return sorted({value for name in names if isinstance(value := getattr(config, name, None), int)})


def vision_inputs(model: nn.Module, ids_RL: Tensor, vision: Sequence[Vision]) -> dict[str, Tensor]:
    """Further arguments of the model's forward pass for rows of which some have pictures; none without pictures.

    Args:
        model: image-text model.
        ids_RL: token ids.
        vision: for each row.
    """
    names = list(dict.fromkeys(name for row in vision for name in row))
    if not names:
        return {}
    dtype = next(unwrap(model).parameters()).dtype
    inputs = {name: torch.cat([row[name] for row in vision if name in row]).to(ids_RL.device) for name in names}
    inputs = {name: value.to(dtype) if value.is_floating_point() else value for name, value in inputs.items()}
    body = body_of(model)
    if "mm_token_type_ids" in _arguments(type(body)):
        config: Any = unwrap(model).config
        inputs["mm_token_type_ids"] = (ids_RL == config.image_token_id).int()
    return inputs


def grid_positions(
    model: nn.Module, ids_RL: Tensor, mask_RL: Tensor, inputs: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor] | None:
    """Positions ``[3, R, L]`` of a model that places pictures on a grid, and by how much the next position of each row
    differs from the number of its tokens.

    Args:
        model: image-text model.
        ids_RL: token ids.
        mask_RL: True on real tokens.
        inputs: of `vision_inputs`.

    Returns:
        None if the model counts positions as text models do, or no row has a picture.
    """
    index = getattr(body_of(model), "get_rope_index", None)
    if index is None or "image_grid_thw" not in inputs:
        return None
    accepted = inspect.signature(index).parameters
    names = [name for name in ("image_grid_thw", "mm_token_type_ids") if name in accepted and name in inputs]
    positions, _ = index(input_ids=ids_RL, attention_mask=mask_RL.long(), **{name: inputs[name] for name in names})
    # Versions count their own offset from different points; the next position follows from the positions themselves.
    last_R = positions.masked_fill(~mask_RL.bool(), -1).amax(dim=(0, 2))
    return positions, last_R + 1 - mask_RL.sum(dim=1)


def tower_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Trained parameters of the vision tower, by name in the model's body; none of a model without one."""
    body: Any = body_of(model)
    if not hasattr(body, "language_model"):
        return {}
    language = {id(parameter) for parameter in body.language_model.parameters()}
    return {name: p for name, p in body.named_parameters() if p.requires_grad and id(p) not in language}


def zero_depending_on(parameters: Iterable[Tensor]) -> Tensor:
    """A 0 whose graph reaches every one of these parameters.

    Added where a micro-batch has no picture, or takes inner features of a tower: DDP would wait for the gradients that
    these leave out.

    Args:
        parameters: at least one.
    """
    return 0.0 * torch.stack([parameter.flatten()[0].float() for parameter in parameters]).sum()


def names_reached(output: Tensor, parameters: Mapping[str, nn.Parameter]) -> set[str]:
    """Names of the parameters that a tensor was computed from.

    Args:
        output: its autograd graph is searched.
        parameters: leaves of graphs, by name.
    """
    names = {id(parameter): name for name, parameter in parameters.items()}
    reached: set[str] = set()
    visited: set[Any] = set()
    queue = [output.grad_fn]
    while queue and len(reached) < len(names):
        node: Any = queue.pop()
        if node is None or node in visited:
            continue
        visited.add(node)
        leaf = names.get(id(getattr(node, "variable", None)))
        reached |= set() if leaf is None else {leaf}
        queue += [function for function, _ in node.next_functions]
    return reached


@cache
def _arguments(kind: type[nn.Module]) -> frozenset[str]:
    return frozenset(inspect.signature(kind.forward).parameters)
