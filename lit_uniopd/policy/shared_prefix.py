"""Rows without padding, in which a prompt that several answers share is computed once.

A batch is laid out as one row of tokens: first every prompt, then every answer. What works on single tokens (norms,
projections, MLPs, experts) never sees padding nor a prompt twice. Attention alone is told who belongs together: a
prompt looks at itself, an answer at its prompt and at itself. Log-probs and gradients are those of separate rows.

For a pair of answers to one picture that is half the work; for a group of G answers to a long prompt it approaches a
G-th.

Extra shape letters: N tokens of the packed row, R prompts (one per group of answers), P prompt width, A answers,
D head width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from lit_uniopd.policy.backbone import body_of, unwrap
from lit_uniopd.policy.cascade_attention import SharedPrefixCache
from lit_uniopd.policy.micro_batches import packed_batches, token_budget_batches
from lit_uniopd.policy.multimodal import Vision

ATTENTION = "uniopd_packed"
"""Under this name transformers' models find `packed_attention`."""
WORTH_PACKING = 0.9
"""Rows are packed where that leaves at most this share of their tokens: the layout costs a little, too."""


@dataclass(frozen=True)
class Ragged:
    """Sequences of differing lengths, end to end in a row, and where their tokens are in a padded table."""

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
    def places(self) -> Tensor:
        """Of each token of the row, its place in the flattened table."""
        return self.real.flatten().nonzero()[:, 0]

    @cached_property
    def sources(self) -> Tensor:
        """Of each place in the flattened table, a token of the row; for padding any."""
        steps = torch.arange(self.width, device=self.device)
        return (self.starts[:, None] + torch.where(self.real, steps, 0)).flatten()

    def pad(self, states: Tensor) -> Tensor:
        """``[1, heads, tokens, D]`` to ``[rows, heads, width, D]``; what stands in padding is arbitrary but finite."""
        if len(set(self.lengths)) > 1:
            states = _Move.apply(states, 2, self.sources, self.places, None)
        return states[0].unflatten(1, (len(self.lengths), self.width)).transpose(0, 1)

    def unpad(self, table: Tensor) -> Tensor:
        """``[rows, width, heads, D]`` to ``[1, tokens, heads, D]``."""
        flat = table.flatten(0, 1)[None]
        if len(set(self.lengths)) == 1:
            return flat
        return _Move.apply(flat, 1, self.places, self.sources, ~self.real.flatten())


class _Move(Function):
    """Put entries into another order. Each goes to one place at most, so the way back is a look-up too, where autograd
    would add rows up one by one.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, dim: int, take: Tensor, give: Tensor, blank: Tensor | None) -> Tensor:  # type: ignore[override]
        ctx.dim, ctx.give, ctx.blank = dim, give, blank
        return states.index_select(dim, take)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        found = grad.index_select(ctx.dim, ctx.give)
        if ctx.blank is not None:
            found.masked_fill_(ctx.blank.view([-1 if i == ctx.dim else 1 for i in range(found.ndim)]), 0.0)
        return found, None, None, None, None


@dataclass(frozen=True)
class Rows:
    """A batch of answers, each to its prompt."""

    prompts: Sequence[Sequence[int]]
    """Token ids of each answer's prompt."""
    answers: Sequence[Sequence[int]]
    vision: Sequence[Vision] = ()
    """Of each answer's prompt, what the processor made of its pictures; the same object where prompts share them."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "vision", self.vision or [{}] * len(self.prompts))

    @classmethod
    def of(
        cls,
        prompts: Sequence[Sequence[int]],
        tokens_BT: Tensor,
        mask_BT: Tensor,
        vision: Sequence[Vision] | None = None,
    ) -> "Rows":
        """From answers padded on the right."""
        tokens_BT, mask_BT = tokens_BT.cpu(), mask_BT.bool().cpu()
        answers = [row[real].tolist() for row, real in zip(tokens_BT, mask_BT, strict=True)]
        return cls(prompts, answers, vision or ())

    @cached_property
    def owners(self) -> list[int]:
        """Of each answer, the number of its prompt among the different ones."""
        known: dict[Any, int] = {}
        keys = [(*p, id(v) if v else None) for p, v in zip(self.prompts, self.vision, strict=True)]
        return [known.setdefault(key, len(known)) for key in keys]

    @cached_property
    def firsts(self) -> list[int]:
        """The first answer to each different prompt."""
        return [self.owners.index(prompt) for prompt in range(max(self.owners) + 1)]

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt with answer."""
        return max(len(p) + len(a) for p, a in zip(self.prompts, self.answers, strict=True))

    @property
    def packed_tokens(self) -> int:
        """Tokens of the packed row."""
        return sum(len(self.prompts[row]) for row in self.firsts) + sum(len(answer) for answer in self.answers)

    @property
    def worth_packing(self) -> bool:
        """Whether the packed row spares enough of the padded rows that it replaces, or pictures."""
        return self.packed_tokens <= WORTH_PACKING * len(self.answers) * self.longest or self.shares_pictures

    def batches(self, max_tokens: int, packable: Callable[[], bool]) -> list[list[int]]:
        """Numbers of the answers in each forward pass of at most ``max_tokens`` tokens; longest first.

        Where it is worth it, answers to one prompt stay together and their prompt counts once; else rows of like
        length go together, and padding counts.

        Args:
            max_tokens: budget. A longer row is alone.
            packable: whether the model can read packed rows; asked where it matters.
        """
        prompts, answers = ([len(part) for part in parts] for parts in (self.prompts, self.answers))
        lengths = [p + a for p, a in zip(prompts, answers, strict=True)]
        padded = token_budget_batches(lengths, max_tokens)
        packed = packed_batches(prompts, answers, self.owners, max_tokens)
        padded_tokens = sum(len(batch) * max(lengths[row] for row in batch) for batch in padded)
        packed_tokens = sum(self.take(batch).packed_tokens for batch in packed)
        worth = packed_tokens <= WORTH_PACKING * padded_tokens or self.shares_pictures
        return packed if worth and packable() else padded

    @property
    def shares_pictures(self) -> bool:
        """Whether packing spares the vision tower some work."""
        return sum(bool(v) for v in self.vision) > sum(bool(self.vision[row]) for row in self.firsts)

    def first_group(self, *, with_pictures: bool) -> "Rows":
        """Two answers to the first prompt that has pictures, or has none: enough to try how they are read."""
        group = next(self.owners[row] for row, vision in enumerate(self.vision) if bool(vision) == with_pictures)
        return self.take([row for row, owner in enumerate(self.owners) if owner == group][:2])

    def take(self, rows: Sequence[int]) -> "Rows":
        """Some of the answers."""
        prompts, answers = ([part[row] for row in rows] for part in (self.prompts, self.answers))
        return Rows(prompts, answers, [self.vision[row] for row in rows])

    def packing(self, device: torch.device) -> "Packing":
        return Packing([self.prompts[row] for row in self.firsts], self.answers, self.owners, device)


class Packing:
    """The layout of one packed row.

    Args:
        prompts: token ids of each different prompt.
        answers: token ids of every answer.
        owners: of each answer, the number of its prompt.
        device: of the model.
    """

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        answers: Sequence[Sequence[int]],
        owners: Sequence[int],
        device: torch.device,
    ) -> None:
        self.prompts = Ragged(tuple(len(prompt) for prompt in prompts), device)
        self.answers = Ragged(tuple(len(answer) for answer in answers), device)
        self.owners = torch.tensor(owners, device=device)
        self.ids = torch.tensor([[token for tokens in (*prompts, *answers) for token in tokens]], device=device)
        self.prompt_tokens = sum(self.prompts.lengths)
        self._masks: dict[tuple[int, torch.dtype], Tensor] = {}

    def positions(self, grid: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Positions ``[1, N]``, or ``[3, 1, N]`` for prompts on a grid: each answer goes on where its prompt ends.

        Args:
            grid: of `vision.grid_positions` for the padded prompts.
        """
        lengths = torch.tensor(self.prompts.lengths, device=self.ids.device)
        steps_P = torch.arange(self.prompts.width, device=self.ids.device)
        table, offsets_R = (steps_P.expand(1, len(lengths), -1), 0 * lengths) if grid is None else grid
        prompts = table[:, self.prompts.real]
        steps_T = torch.arange(self.answers.width, device=self.ids.device)
        answers = ((lengths + offsets_R)[self.owners, None] + steps_T)[self.answers.real]
        found = torch.cat([prompts, answers.expand(len(prompts), -1)], dim=1)
        return found if grid is None else found[:, None]

    def answer_mask(self, queries: int, dtype: torch.dtype) -> Tensor:
        """What answers may look at: their prompt, and themselves up to where they are.

        Args:
            queries: heads that read the same keys; they come one behind the other.
            dtype: of the scores that it is added to. A mask of booleans would become such a one in every layer, and be
                kept there for the backward pass.

        Returns:
            0 or minus infinity, ``[A, 1, queries * T, P + T]``.
        """
        if (queries, dtype) not in self._masks:
            width = self.answers.width
            causal = torch.ones(width, width, dtype=torch.bool, device=self.ids.device).tril()
            prompt = self.prompts.real[self.owners][:, None, None, :].expand(-1, -1, width, -1)
            seen = torch.cat([prompt, causal.expand(len(prompt), 1, -1, -1)], dim=-1).repeat(1, 1, queries, 1)
            self._masks[queries, dtype] = torch.zeros_like(seen, dtype=dtype).masked_fill_(~seen, -torch.inf)
        return self._masks[queries, dtype]

    def predictors(self, width: int) -> Tensor:
        """Where in the row the states are that predict each token of the answers, ``[A, width]``.

        An answer's first token is predicted by its prompt's last. Padding has any place.
        """
        ends_R = self.prompts.starts + torch.tensor(self.prompts.lengths, device=self.ids.device) - 1
        starts_A = self.prompt_tokens + self.answers.starts
        steps_T = torch.arange(width, device=self.ids.device)
        places = (starts_A[:, None] + steps_T - 1).clamp(max=self.ids.shape[1] - 1)
        return torch.where(steps_T == 0, ends_R[self.owners, None], places)


_UNGROUPED = nn.Module()
"""In place of a layer whose queries are already laid out by key head."""


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    packing: Packing | None = None,
    cascade: SharedPrefixCache | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """PyTorch's attention, over a packed row or shared prompts if there are any.

    Args:
        module: attention layer of a transformers model.
        query: ``[1, heads, N, D]``; without a packing, ``[B, heads, L, D]``; with shared prompts, of one new token.
        key: the same, perhaps with fewer heads.
        value: the same.
        attention_mask: taken without a packing.
        packing: who belongs together.
        cascade: the caches of prompts, where keys are those of answers only.
        options: of transformers' own function.

    Returns:
        States ``[1, N, heads, D]``, and no attention weights.
    """
    if cascade is not None:
        return cascade.attend(int(module.layer_idx), query, key, value, **options), None  # type: ignore[arg-type]
    if packing is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    options |= {"is_causal": True}
    split = [packing.prompt_tokens, query.shape[2] - packing.prompt_tokens]
    (prompt_q, answer_q), (prompt_k, answer_k), (prompt_v, answer_v) = (
        states.split(split, dim=2) for states in (query, key, value)
    )
    prompt_k, prompt_v = packing.prompts.pad(prompt_k), packing.prompts.pad(prompt_v)
    # Padding is behind every prompt, where causal attention does not look.
    prompts, _ = sdpa_attention_forward(
        module, packing.prompts.pad(prompt_q), prompt_k, prompt_v, attention_mask=None, **options
    )
    # Query heads that share a key head become further queries to it: with a mask, keys would be copied for each.
    heads, width = answer_k.shape[1], packing.answers.width
    folded = packing.answers.pad(answer_q).unflatten(1, (heads, -1)).flatten(2, 3)
    answers, _ = sdpa_attention_forward(
        _UNGROUPED,
        folded,
        torch.cat([prompt_k[packing.owners], packing.answers.pad(answer_k)], dim=2),
        torch.cat([prompt_v[packing.owners], packing.answers.pad(answer_v)], dim=2),
        attention_mask=packing.answer_mask(folded.shape[2] // width, folded.dtype),
        **options,
    )
    answers = answers.transpose(1, 2).unflatten(2, (-1, width)).flatten(1, 2).transpose(1, 2)
    return torch.cat([packing.prompts.unpad(prompts), packing.answers.unpad(answers)], dim=1), None


def why_not_packed(model: nn.Module, longest: int) -> str | None:
    """Why a model cannot read packed rows; None if it can, as far as its config tells.

    Args:
        model: causal or image-text model.
        longest: tokens of the longest prompt with answer.
    """
    config: Any = unwrap(model).config.get_text_config()
    if config._attn_implementation not in ("sdpa", ATTENTION):
        return f"attention is {config._attn_implementation}, not sdpa"
    if not getattr(unwrap(model), "_supports_attention_backend", False):
        return "its attention cannot be replaced"
    kinds = set(getattr(config, "layer_types", None) or [])
    if kinds - {"full_attention", "sliding_attention"}:
        return f"it has layers of {', '.join(sorted(kinds - {'full_attention', 'sliding_attention'}))}"
    window = getattr(config, "sliding_window", None)
    if window is not None and window < longest and (not kinds or "sliding_attention" in kinds):
        return f"rows are longer than its sliding window of {window}"
    return None


def enable_packing(model: nn.Module) -> None:
    """Let a model's layers find `packed_attention`. Without a packing they go on as before."""
    body: Any = body_of(model)
    for module in getattr(body, "language_model", body).modules():
        config = getattr(module, "config", None)
        if getattr(config, "_attn_implementation", None) == "sdpa":
            config._attn_implementation = ATTENTION  # type: ignore[union-attr]


def packed_hidden(model: nn.Module, packing: Packing, inputs: dict[str, Any]) -> Tensor:
    """Last hidden states ``[N, H]`` of a packed row.

    Args:
        model: one for which `enable_packing` was called.
        packing: the row.
        inputs: further arguments of the model, ``position_ids`` among them.
    """
    body, mask = body_of(model), no_mask(packing.ids.device)
    return body(input_ids=packing.ids, attention_mask=mask, use_cache=False, packing=packing, **inputs)[0][0]


def reads_alike(found: Tensor, expected: Tensor, dtype: torch.dtype) -> bool:
    """Whether a model computes the same two ways, up to the rounding of the type that it computes in.

    Tokens that look at the wrong ones are off by far more than any rounding.
    """
    rounding = 1e-3 if dtype in (torch.float32, torch.float64) else 0.05
    return float((found - expected).norm() / expected.norm().clamp(min=1e-30)) <= rounding


def no_mask(device: torch.device) -> Tensor:
    """What keeps transformers from making a mask: `packed_attention` knows by itself who sees whom.

    A mask of four dimensions is handed through to the layers as it is.
    """
    return torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device)


AttentionInterface.register(ATTENTION, packed_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
