"""Inputs of image-text models beside token ids: pictures, and positions in which a picture is a grid.

Processors give an input for each picture, for each prompt (all of its pictures together), or for each token. Rows of a
batch are joined by what an input is: those of pictures and prompts are padded to the largest and stacked, those of
tokens are computed anew from the token ids of the batch, since these are padded and followed by answers.

Extra shape letters: R rows, L positions.
"""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from lit_uniopd.errors import UserError
from lit_uniopd.policy.backbone import body_of, reads_prompts_both_ways, unwrap

Vision = Mapping[str, Tensor]
"""A prompt's tensors from the processor, pictures along the first dimension (``pixel_values``, ``image_grid_thw`` ...);
empty for text."""

TOKEN_TYPES = ("token_type_ids", "mm_token_type_ids")
"""Inputs for each token that `vision_inputs` derives from the token ids."""
FOR_EACH_TOKEN = ("cross_attention_mask", "image_attention_mask", "image_embeds_position_mask", "image_patches_indices")
"""Inputs that have a value for each token of the prompt, and more than that."""
FILLERS = {"image_position_ids": -1}
"""What pads an input where it is not 0."""
REAL_SIZES = {"image_sizes", "pixel_attention_mask", "pixel_mask", "spatial_shapes", "image_position_ids"}
"""Inputs that tell a model which of its pixels are padding."""


def image_token_ids(model: nn.Module) -> list[int]:
    """Token ids that stand for pictures; an answer must not contain them, since no picture would belong to them."""
    config: Any = unwrap(model).config
    names = ("image_token_id", "image_token_index", "video_token_id", "video_token_index")
    return sorted({value for name in names if isinstance(value := getattr(config, name, None), int)})


def vision_of(inputs: Mapping[str, Any], prompt_tokens: int) -> Vision:
    """What a processor made of one prompt's pictures, without what is derived from its tokens.

    Args:
        inputs: the processor's output for the prompt.
        prompt_tokens: how many tokens it has.

    Raises:
        UserError: if an input is no tensor, or has a value for each token that cannot be derived from the tokens.
    """
    vision = {k: v for k, v in inputs.items() if k not in ("input_ids", "attention_mask", "labels", *TOKEN_TYPES)}
    for name, value in vision.items():
        if not isinstance(value, Tensor) or (name in FOR_EACH_TOKEN and value.shape[1:2] == (prompt_tokens,)):
            raise _unknown_input(name)
        if value.shape == (1, prompt_tokens) and not value.is_floating_point():
            raise _unknown_input(name)
    return vision


def _unknown_input(name: str) -> UserError:
    return UserError(
        f"The model's processor gives {name} beside the pictures, which lit_uniopd cannot join with the tokens of "
        "answers; choose another image-text model (docs/own_models.md lists architectures that were tried)."
    )


def vision_inputs(
    model: nn.Module, ids_RL: Tensor, vision: Sequence[Vision], answers_RL: Tensor | None = None
) -> dict[str, Tensor]:
    """Further arguments of the model's forward pass for rows of which some have pictures; few or none without.

    Args:
        model: image-text model.
        ids_RL: token ids.
        vision: for each row.
        answers_RL: True on tokens of answers; None: there are only prompts.
    """
    names = list(dict.fromkeys(name for row in vision for name in row))
    dtype = next(unwrap(model).parameters()).dtype
    inputs = {name: _stacked(name, [row for row in vision if name in row]).to(ids_RL.device) for name in names}
    inputs = {name: value.to(dtype) if value.is_floating_point() else value for name, value in inputs.items()}
    taken = _arguments(type(body_of(model)))
    if reads_prompts_both_ways(model):
        # The pair of types that this model was trained with: 0 on the prompt, with or without pictures, 1 behind it.
        types_RL = torch.zeros_like(ids_RL) if answers_RL is None else answers_RL.to(ids_RL).expand_as(ids_RL)
        inputs["token_type_ids"] = types_RL
    elif names or (unwrap(model).training and "mm_token_type_ids" in taken):  # Molmo 2 trains with them only
        token = getattr(unwrap(model).config, "image_token_id", None)
        typed = [name for name in TOKEN_TYPES if name in taken]
        if typed and names and token is None:
            raise _unknown_input(typed[0])
        inputs |= dict.fromkeys(typed, (ids_RL == (-1 if token is None else token)).int())
    return inputs


def _stacked(name: str, rows: Sequence[Vision]) -> Tensor:
    """An input of several rows, padded in all dimensions but the first, along which it is joined.

    Models cut padding tiles off, or recognise padding pictures by their zeros.

    Raises:
        UserError: if pictures differ in height or width, and no other input tells the model so.
    """
    values = [row[name] for row in rows]
    if len({value.shape[1:] for value in values}) == 1:
        return torch.cat(values)
    if name == "pixel_values" and values[0].ndim == 4 and not REAL_SIZES.intersection(*rows):
        raise UserError(
            "The model's processor leaves pictures of unlike size and nothing says which pixels are padding; "
            "give pictures of one size, or set micro_batch_tokens and sampling.max_rows to 1."
        )
    shape = [max(sizes) for sizes in zip(*(value.shape[1:] for value in values), strict=True)]
    joined = values[0].new_full((sum(map(len, values)), *shape), FILLERS.get(name, 0))
    for place, value in zip(joined.split([len(value) for value in values]), values, strict=True):
        place[(slice(None), *map(slice, value.shape[1:]))] = value
    return joined


def reads_pictures_both_ways(model: nn.Module) -> bool:
    """Whether the tokens of a picture attend to each other, also to later ones."""
    taken, text = _arguments(type(body_of(model))), unwrap(model).config.get_text_config()
    if "mm_token_type_ids" in taken:
        return getattr(text, "use_bidirectional_attention", None) in ("vision", "all")
    return "token_type_ids" in taken and bool(image_token_ids(model))


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
