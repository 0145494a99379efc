"""The output projection of a language model, tile by tile, for losses that must never hold all its logits."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

TILE_ELEMENTS_CPU, TILE_ELEMENTS_ACCELERATOR = 2**20, 2**26
"""4 MiB in float32 stay in a CPU's cache between product and exponential; a GPU wants fewer, larger kernels."""
TILE_ELEMENTS_THREADS = 2**24
"""With several threads on a CPU. They wait for each other after every operation, and where another process has one's
core, for its turn to end: that must not happen for each of thousands of small ones."""


def math_dtype(*tensors: Tensor) -> torch.dtype:
    """float32, or float64 as soon as one of the tensors is float64."""
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def chunks(length: int, size: int) -> Iterator[slice]:
    """Cut ``range(length)`` into consecutive slices of at most ``size``."""
    return (slice(start, min(start + size, length)) for start in range(0, length, size))


def check_positive(**values: float) -> None:
    """Raise a ``ValueError`` that names the first argument that is not above zero."""
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name} must be above 0, got {value}")


def add_matmul(total: Tensor, left: Tensor, right: Tensor, *, first: bool = False) -> None:
    """Add ``left @ right`` to ``total``: products in the type of ``right``, sums over tiles in that of ``total``.

    The ``first`` product takes the place of what is in ``total``, which may be anything.
    """
    if total.dtype == right.dtype:
        total.addmm_(left, right, beta=0 if first else 1)
    elif first:
        total.copy_(left.to(right.dtype) @ right)
    else:
        total.add_(left.to(right.dtype) @ right)


def check_tokens(tokens: Tensor, shape: torch.Size, vocabulary: int, partner: str) -> None:
    """Raise a ``ValueError`` if token ids do not fit the shape of ``partner`` or the vocabulary."""
    if tokens.shape != shape:
        raise ValueError(f"tokens_BT has shape {tuple(tokens.shape)}, {partner} asks for {tuple(shape)}")
    if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < vocabulary:
        raise ValueError(f"tokens_BT holds ids outside the vocabulary of {vocabulary}; put any valid id at padding")


def tile_elements(*, cpu: bool) -> int:
    """Elements of a tile, with this thread's number of threads."""
    if not cpu:
        return TILE_ELEMENTS_ACCELERATOR
    return TILE_ELEMENTS_CPU if torch.get_num_threads() == 1 else TILE_ELEMENTS_THREADS


def tile_columns(rows: int, weight: Tensor) -> int:
    """Width of a tile that has so many rows."""
    elements = tile_elements(cpu=weight.device.type == "cpu")
    return min(weight.shape[0], max(256, elements // max(rows, 1)))


def locate(tokens: Tensor, columns: slice) -> tuple[Tensor, Tensor]:
    """Where in the tile each token's own column is, as ``[N, 1]``, and whether it is there at all."""
    offset = tokens - columns.start
    width = columns.stop - columns.start
    return offset.clamp(0, width - 1)[:, None], ((offset >= 0) & (offset < width))[:, None]


@dataclass(frozen=True, slots=True)
class Projection:
    """``logits = softcap(hidden @ weight.T + bias) / temperature``."""

    weight_VH: Tensor
    bias_V: Tensor | None = None
    softcap: float | None = None
    """Gemma 2: ``cap * tanh(logits / cap)``."""
    temperature: float = 1.0

    def check(self, hidden: Tensor, name: str = "", mask: Tensor | None = None) -> None:
        """Raise a ``ValueError`` if the parts do not fit; ``name`` is the prefix of the arguments in the message."""
        if mask is not None and hidden.shape[:-1] != mask.shape:
            raise ValueError(
                f"{name}hidden has shape {tuple(hidden.shape)}, which does not fit mask_BT {tuple(mask.shape)}"
            )
        vocabulary, width = self.weight_VH.shape
        if hidden.shape[-1] != width:
            raise ValueError(f"{name}hidden is {hidden.shape[-1]} wide, but {name}weight takes {width}")
        if self.bias_V is not None and self.bias_V.shape != (vocabulary,):
            raise ValueError(f"{name}bias must have shape ({vocabulary},), got {tuple(self.bias_V.shape)}")
        check_positive(temperature=self.temperature)
        if self.softcap is not None:
            check_positive(**{f"{name}softcap": self.softcap})

    def compute_dtype(self) -> torch.dtype:
        """What the matrix products run in: autocast's type where autocast is on, as a linear layer would."""
        device = self.weight_VH.device.type
        return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self.weight_VH.dtype

    def leading(self, rows: int) -> "Projection":
        """The head for the leading ids, in its compute type."""
        weight, bias = self.weight_VH, self.bias_V
        if len(weight) > rows:
            weight, bias = weight[:rows], None if bias is None else bias[:rows]
        return replace(self, weight_VH=weight.to(self.compute_dtype()), bias_V=bias)

    def fill(self, tile_NV: Tensor, hidden_NH: Tensor, columns: slice = slice(None)) -> Tensor:
        """Write the logits of some vocabulary columns into ``tile_NV``, in its type."""
        weight = self.weight_VH[columns]
        if tile_NV.dtype == weight.dtype:
            torch.mm(hidden_NH, weight.T, out=tile_NV)
        else:
            tile_NV.copy_(hidden_NH @ weight.T)
        if self.bias_V is not None:
            tile_NV.add_(self.bias_V[columns])
        if self.softcap is not None:
            tile_NV.div_(self.softcap).tanh_().mul_(self.softcap)
        return tile_NV if self.temperature == 1.0 else tile_NV.div_(self.temperature)

    def cap_slope(self, logits: Tensor) -> Tensor | None:
        """Derivative of the capped logit by the uncapped one, from the final logits. None without a cap: it is 1."""
        if self.softcap is None:
            return None
        return logits.mul(self.temperature / self.softcap).square_().neg_().add_(1.0)
