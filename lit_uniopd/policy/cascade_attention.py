"""Answers that are decoded against one copy of their prompt's cache.

While a group of answers is written, keys and values of the prompt are the same for all of them: they are kept once, and
each row has those of its own answer only. A new token's scores against the prompt are computed for a whole group at a
time (its queries against one copy of the keys), those against the answer row by row. One softmax in float32 over both,
side by side, is that of ordinary attention; merging two softmaxes by their log-sum-exp would give the same numbers with
more operations: on a CPU, a layer's attention then took 1.3 to 1.5 times as long.

Extra shape letters: R rows being decoded, P prompts, W rows of the largest group, L positions of the padded prompts,
S of the answers so far, K key heads, Q query heads that share one, D head width.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

WORTH_SHARING = 1 / 4
"""Prompts are kept once where that spares at least this share of all cached positions, were every answer as long as it
may be. Below it little is won: at a share of 0.15, 0.97 of a decoding's time (``benchmarks.rollout --grouped``)."""
SPARED_BYTES_CPU = 2**22
"""And where a layer need not read at least so many bytes in a step. A dozen more operations cost as much as reading
about 1 MiB (1.07 of the time at 0.6 MiB), 2 MiB in another run; what is won up to here is little, too."""
SPARED_BYTES_ACCELERATOR = 2**27
"""The same where memory is faster and starting an operation is not. Estimated, not measured: a dozen launches of 5 us,
in which 2 to 3 TB/s are read."""


def worth_sharing(*, prompts: int, rows: int, length: int, new: int, position_bytes: int, cpu: bool) -> bool:
    """Whether rows should share the caches of their prompts.

    Args:
        prompts: of one pass.
        rows: answers to them.
        length: tokens of the longest prompt.
        new: tokens of the longest answer.
        position_bytes: of a key and a value of one layer.
        cpu: whether the model is on one.
    """
    spared = (rows - prompts) * length
    least = SPARED_BYTES_CPU if cpu else SPARED_BYTES_ACCELERATOR
    return spared * position_bytes >= least and spared >= WORTH_SHARING * rows * (length + new)


class SharedPrefixCache:
    """Keys and values of the prompts, and which rows belong to which.

    Args:
        layers: for each layer, keys ``[P, K, L, D]`` and values of the prompts; None where a layer caches nothing.
        hidden_PL: True on padding; None if there is none.
        owners_R: number of each row's prompt, ascending.
    """

    def __init__(
        self, layers: Sequence[tuple[Tensor, Tensor] | None], hidden_PL: Tensor | None, owners_R: Tensor
    ) -> None:
        self.layers = list(layers)
        self.hidden_PL = hidden_PL
        self._assign(owners_R)

    def keep(self, index_R: Tensor) -> None:
        """Drop all other rows, prompts without rows, and columns that are padding in all prompts that stay.

        Args:
            index_R: ascending.
        """
        owners_R = self.owners_R[index_R]
        kept_P = owners_R.unique()
        if len(kept_P) < self.prompts:
            hidden_PL = None if self.hidden_PL is None else self.hidden_PL[kept_P]
            lead = 0 if hidden_PL is None else int(hidden_PL.sum(dim=1).min())  # padding is on the left
            self.hidden_PL = hidden_PL[:, lead:] if hidden_PL is not None and bool(hidden_PL[:, lead:].any()) else None
            for i, layer in enumerate(self.layers):
                if layer is not None:
                    key, value = (states[:, :, lead:].index_select(0, kept_P) for states in layer)
                    self.layers[i] = key, value
        self._assign(torch.searchsorted(kept_P, owners_R))

    def _assign(self, owners_R: Tensor) -> None:
        """Give each row a slot among those of its prompt."""
        sizes_P = owners_R.bincount()
        self.owners_R, self.prompts, self.largest = owners_R, len(sizes_P), int(sizes_P.max())
        place_R = torch.arange(len(owners_R), device=owners_R.device) - (sizes_P.cumsum(0) - sizes_P)[owners_R]
        full = len(owners_R) == self.prompts * self.largest
        self.slots_R = None if full else owners_R * self.largest + place_R

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float | None = None, **options: Any
    ) -> Tensor:
        """Attention of one new token per row.

        Args:
            layer: number of the layer.
            query: ``[R, K * Q, 1, D]``.
            key: of the answers so far, ``[R, K, S, D]``.
            value: the same.
            scaling: of the scores; None for ``D ** -0.5``.
            options: further ones of transformers' attention.

        Returns:
            States ``[R, 1, K * Q, D]``.

        Raises:
            ValueError: if the layer asks for what is not done here.
        """
        asked = sorted(name for name in ("softcap", "position_bias", "s_aux") if options.get(name) is not None)
        prompt = self.layers[layer]
        if asked or prompt is None or query.shape[2] != 1:
            raise ValueError(f"layer {layer} needs {', '.join(asked) or 'a cache of its own'}")
        prompt_key, prompt_value = prompt
        split = [prompt_key.shape[2], key.shape[2]]
        query_RKQD = query.squeeze(2).unflatten(1, (key.shape[1], -1))
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        # Under autocast scores would be rounded before the softmax, which fused attention does not do either.
        with torch.autocast(query.device.type, enabled=False):
            prompt_scores = _product(self._by_prompt(query_RKQD), prompt_key.mT, scale)
            if self.hidden_PL is not None:
                prompt_scores.masked_fill_(self.hidden_PL[:, None, None], -torch.inf)
            own_scores = self._by_prompt(_product(query_RKQD, key.mT, scale))
            probs = torch.cat([prompt_scores, own_scores], dim=-1).softmax(dim=-1)
            prompt_probs, own_probs = probs.split(split, dim=-1)
            states = self._by_row(_product(prompt_probs, prompt_value)) + _product(self._by_row(own_probs), value)
        return states.flatten(1, 2)[:, None].to(value.dtype)

    def _by_prompt(self, states_RKQX: Tensor) -> Tensor:
        """``[R, K, Q, X]`` to ``[P, K, W * Q, X]``, where places without a row hold zeros."""
        if self.slots_R is not None:
            table = states_RKQX.new_zeros(self.prompts * self.largest, *states_RKQX.shape[1:])
            states_RKQX = table.index_copy_(0, self.slots_R, states_RKQX)
        return states_RKQX.unflatten(0, (self.prompts, self.largest)).transpose(1, 2).flatten(2, 3)

    def _by_row(self, table: Tensor) -> Tensor:
        """``[P, K, W * Q, X]`` to ``[R, K, Q, X]``."""
        states = table.unflatten(2, (self.largest, -1)).transpose(1, 2).flatten(0, 1)
        return states if self.slots_R is None else states.index_select(0, self.slots_R)


def _product(left: Tensor, right: Tensor, scale: float = 1.0) -> Tensor:
    """Scaled products of matrices, in float32 where the factors are less precise, as fused attention has them."""
    if right.is_cuda and right.dtype in (torch.bfloat16, torch.float16):
        found = torch.bmm(left.to(right.dtype).flatten(0, 1), right.flatten(0, 1), out_dtype=torch.float32)
        return found.unflatten(0, right.shape[:2]).mul_(scale)
    # Elsewhere a product is no more precise than its factors.
    precise = torch.promote_types(right.dtype, torch.float32)
    left = left.to(precise)
    return (left if scale == 1 else left * scale) @ right.to(precise)
