"""Cascade attention: answers are decoded against one copy of their prompt's keys and values.

While a group of answers is written, the prompt's keys and values are the same for all of them: they are kept once, and
each row keeps those of its own answer only. One new token per row attends, in `SharedPrefixCache.attend`::

    1  queries [R, K, Q, D], one per row; group them by prompt: [P, K, W * Q, D]
    2  scores against the prompt, a whole group against one copy of its keys: [P, K, W * Q, L]
    3  scores against the row's own answer, row by row; group them by prompt:  [P, K, W * Q, S]
    4  one softmax in float32 over both side by side, as in ordinary attention
    5  values: probabilities over the prompt by group, those over the answer by row; add both: [R, K, Q, D]

Merging two softmaxes by their log-sum-exp would give the same numbers with more operations: on a CPU, a layer's
attention then took 1.3 to 1.5 times as long.

Extra shape letters: R rows being decoded, P prompts, W rows of the largest group, L positions of the padded prompts,
S of the answers so far, K key heads, Q query heads that share one, D head width.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

WORTH_SHARING = 1 / 4
"""Caches are shared if that saves at least this share of all cached positions, with every answer at its maximal length.
Below it the gain is small: at a share of 0.15, decoding takes 0.97 of the time (``benchmarks.rollout --grouped``)."""
SPARED_BYTES_CPU = 2**22
"""And if that saves a layer reading at least so many bytes in a step. The dozen more operations cost as much as reading
about 1 MiB (1.07 of the time at 0.6 MiB), 2 MiB in another run; up to here the gain is small, too."""
SPARED_BYTES_ACCELERATOR = 2**27
"""The same on accelerators, where memory is faster but launching an operation is not. Estimated, not measured: a dozen
launches of 5 us, in which memory is read at 2 to 3 TB/s."""


def worth_sharing(*, prompts: int, rows: int, length: int, new: int, position_bytes: int, cpu: bool) -> bool:
    """Whether rows should share the caches of their prompts.

    Args:
        prompts: of one pass.
        rows: answers to them.
        length: tokens of the longest prompt.
        new: tokens of the longest answer.
        position_bytes: of one position's key and value in one layer.
        cpu: whether the model is on a CPU.
    """
    spared = (rows - prompts) * length
    least = SPARED_BYTES_CPU if cpu else SPARED_BYTES_ACCELERATOR
    return spared * position_bytes >= least and spared >= WORTH_SHARING * rows * (length + new)


class SharedPrefixCache:
    """Keys and values of the prompts, and which rows belong to which prompt.

    Args:
        layers: for each layer, keys ``[P, K, L, D]`` and values of the prompts; None where a layer caches nothing.
        padding_PL: True on padding; None if there is none.
        owners_R: number of each row's prompt, ascending.
    """

    def __init__(
        self, layers: Sequence[tuple[Tensor, Tensor] | None], padding_PL: Tensor | None, owners_R: Tensor
    ) -> None:
        self.layers = list(layers)
        self.padding_PL = padding_PL
        self._assign(owners_R)

    def keep(self, index_R: Tensor) -> None:
        """Drop all other rows, prompts without rows, and columns that are padding in all remaining prompts.

        Args:
            index_R: the rows that stay, ascending.
        """
        owners_R = self.owners_R[index_R]
        remaining_P = owners_R.unique()
        if len(remaining_P) < self.n_prompts:
            padding_PL = None if self.padding_PL is None else self.padding_PL[remaining_P]
            leading = 0 if padding_PL is None else int(padding_PL.sum(dim=1).min())  # padding is on the left
            if padding_PL is not None:
                padding_PL = padding_PL[:, leading:]
            self.padding_PL = padding_PL if padding_PL is not None and bool(padding_PL.any()) else None
            for i, layer in enumerate(self.layers):
                if layer is not None:
                    key, value = (states[:, :, leading:].index_select(0, remaining_P) for states in layer)
                    self.layers[i] = key, value
        self._assign(torch.searchsorted(remaining_P, owners_R))

    def _assign(self, owners_R: Tensor) -> None:
        """Give each row a slot in the table ``[P, W]`` of groups; None where every slot has a row, in order."""
        sizes_P = owners_R.bincount()
        self.owners_R, self.n_prompts, self.max_group = owners_R, len(sizes_P), int(sizes_P.max())
        starts_P = sizes_P.cumsum(0) - sizes_P
        place_R = torch.arange(len(owners_R), device=owners_R.device) - starts_P[owners_R]
        full = len(owners_R) == self.n_prompts * self.max_group
        self.slots_R = None if full else owners_R * self.max_group + place_R

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float | None = None, **options: Any
    ) -> Tensor:
        """Attention of one new token per row; the steps are those of the box at the top of this module.

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
            ValueError: if the layer needs an option that is not supported here.
        """
        unsupported = sorted(name for name in ("softcap", "position_bias", "s_aux") if options.get(name) is not None)
        prompt = self.layers[layer]
        if unsupported or prompt is None or query.shape[2] != 1:
            raise ValueError(f"layer {layer} needs {', '.join(unsupported) or 'a cache of its own'}")
        prompt_key, prompt_value = prompt
        split = [prompt_key.shape[2], key.shape[2]]
        # 1. Query heads that share a key head are further queries to it.
        query_RKQD = query.squeeze(2).unflatten(1, (key.shape[1], -1))
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        # Autocast would round the scores before the softmax; fused attention keeps them in float32, too.
        with torch.autocast(query.device.type, enabled=False):
            # 2. One product per prompt: its keys are read once for the whole group.
            prompt_scores = _product(self._by_prompt(query_RKQD), prompt_key.mT, scale)
            if self.padding_PL is not None:
                prompt_scores.masked_fill_(self.padding_PL[:, None, None], -torch.inf)
            # 3. and 4. No mask is needed for answers: a row's answer has no padding, and the new token sees all of it.
            answer_scores = self._by_prompt(_product(query_RKQD, key.mT, scale))
            probs = torch.cat([prompt_scores, answer_scores], dim=-1).softmax(dim=-1)
            prompt_probs, answer_probs = probs.split(split, dim=-1)
            # 5.
            states = self._by_row(_product(prompt_probs, prompt_value)) + _product(self._by_row(answer_probs), value)
        return states.flatten(1, 2)[:, None].to(value.dtype)

    def _by_prompt(self, states_RKQX: Tensor) -> Tensor:
        """``[R, K, Q, X]`` to ``[P, K, W * Q, X]``; slots without a row hold zeros, and `_by_row` drops them."""
        if self.slots_R is not None:
            table = states_RKQX.new_zeros(self.n_prompts * self.max_group, *states_RKQX.shape[1:])
            states_RKQX = table.index_copy_(0, self.slots_R, states_RKQX)
        return states_RKQX.unflatten(0, (self.n_prompts, self.max_group)).transpose(1, 2).flatten(2, 3)

    def _by_row(self, table: Tensor) -> Tensor:
        """``[P, K, W * Q, X]`` to ``[R, K, Q, X]``."""
        states = table.unflatten(2, (self.max_group, -1)).transpose(1, 2).flatten(0, 1)
        return states if self.slots_R is None else states.index_select(0, self.slots_R)


def _product(left: Tensor, right: Tensor, scale: float = 1.0) -> Tensor:
    """Scaled matrix products, accumulated and returned in float32 or better, as in fused attention."""
    if right.is_cuda and right.dtype in (torch.bfloat16, torch.float16):
        product = torch.bmm(left.to(right.dtype).flatten(0, 1), right.flatten(0, 1), out_dtype=torch.float32)
        return product.unflatten(0, right.shape[:2]).mul_(scale)
    # On other devices a product has the type of its factors, so these are converted first.
    precise = torch.promote_types(right.dtype, torch.float32)
    left = left.to(precise)
    return (left if scale == 1 else left * scale) @ right.to(precise)
