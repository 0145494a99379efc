"""Sequences of differing lengths as one row without padding, and as the padded table that attention kernels take.

Shape letters as in ``shared_prefix``.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable


@dataclass(frozen=True)
class Ragged:
    """Sequences of differing lengths, end to end in a row, and where their tokens are in a padded table.

    Attention kernels take rectangles, so `pad` and `unpad` go from the row to a table ``[rows, width]`` and back. Both
    are look-ups by index: `token_of_place` for each place in the table, `place_of_token` for each token of the row.
    """

    lengths: tuple[int, ...]
    device: torch.device

    @property
    def width(self) -> int:
        return max(self.lengths)

    @cached_property
    def real(self) -> Tensor:
        """True on tokens, False on padding, ``[rows, width]``."""
        lengths = torch.tensor(self.lengths)
        return (torch.arange(self.width) < lengths[:, None]).to(self.device)

    @cached_property
    def starts(self) -> Tensor:
        """Where each sequence begins in the row."""
        lengths = torch.tensor(self.lengths)
        return (lengths.cumsum(0) - lengths).to(self.device)

    @cached_property
    def place_of_token(self) -> Tensor:
        """For each token of the row, its place in the flattened table."""
        return self.real.flatten().nonzero()[:, 0]

    @cached_property
    def token_of_place(self) -> Tensor:
        """For each place in the flattened table, its token in the row; in padding the sequence's first, as a filler."""
        steps = torch.arange(self.width, device=self.device)
        return (self.starts[:, None] + torch.where(self.real, steps, 0)).flatten()

    def pad(self, states: Tensor) -> Tensor:
        """``[1, heads, tokens, D]`` to ``[rows, heads, width, D]``; what stands in padding is arbitrary but finite."""
        if len(set(self.lengths)) > 1:
            # Fillers need no gradient: attention neither reads their keys nor returns their queries' results.
            states = _Reorder.apply(states, 2, self.token_of_place, self.place_of_token, None)
        return states[0].unflatten(1, (len(self.lengths), self.width)).transpose(0, 1)

    def unpad(self, table: Tensor) -> Tensor:
        """``[rows, width, heads, D]`` to ``[1, tokens, heads, D]``."""
        flat = table.flatten(0, 1)[None]
        if len(set(self.lengths)) == 1:
            return flat
        return _Reorder.apply(flat, 1, self.place_of_token, self.token_of_place, ~self.real.flatten())


class _Reorder(Function):
    """``states.index_select(dim, index)``, whose backward pass is a look-up by the inverse index.

    That is exact, since each entry with a gradient is selected once; autograd's own backward pass would add up row by
    row, as if entries could be selected several times.

    Args of ``apply``: the states, the dimension, ``index``, its ``inverse``, and where among the states is ``padding``
    that ``index`` does not select (its gradient is 0).
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, states: Tensor, dim: int, index: Tensor, inverse: Tensor, padding: Tensor | None
    ) -> Tensor:
        ctx.dim, ctx.inverse, ctx.padding = dim, inverse, padding
        return states.index_select(dim, index)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        states_grad = grad.index_select(ctx.dim, ctx.inverse)
        if ctx.padding is not None:
            shape = [-1 if dim == ctx.dim else 1 for dim in range(grad.ndim)]
            states_grad.masked_fill_(ctx.padding.view(shape), 0.0)
        return states_grad, None, None, None, None
