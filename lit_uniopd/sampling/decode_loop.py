"""Our own decoding loop, behind ``sampling.engine: loop``.

Unlike ``generate`` it reads each prompt once per group, drops finished rows, appends to the KV cache in place, and
takes log-probs from the pass that sampled the tokens. Where that saves enough, a group decodes against one copy of its
prompt's cache (``cascade_attention``). Extra shape letters: R rows being decoded, P prompts of one pass, L cached
positions.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import cache_utils
from transformers.cache_utils import (
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionLayer,
)

from lit_uniopd.policy.backbone import body_of, head_of, layer_configs, unwrap
from lit_uniopd.policy.cascade_attention import SharedPrefixCache, worth_sharing
from lit_uniopd.policy.multimodal import Vision, grid_positions, image_token_ids, vision_inputs
from lit_uniopd.policy.shared_prefix import enable_packing, placeholder_mask, reads_alike, why_not_packed

NO_STATES: tuple[type, ...] = (cache_utils.DummyLayer,) if hasattr(cache_utils, "DummyLayer") else ()
"""Cache layers without keys and values: those of layers that read another's, since transformers 5.20."""

SELECTABLE = {
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionLayer,
    LinearAttentionAndFullAttentionLayer,
    *NO_STATES,
}
"""Cache layers whose rows ``reorder_cache`` can repeat and drop, tested against ``generate``."""


class GrowingLayer(DynamicLayer):
    """Keys and values of one layer, appended in place; ``DynamicLayer`` copies all of them for every new token."""

    ROOM = 64
    """Positions added when the buffers are full."""

    keys: Tensor
    values: Tensor
    key_room: Tensor
    value_room: Tensor

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """Append ``[R, heads, new, width]`` and return everything so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.key_room, self.value_room = key_states[:, :, :0], value_states[:, :, :0]
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if end > self.key_room.shape[-2]:
            self.key_room = _enlarged(self.key_room, start, end + self.ROOM)
            self.value_room = _enlarged(self.value_room, start, end + self.ROOM)
        self.key_room[:, :, start:end] = key_states
        self.value_room[:, :, start:end] = value_states
        return self._expose(end)

    def trim(self, columns: int) -> None:
        """Drop the first positions."""
        end = self.get_seq_length() - columns
        self.key_room, self.value_room = self.key_room[:, :, columns:], self.value_room[:, :, columns:]
        self._expose(end)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Take rows, in the given order; a row may be taken several times."""
        if not self.is_initialized:
            return
        end = self.get_seq_length()
        self.key_room = _enlarged(self.key_room, end, end + self.ROOM, beam_idx)
        self.value_room = _enlarged(self.value_room, end, end + self.ROOM, beam_idx)
        self._expose(end)

    def _expose(self, end: int) -> tuple[Tensor, Tensor]:
        self.keys, self.values = self.key_room[:, :, :end], self.value_room[:, :, :end]
        return self.keys, self.values


def _enlarged(room: Tensor, used: int, capacity: int, rows: Tensor | None = None) -> Tensor:
    """A larger buffer with the used positions of the old one, of the given rows if any."""
    larger = room.new_empty(len(room if rows is None else rows), room.shape[1], capacity, room.shape[3])
    if rows is None:
        larger[:, :, :used] = room[:, :, :used]
    else:
        torch.index_select(room[:, :, :used], 0, rows, out=larger[:, :, :used])
    return larger


def decodable(model: nn.Module) -> bool:
    """Whether the loop can repeat and drop rows of this model's cache."""
    base = unwrap(model)
    if "past_key_values" not in arguments(body_of(model)):
        return False
    if not base._supports_default_dynamic_cache():  # type: ignore[operator]  # as generate does; not public
        return False
    layers = DynamicCache(config=base.config).layers
    if not layers or any(type(layer) not in SELECTABLE for layer in layers):
        return False
    if base not in _selecting_works:
        _selecting_works[base] = _try_selecting(model)
    return _selecting_works[base]


_selecting_works: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


@torch.no_grad()
def _try_selecting(model: nn.Module) -> bool:
    """Repeat and drop rows, and compare with a forward pass: RecurrentGemma hides states in its layers."""
    weight_VH, banned = head_of(model).weight_VH, image_token_ids(model)
    a, b = [token for token in range(len(banned) + 2) if token not in banned][:2]
    with torch.autocast(weight_VH.device.type, enabled=False):
        decoder = Decoder(model, 2)
        try:
            decoder.prefill([[a, b, b], [b, a, a]], answers=2, pad_id=a, share=False)
            decoder.keep(torch.tensor([1, 2, 3], device=weight_VH.device))
            actual = decoder.step(torch.tensor([a, b, a], device=weight_VH.device))
        except (TypeError, RuntimeError, ValueError, LookupError, AttributeError):
            return False
        ids = torch.tensor([[a, b, b, a], [b, a, a, b], [b, a, a, a]], device=weight_VH.device)
        inputs = vision_inputs(model, ids, [], torch.arange(4, device=ids.device) >= 3)
        hidden = body_of(model)(input_ids=ids, use_cache=False, **inputs).last_hidden_state
        expected = head_of(model).logits(hidden[:, -1])
    return reads_alike(actual, expected, weight_VH.dtype)


def arguments(body: nn.Module) -> frozenset[str]:
    """Names of the forward's arguments: some models take no ``position_ids``."""
    return frozenset(inspect.signature(body.forward).parameters)


def left_pad(prompts: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids ``[P, L]`` and the bool mask of real tokens, padded on the left."""
    width = max(map(len, prompts))
    ids_PL = torch.tensor([[pad_id] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    lengths_P = torch.tensor([len(prompt) for prompt in prompts], device=device)
    return ids_PL, torch.arange(width, device=device) >= width - lengths_P[:, None]


class Decoder:
    """The rows being decoded, and the KV cache behind them."""

    def __init__(self, model: nn.Module, max_new_tokens: int) -> None:
        self.model, self.body, self.head = model, body_of(model), head_of(model)
        self.takes_positions = "position_ids" in arguments(self.body)
        self.max_new_tokens = max_new_tokens
        self.cache = DynamicCache(config=unwrap(model).config)
        self.cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in self.cache.layers]
        self.trimmable = all(isinstance(layer, (GrowingLayer, *NO_STATES)) for layer in self.cache.layers)
        self.shared: SharedPrefixCache | None = None

    def prefill(
        self,
        prompts: Sequence[Sequence[int]],
        answers: int,
        pad_id: int,
        vision: Sequence[Vision] = (),
        share: bool | None = None,
    ) -> Tensor:
        """Read each prompt once: float32 logits ``[P * answers, V]`` of the first response token.

        Args:
            prompts: token ids.
            answers: rows of each prompt.
            pad_id: put before shorter prompts.
            vision: of each prompt.
            share: keep one cache of a prompt for all of its rows. None: if it is worth it and the model can.
        """
        device = self.head.weight_VH.device
        ids_PL, mask_PL = left_pad(prompts, pad_id, device)
        self.length = ids_PL.shape[1]
        self.pads_R = (~mask_PL).sum(dim=1)
        self.mask_RL = F.pad(mask_PL, (0, self.max_new_tokens), value=True) if bool(self.pads_R.any()) else None
        share = answers > 1 and (self._worth_sharing(len(prompts), answers) if share is None else share)
        if share:
            enable_packing(self.model)
            self._new_layers(DynamicLayer)
        # Padded positions are masked; clamping only keeps them inside a table of learned positions.
        positions_PL = (torch.arange(self.length, device=device) - self.pads_R[:, None]).clamp(min=0)
        pictures = vision_inputs(self.model, ids_PL, vision)
        grid = grid_positions(self.model, ids_PL, mask_PL, pictures)
        self.on_grid = grid is not None
        self.offset_R = torch.zeros_like(self.pads_R) if grid is None else grid[1]
        hidden_PH = self._forward(ids_PL, positions_PL if grid is None else grid[0], pictures)
        if answers > 1:
            index_R = torch.arange(len(prompts), device=device).repeat_interleave(answers)
            if share:
                self._share(index_R, mask_PL)
            self._select(index_R)
            hidden_PH = hidden_PH[index_R]
        return self.head.logits(hidden_PH)

    def _worth_sharing(self, prompts: int, answers: int) -> bool:
        """Whether to keep each prompt's cache once: it saves enough, and the model can."""
        weight = self.head.weight_VH
        worth = worth_sharing(
            prompts=prompts,
            rows=prompts * answers,
            length=self.length,
            new=self.max_new_tokens,
            position_bytes=position_bytes(self.model, weight.element_size()),
            cpu=weight.device.type == "cpu",
        )
        return worth and can_share(self.model, self.length + self.max_new_tokens)

    def _new_layers(self, kind: type[DynamicLayer]) -> None:
        """Empty layers without windows; `can_share` has checked that windows make no difference."""
        layers: list[Any] = [layer if isinstance(layer, NO_STATES) else kind() for layer in self.cache.layers]
        self.cache.layers = layers

    def _share(self, owners_R: Tensor, mask_PL: Tensor) -> None:
        """Move the prompts' caches to a `SharedPrefixCache`, and begin those of the answers."""
        layers: list[Any] = self.cache.layers
        states = [None if isinstance(layer, NO_STATES) else (layer.keys, layer.values) for layer in layers]
        self.shared = SharedPrefixCache(states, None if self.mask_RL is None else ~mask_PL, owners_R)
        self.mask_RL = None
        self._new_layers(GrowingLayer)

    def step(self, tokens_R: Tensor) -> Tensor:
        """Append one token per row: float32 logits ``[R, V]`` of the next."""
        self.length += 1
        positions_R1 = (self.length - 1 - self.pads_R + self.offset_R)[:, None]
        positions = positions_R1.expand(3, -1, -1) if self.on_grid else positions_R1
        return self.head.logits(self._forward(tokens_R[:, None], positions))

    def keep(self, index_R: Tensor) -> None:
        """Drop all other rows, and the columns that are padding in every row that stays."""
        if self.shared is not None:
            self.shared.keep(index_R)
        lead = int(self.pads_R[index_R].min()) if self.trimmable and self.mask_RL is not None else 0
        if self.mask_RL is not None and lead:
            for layer in self.cache.layers:
                if isinstance(layer, GrowingLayer):
                    layer.trim(lead)
            self.mask_RL, self.pads_R, self.length = self.mask_RL[:, lead:], self.pads_R - lead, self.length - lead
        self._select(index_R)
        if self.mask_RL is not None and not bool(self.pads_R.any()):
            self.mask_RL = None

    def _select(self, index_R: Tensor) -> None:
        for layer in self.cache.layers:
            layer.reorder_cache(index_R)  # type: ignore[arg-type]  # made for beam search, but the number of rows may change
        self.pads_R, self.offset_R = self.pads_R[index_R], self.offset_R[index_R]
        self.mask_RL = None if self.mask_RL is None else self.mask_RL[index_R]

    def cache_bytes(self) -> int:
        """Bytes of keys and values, free room in the buffers included."""
        tensors: list[Tensor] = []
        layers: list[Any] = self.cache.layers
        for layer in layers:
            names = ("key_room", "value_room") if isinstance(layer, GrowingLayer) else ("keys", "values")
            tensors += [getattr(layer, name) for name in names if layer.is_initialized]
        if self.shared is not None:
            tensors += [states for layer in self.shared.layers for states in layer or ()]
        return sum(states.untyped_storage().nbytes() for states in tensors if states is not None)

    def _forward(self, ids_RT: Tensor, positions_RT: Tensor, pictures: Mapping[str, Tensor] = {}) -> Tensor:
        # Without padding no mask is given: models then build none, and fast attention kernels can be used.
        mask = None if self.mask_RL is None else self.mask_RL[:, : self.length]
        options: dict[str, Any] = {"position_ids": positions_RT} if self.takes_positions else {}
        if self.shared is not None:
            mask, options["cascade"] = placeholder_mask(ids_RT.device), self.shared
        out = self.body(
            input_ids=ids_RT,
            attention_mask=mask,
            past_key_values=self.cache,
            use_cache=True,
            **options,
            **pictures,
        )
        return out.last_hidden_state[:, -1]


def position_bytes(model: nn.Module, element_size: int) -> int:
    """Bytes of one position's key and value in one layer, on average where layers differ."""
    layers = layer_configs(unwrap(model).config.get_text_config(decoder=True))
    return 2 * sum(map(_key_width, layers)) // len(layers) * element_size


def _key_width(config: Any) -> int:
    """Numbers in one position's key, heads together."""
    heads = getattr(config, "num_attention_heads", None) or 1
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return (getattr(config, "num_key_value_heads", None) or heads) * width


_sharing_works: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def can_share(model: nn.Module, longest: int) -> bool:
    """Whether rows of this model can share the caches of prompts.

    What its config says is checked once by trying it.

    Args:
        model: in eval mode.
        longest: tokens of the longest prompt with answer.
    """
    if "position_ids" not in arguments(body_of(model)) or why_not_packed(model, longest) is not None:
        return False
    base = unwrap(model)
    if base not in _sharing_works:
        _sharing_works[base] = _try_sharing(model)
    return _sharing_works[base]


@torch.no_grad()
def _try_sharing(model: nn.Module) -> bool:
    """Decode a few tokens after prompts of different lengths both ways, dropping a row, and compare the logits."""
    base, weight_VH, banned = unwrap(model), head_of(model).weight_VH, image_token_ids(model)
    a, b, c = [token for token in range(len(banned) + 3) if token not in banned][:3]
    logits: list[Tensor] = []
    # Under autocast, rounding would hide a difference.
    with torch.autocast(weight_VH.device.type, enabled=False):
        for share in (False, True):
            decoder = Decoder(model, 3)
            try:
                decoder.prefill([[a], [b, a, c]], answers=2, pad_id=a, share=share)
                decoder.step(torch.tensor([b, c, c, a], device=weight_VH.device))
                decoder.keep(torch.tensor([0, 2, 3], device=weight_VH.device))
                logits.append(decoder.step(torch.tensor([c, a, b], device=weight_VH.device)))
            except (TypeError, RuntimeError, ValueError, LookupError, AttributeError) as error:
                rank_zero_info(
                    f"{type(unwrap(model)).__name__} cannot share prompts' caches ({error}); repeating them."
                )
                return False
    if not reads_alike(logits[1], logits[0], weight_VH.dtype):
        rank_zero_info(f"{type(base).__name__} reads shared caches of prompts differently; repeating them.")
        return False
    return True


@torch.no_grad()
def first_logits(model: nn.Module, prompts: list[list[int]], pad_id: int) -> Tensor:
    """Logits ``[P, 2, V]`` of the two tokens after each prompt, the first of them being the prompt's last again."""
    decoder = Decoder(model, 2)
    first_PV = decoder.prefill(prompts, answers=1, pad_id=pad_id)
    last_P = torch.tensor([prompt[-1] for prompt in prompts], device=first_PV.device)
    return torch.stack([first_PV, decoder.step(last_P)], dim=1)


DROP_SHARE = 1 / 8
"""Finished rows are dropped once they are this share of all: copying the cache of the others then costs less."""


def decode(
    decoder: Decoder,
    logits_RV: Tensor,
    rows_R: Tensor,
    choose: Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]],
    eos_E: Tensor,
    tokens_BT: Tensor,
    logps_BT: Tensor,
    on_step: Callable[[int, int], None],
) -> None:
    """Decode until every answer has ended or is full.

    Args:
        decoder: After ``prefill``.
        logits_RV: What ``prefill`` returned.
        rows_R: The row of ``tokens_BT`` and ``logps_BT`` that each answer is written to. What follows the first
            end-of-sequence token of a row has no meaning.
        choose: ``(step, rows, logits) -> tokens, log-probs``.
        eos_E: Token ids that end an answer.
        tokens_BT: Written in place.
        logps_BT: Written in place.
        on_step: Called after each step with the number of these answers that are finished, and of those that got a
            token.
    """
    total, steps = len(rows_R), tokens_BT.shape[1]
    open_R, count = torch.ones_like(rows_R, dtype=torch.bool), total
    for step in range(steps):
        tokens_R, logps_R = choose(step, rows_R, logits_RV)
        tokens_BT[rows_R, step], logps_BT[rows_R, step] = tokens_R, logps_R
        open_before = count
        open_R &= ~torch.isin(tokens_R, eos_E)
        count = int(open_R.sum())
        full = step == steps - 1
        on_step(total if full else total - count, open_before)
        if count == 0 or full:
            return
        if len(rows_R) - count >= DROP_SHARE * len(rows_R):
            index_R = open_R.nonzero()[:, 0]
            decoder.keep(index_R)
            rows_R, tokens_R, open_R = rows_R[index_R], tokens_R[index_R], open_R[index_R]
        logits_RV = decoder.step(tokens_R)
