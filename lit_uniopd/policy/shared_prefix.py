"""Rows without padding, in which a prompt that several answers share is computed once.

A batch becomes one packed row: first every different prompt, then every answer. Layers that work on single tokens
(norms, projections, MLPs, experts) never see padding, nor a prompt twice. Only attention must know which tokens belong
together; log-probs and gradients are those of separate rows::

    batch      prompt 0 + answer 0      prompt 0 + answer 1      prompt 1 + answer 2
    row        [ prompt 0 | prompt 1 | answer 0 | answer 1 | answer 2 ]        ids [1, N]
    owners     of the answers: 0, 0, 1
    positions  each prompt from 0; each answer goes on where its prompt ends

    in every layer, `packed_attention`:
      1  split queries, keys and values [1, heads, N, D] into those of prompts and of answers
      2  pad the prompts' to [R, heads, P, D]; causal attention of each prompt to itself
      3  pad the answers' to [A, heads, T, D]; give each answer the keys and values of its prompt, [prompt; answer],
         and attend from the answer's queries under `answer_mask`: all of the prompt, the answer itself causally
      4  drop the padding of both results and join them to [1, N, heads, D]

    `predictors` then picks the hidden states that predict answers: a first token's is the last of its prompt

For a pair of answers to one picture this is half the work; for a group of G answers to a long prompt it approaches a
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
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from lit_uniopd.policy.backbone import body_of, layer_configs, reads_prompts_both_ways, unwrap
from lit_uniopd.policy.cascade_attention import SharedPrefixCache
from lit_uniopd.policy.micro_batches import packed_batches, token_budget_batches
from lit_uniopd.policy.multimodal import Vision, reads_pictures_both_ways
from lit_uniopd.policy.ragged import Ragged

ATTENTION = "uniopd_packed"
"""Under this name transformers' models find `packed_attention`."""
WORTH_PACKING = 0.9
"""Rows are packed if that leaves at most this share of their tokens, since the layout costs a little time."""


@dataclass(frozen=True)
class Rows:
    """A batch of answers, each to its prompt."""

    prompts: Sequence[Sequence[int]]
    """Token ids of each answer's prompt."""
    answers: Sequence[Sequence[int]]
    vision: Sequence[Vision] = ()
    """For each answer's prompt, the processor's output for its pictures; the same object where prompts share them."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "vision", self.vision or [{}] * len(self.prompts))

    @classmethod
    def from_padded(
        cls,
        prompts: Sequence[Sequence[int]],
        tokens_BT: Tensor,
        mask_BT: Tensor,
        vision: Sequence[Vision] | None = None,
    ) -> "Rows":
        """Rows of answers that are padded on the right."""
        tokens_BT, mask_BT = tokens_BT.cpu(), mask_BT.bool().cpu()
        answers = [row[real].tolist() for row, real in zip(tokens_BT, mask_BT, strict=True)]
        return cls(prompts, answers, vision or ())

    @cached_property
    def owners(self) -> list[int]:
        """For each answer, the number of its prompt among the different ones: same tokens, same pictures."""
        numbers: dict[Any, int] = {}
        keys = [(*p, id(v) if v else None) for p, v in zip(self.prompts, self.vision, strict=True)]
        return [numbers.setdefault(key, len(numbers)) for key in keys]

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
        """Whether packing saves enough tokens of the padded rows, or pictures."""
        return self.packed_tokens <= WORTH_PACKING * len(self.answers) * self.longest or self.shares_pictures

    def batches(self, max_tokens: int, packable: Callable[[], bool]) -> list[list[int]]:
        """Numbers of the answers in each forward pass of at most ``max_tokens`` tokens; longest first.

        Where packing is worth it, answers to one prompt stay together and their prompt counts once; else rows of
        similar length go together, and padding counts.

        Args:
            max_tokens: budget. A longer row is alone.
            packable: whether the model can read packed rows; called only if they are worth it.
        """
        prompts, answers = ([len(tokens) for tokens in rows] for rows in (self.prompts, self.answers))
        lengths = [p + a for p, a in zip(prompts, answers, strict=True)]
        padded = token_budget_batches(lengths, max_tokens)
        packed = packed_batches(prompts, answers, self.owners, max_tokens)
        padded_tokens = sum(len(batch) * max(lengths[row] for row in batch) for batch in padded)
        packed_tokens = sum(self.select(batch).packed_tokens for batch in packed)
        worth = packed_tokens <= WORTH_PACKING * padded_tokens or self.shares_pictures
        return packed if worth and packable() else padded

    @property
    def shares_pictures(self) -> bool:
        """Whether packing saves the vision tower some work."""
        return sum(bool(v) for v in self.vision) > sum(bool(self.vision[row]) for row in self.firsts)

    def first_group(self, *, with_pictures: bool) -> "Rows":
        """Two answers to the first prompt that has pictures, or has none: enough to compare both ways to read them."""
        group = next(self.owners[row] for row, vision in enumerate(self.vision) if bool(vision) == with_pictures)
        return self.select([row for row, owner in enumerate(self.owners) if owner == group][:2])

    def select(self, rows: Sequence[int]) -> "Rows":
        """Some of the answers."""
        prompts, answers = ([tokens[row] for row in rows] for tokens in (self.prompts, self.answers))
        return Rows(prompts, answers, [self.vision[row] for row in rows])

    def packing(self, device: torch.device) -> "Packing":
        return Packing([self.prompts[row] for row in self.firsts], self.answers, self.owners, device)


class Packing:
    """The layout of one packed row.

    Args:
        prompts: token ids of each different prompt.
        answers: token ids of every answer.
        owners: for each answer, the number of its prompt.
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
            grid: of `multimodal.grid_positions` for the padded prompts.
        """
        lengths_R = torch.tensor(self.prompts.lengths, device=self.ids.device)
        steps_P = torch.arange(self.prompts.width, device=self.ids.device)
        # Prompts: 0, 1, 2 ... in each row, or what the model's grid says; the mask drops padding and joins the rows.
        table_1RP, offsets_R = (steps_P.expand(1, len(lengths_R), -1), 0 * lengths_R) if grid is None else grid
        prompts = table_1RP[:, self.prompts.real]
        # Answers: on from the end of their prompt, which on a grid differs from its length by an offset.
        steps_T = torch.arange(self.answers.width, device=self.ids.device)
        answers = ((lengths_R + offsets_R)[self.owners, None] + steps_T)[self.answers.real]
        positions = torch.cat([prompts, answers.expand(len(prompts), -1)], dim=1)
        return positions if grid is None else positions[:, None]

    def answer_mask(self, queries: int, dtype: torch.dtype) -> Tensor:
        """What answers may attend to: all of their prompt, and themselves causally.

        Args:
            queries: query heads per key head; their queries are stacked along the tokens.
            dtype: of the scores that the mask is added to. A mask of booleans would be converted in every layer, and
                kept there for the backward pass.

        Returns:
            0 or minus infinity, ``[A, 1, queries * T, P + T]``; made once for all layers.
        """
        if (queries, dtype) not in self._masks:
            width = self.answers.width
            causal = torch.ones(width, width, dtype=torch.bool, device=self.ids.device).tril()
            prompt = self.prompts.real[self.owners][:, None, None, :].expand(-1, -1, width, -1)
            visible = torch.cat([prompt, causal.expand(len(prompt), 1, -1, -1)], dim=-1).repeat(1, 1, queries, 1)
            self._masks[queries, dtype] = torch.zeros_like(visible, dtype=dtype).masked_fill_(~visible, -torch.inf)
        return self._masks[queries, dtype]

    def predictors(self, width: int) -> Tensor:
        """Indices into the row of the states that predict each token of the answers, ``[A, width]``.

        An answer's first token is predicted by its prompt's last. Padding has an arbitrary index.
        """
        ends_R = self.prompts.starts + torch.tensor(self.prompts.lengths, device=self.ids.device) - 1
        starts_A = self.prompt_tokens + self.answers.starts
        steps_T = torch.arange(width, device=self.ids.device)
        indices = (starts_A[:, None] + steps_T - 1).clamp(max=self.ids.shape[1] - 1)
        return torch.where(steps_T == 0, ends_R[self.owners, None], indices)


_UNGROUPED = nn.Module()
"""Passed as the layer where queries are already stacked by key head: having no groups, it makes sdpa copy no keys."""


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
    """Attention over a packed row (training), over shared prompts (decoding), or else PyTorch's own.

    The steps are those of the box at the top of this module.

    Args:
        module: attention layer of a transformers model.
        query: ``[1, heads, N, D]``; without a packing, ``[B, heads, L, D]``; with shared prompts, of one new token.
        key: the same, perhaps with fewer heads.
        value: the same.
        attention_mask: used without a packing only.
        packing: which tokens belong together.
        cascade: the caches of the prompts; ``key`` and ``value`` are then those of the answers only.
        options: of transformers' own function.

    Returns:
        States ``[1, N, heads, D]``, and no attention weights.
    """
    if cascade is not None:
        return cascade.attend(int(module.layer_idx), query, key, value, **options), None  # type: ignore[arg-type]
    if packing is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    if attention_mask is not None and attention_mask.numel() > 1:  # not the placeholder: biases of the layer (Doge)
        raise ValueError("its layers add something to the scores of attention")
    options |= {"is_causal": True}
    # 1. Prompts come first in the row.
    split = [packing.prompt_tokens, query.shape[2] - packing.prompt_tokens]
    (prompt_q, answer_q), (prompt_k, answer_k), (prompt_v, answer_v) = (
        states.split(split, dim=2) for states in (query, key, value)
    )
    # 2. Each prompt attends to itself. Padding is behind it, where causal attention does not look: no mask needed.
    prompt_k, prompt_v = packing.prompts.pad(prompt_k), packing.prompts.pad(prompt_v)
    prompts, _ = sdpa_attention_forward(
        module, packing.prompts.pad(prompt_q), prompt_k, prompt_v, attention_mask=None, **options
    )
    # 3. Each answer attends to its prompt and itself. Query heads that share a key head are stacked along the tokens,
    #    [A, key heads, queries * T, D]: under a mask, sdpa would otherwise copy the keys for each of them.
    key_heads, width = answer_k.shape[1], packing.answers.width
    stacked_q = packing.answers.pad(answer_q).unflatten(1, (key_heads, -1)).flatten(2, 3)
    answers, _ = sdpa_attention_forward(
        _UNGROUPED,
        stacked_q,
        torch.cat([prompt_k[packing.owners], packing.answers.pad(answer_k)], dim=2),
        torch.cat([prompt_v[packing.owners], packing.answers.pad(answer_v)], dim=2),
        attention_mask=packing.answer_mask(stacked_q.shape[2] // width, stacked_q.dtype),
        **options,
    )
    answers = answers.transpose(1, 2).unflatten(2, (-1, width)).flatten(1, 2).transpose(1, 2)  # unstack the heads
    # 4. Back to one row.
    return torch.cat([packing.prompts.unpad(prompts), packing.answers.unpad(answers)], dim=1), None


def why_not_packed(model: nn.Module, longest: int, *, pictured: bool = False) -> str | None:
    """Why a model cannot read packed rows; None if it can, as far as its config tells.

    Args:
        model: causal or image-text model.
        longest: tokens of the longest prompt with answer.
        pictured: whether some of the rows have pictures.
    """
    config: Any = unwrap(model).config.get_text_config()
    if config._attn_implementation not in ("sdpa", ATTENTION):
        return f"attention is {config._attn_implementation}, not sdpa"
    if not getattr(unwrap(model), "_supports_attention_backend", False):
        return "its attention cannot be replaced"
    if reads_prompts_both_ways(model) or (pictured and reads_pictures_both_ways(model)):
        return "its attention is not causal"
    kinds = set(getattr(config, "layer_types", None) or [])
    if kinds - {"full_attention", "sliding_attention"}:
        return f"it has layers of {', '.join(sorted(kinds - {'full_attention', 'sliding_attention'}))}"
    window = min((w for c in layer_configs(config) if (w := getattr(c, "sliding_window", None))), default=None)
    if window is not None and window < longest and (not kinds or "sliding_attention" in kinds):
        return f"rows are longer than its sliding window of {window}"
    return None


def enable_packing(model: nn.Module) -> None:
    """Make a model's layers use `packed_attention`. Without a packing it does what sdpa does."""
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
    body, mask = body_of(model), placeholder_mask(packing.ids.device)
    return body(input_ids=packing.ids, attention_mask=mask, use_cache=False, packing=packing, **inputs)[0][0]


def reads_alike(actual: Tensor, expected: Tensor, dtype: torch.dtype) -> bool:
    """Whether two ways to compute a model's states agree, up to the rounding of the type that it computes in.

    Attention to the wrong tokens changes them far more than any rounding. Of a model that has diverged nothing is said.
    """
    if not bool(expected.isfinite().all()):
        return True
    rounding = 1e-3 if dtype in (torch.float32, torch.float64) else 0.05
    return float((actual - expected).norm() / expected.norm().clamp(min=1e-30)) <= rounding


def placeholder_mask(device: torch.device) -> Tensor:
    """A mask that keeps transformers from making one: `packed_attention` makes its own.

    Transformers hands a mask of four dimensions through to the layers as it is.
    """
    return torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device)


AttentionInterface.register(ATTENTION, packed_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
