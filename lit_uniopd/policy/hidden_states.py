"""A model with its tokenizer, and the hidden states from which it predicts answers.

``Policy`` turns these into log-probs. A prompt that several answers share is computed once, if the model can do that
and it saves something.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Self, TypeVar

import torch
from lightning.pytorch.utilities import rank_zero_info
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lit_uniopd.distributed.sharding import gathered, is_sharded, reshard
from lit_uniopd.errors import UserError
from lit_uniopd.policy.activation_offloading import activations_on_host
from lit_uniopd.policy.args import PolicyArgs
from lit_uniopd.policy.backbone import body_of, unwrap
from lit_uniopd.policy.chat_template import EncodedPrompt, answer_end, encode, render, tokenizer_of
from lit_uniopd.policy.multimodal import (
    Vision,
    grid_positions,
    names_reached,
    tower_parameters,
    vision_inputs,
    zero_depending_on,
)
from lit_uniopd.policy.shared_prefix import Rows, enable_packing, packed_hidden, reads_alike, why_not_packed
from lit_uniopd.types import Prompt

T = TypeVar("T")


class HiddenStateModel(nn.Module):
    """A model and its tokenizer, up to the hidden states from which answers are predicted.

    Args:
        model: a transformers causal or image-text model, or a PEFT model around one.
        processor: its tokenizer, or its processor if it reads pictures.
        args: what it was loaded from.
    """

    model: Any  # a PreTrainedModel or PeftModel; their own methods are looked up through nn.Module's __getattr__

    def __init__(self, model: nn.Module, processor: Any, args: PolicyArgs) -> None:
        super().__init__()
        self.model = model
        self.processor = processor
        self.args = args
        self.reached: set[str] = set()
        """Parameters of the vision tower that pictures have reached in this step; recorded in distributed runs."""
        self._packing_works: dict[bool, bool] = {}

    def forward(self, compute: Callable[[], T]) -> T:
        """Run a computation that reads the weights: ``policy(lambda: ...)``.

        If they are sharded, FSDP gathers them before it and frees them after it, and again in the backward pass of the
        tensors that it returns; otherwise this only calls it.
        """
        return compute()

    def gathered(self) -> AbstractContextManager[None]:
        """All weights without gradients, for forward passes that other ranks need not run (see ``sharding``)."""
        return gathered(self)

    def layer_by_layer(self, compute: Callable[[], T]) -> T:
        """``policy(compute)`` that leaves nothing gathered.

        Every rank calls it equally often, and gathers the same layers inside, by forward passes or ``weights_in_turn``.
        """
        try:
            return self(compute)
        finally:
            reshard(self)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return tokenizer_of(self.processor)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def eos_ids(self) -> frozenset[int]:
        """Every id that ends an answer: that of `answer_end`, and those of generation config, config and tokenizer."""
        base: PreTrainedModel = unwrap(self.model)
        eos_ids: set[int] = set()
        sources: list[Any] = [
            base.generation_config.eos_token_id if base.generation_config is not None else None,
            base.config.get_text_config().eos_token_id,
            self.tokenizer.eos_token_id,
            answer_end(self.processor, self.args.chat_template_kwargs).token,
        ]
        for ids in sources:
            eos_ids.update([] if ids is None else [ids] if isinstance(ids, int) else ids)
        return frozenset(eos_ids)

    @property
    def pad_id(self) -> int:
        """Filler for padded positions; always masked, so any id will do."""
        pad = self.tokenizer.pad_token_id
        return pad if isinstance(pad, int) else min(self.eos_ids, default=0)

    def render(self, prompt: Prompt) -> list[int]:
        """Token ids of the prompt in this model's own chat template."""
        return render(self.processor, prompt, self.args.chat_template_kwargs)

    def encode(self, prompt: Prompt) -> EncodedPrompt:
        """The prompt with its pictures.

        Raises:
            UserError: naming the prompt, if it has pictures that cannot be opened or that this model cannot read, or
                not as many as its text has places for.
        """
        return encode(self.processor, prompt, self.args.chat_template_kwargs, self.args.max_pixels)

    @contextmanager
    def answering(self) -> Iterator[Self]:
        """Eval mode, cache on, no gradients; restores every flag on leaving.

        Eval mode also switches gradient checkpointing off. ``no_grad`` rather than ``inference_mode``, whose tensors
        cannot take part in later backward passes.
        """
        modes = [(module, module.training) for module in self.modules()]
        config = unwrap(self.model).config.get_text_config()
        use_cache = config.use_cache
        self.eval()
        config.use_cache = True
        try:
            with torch.no_grad():
                yield self
        finally:
            config.use_cache = use_cache
            for module, mode in modes:
                module.training = mode

    def response_hidden(
        self,
        prompt_tokens: Sequence[Sequence[int]],
        tokens_BT: Tensor,
        mask_BT: Tensor,
        vision: Sequence[Vision] | None = None,
    ) -> Tensor:
        """Hidden states ``[B, T, H]`` from which the response tokens are predicted; call it inside ``policy(...)``.

        Args:
            prompt_tokens: the prompt of each sample, unpadded.
            tokens_BT: response tokens, right-padded.
            mask_BT: True on response tokens.
            vision: for each sample, the processor's output for its pictures. None: there are none.
        """
        rows = Rows.from_padded(prompt_tokens, tokens_BT, mask_BT, vision)
        read = self._packed_hidden if self._packs(rows) else self._padded_hidden
        with activations_on_host(self.args.activation_offloading):
            hidden = read(rows)
        return nn.functional.pad(hidden, (0, 0, 0, tokens_BT.shape[1] - hidden.shape[1]))

    def _padded_hidden(self, rows: Rows) -> Tensor:
        """One row for each answer: its prompt, the answer, padding."""
        lengths_B = torch.tensor([len(p) + len(a) for p, a in zip(rows.prompts, rows.answers, strict=True)])
        sequences = [torch.tensor([*p, *a]) for p, a in zip(rows.prompts, rows.answers, strict=True)]
        ids = pad_sequence(sequences, batch_first=True, padding_value=self.pad_id).to(self.device)
        prompt_lengths_B = torch.tensor([len(prompt) for prompt in rows.prompts])
        steps_L = torch.arange(ids.shape[1])
        real = (steps_L < lengths_B[:, None]).to(self.device)
        answers = (steps_L >= prompt_lengths_B[:, None]).to(self.device)
        pictures = vision_inputs(self.model, ids, rows.vision, answers)
        grid = grid_positions(self.model, ids, real, pictures)
        if grid is not None:
            pictures["position_ids"] = grid[0]
        # Rows are padded on the right and answers are read causally, so padding cannot be seen and needs no mask.
        hidden = body_of(self.model)(input_ids=ids, use_cache=False, **pictures).last_hidden_state
        hidden = self._depending_on_tower(hidden, pictured=any(rows.vision))
        steps_T = torch.arange(max(len(answer) for answer in rows.answers))
        positions_BT = (prompt_lengths_B[:, None] - 1 + steps_T).clamp(max=ids.shape[1] - 1).to(hidden.device)
        return hidden.gather(1, positions_BT[..., None].expand(-1, -1, hidden.shape[-1]))

    def _packed_hidden(self, rows: Rows) -> Tensor:
        """One row for the whole batch, with each prompt once."""
        packing = rows.packing(self.device)
        vision = [rows.vision[row] for row in rows.firsts]
        inputs: dict[str, Any] = vision_inputs(self.model, packing.ids, vision)
        prompts = pad_sequence(
            [torch.tensor(rows.prompts[row]) for row in rows.firsts], batch_first=True, padding_value=self.pad_id
        ).to(self.device)
        # Grid positions are computed for the padded prompts, and so from the token types of those.
        pictures = inputs | vision_inputs(self.model, prompts, vision)
        inputs["position_ids"] = packing.positions(grid_positions(self.model, prompts, packing.prompts.real, pictures))
        hidden = packed_hidden(self.model, packing, inputs)
        hidden = self._depending_on_tower(hidden, pictured=any(rows.vision))
        index_BT = packing.predictors(packing.answers.width)
        return hidden.index_select(0, index_BT.flatten()).view(*index_BT.shape, -1)

    def _depending_on_tower(self, hidden: Tensor, *, pictured: bool) -> Tensor:
        """The same values, but depending on every trained parameter of the tower if ranks synchronise gradients.

        ``reached`` records which of them pictures have reached anyway.
        """
        if not torch.is_grad_enabled() or not torch.distributed.is_initialized():
            return hidden
        tower = tower_parameters(self.model)
        if not tower:
            return hidden
        if pictured and len(self.reached) < len(tower):
            self.reached |= names_reached(hidden, tower)
        return hidden + zero_depending_on(tower.values())

    def micro_batches(
        self,
        prompt_tokens: Sequence[Sequence[int]],
        tokens_BT: Tensor,
        mask_BT: Tensor,
        max_tokens: int,
        vision: Sequence[Vision] | None = None,
    ) -> list[list[int]]:
        """Rows of each forward pass, so that none holds many more than ``max_tokens`` tokens; longest first.

        Where sharing prompts saves a tenth of all tokens, or pictures, answers to one prompt stay together and their
        prompt counts once. Else rows of similar length go together, and padding counts.

        Args:
            prompt_tokens: the prompt of each sample, unpadded.
            tokens_BT: response tokens, right-padded.
            mask_BT: True on response tokens.
            max_tokens: budget of a forward pass. A longer row is alone.
            vision: for each sample, the processor's output for its pictures. None: there are none.
        """
        rows = Rows.from_padded(prompt_tokens, tokens_BT, mask_BT, vision)
        return rows.batches(max_tokens, packable=lambda: self._can_pack(rows))

    def _packs(self, rows: Rows) -> bool:
        """Whether to pack this batch: it saves something, and the model can."""
        return rows.worth_packing and self._can_pack(rows)

    def _can_pack(self, rows: Rows, *, together: bool = False) -> bool:
        """Whether the model can read rows packed.

        Its config is checked, then the first rows with and without pictures are computed both ways, once.

        Args:
            rows: to read.
            together: every rank asks for the same rows now.
        """
        if not self.args.share_prompts or not all(rows.answers):
            return False
        pictured = any(rows.vision)
        if why_not_packed(self.model, rows.longest, pictured=pictured) is not None:
            return False
        if pictured not in self._packing_works:
            if is_sharded(self) and not together:  # a trial that other ranks do not make would hang
                return False
            enable_packing(self.model)
            self._packing_works[pictured] = self._try_packing(rows.first_group(with_pictures=pictured))
        return self._packing_works[pictured]

    def decide_packing(self) -> None:
        """Try whether the model can read packed rows, with and without a picture.

        To be called before it is sharded, or in ``policy(...)`` on every rank.
        """
        token = min(self.eos_ids, default=0)
        self._can_pack(Rows([[token] * 3] * 2, [[token], [token] * 2]), together=True)
        if self.processor is self.tokenizer:
            return
        content = [{"type": "image"}, {"type": "text", "text": "?"}]
        picture = Image.new("RGB", (64, 64))
        try:
            blank = self.encode(Prompt(id="blank", messages=({"role": "user", "content": content},), images=(picture,)))
        except UserError:  # a template of another kind: rows with pictures will be padded
            return
        self._can_pack(Rows([blank.tokens] * 2, [[token], [token] * 2], [blank.vision] * 2), together=True)

    def _try_packing(self, rows: Rows) -> bool:
        with self.answering():
            real = rows.packing(self.device).answers.real
            expected = self._padded_hidden(rows)[real].float()
            try:
                packed = self._packed_hidden(rows)[real].float()
            except (TypeError, RuntimeError, ValueError) as error:
                rank_zero_info(f"{type(unwrap(self.model)).__name__} cannot read packed rows ({error}); padding them.")
                return False
        mixed = torch.is_autocast_enabled(self.device.type)
        dtype = torch.get_autocast_dtype(self.device.type) if mixed else next(self.model.parameters()).dtype
        alike = reads_alike(packed, expected, dtype)
        if not alike:
            rank_zero_info(f"{type(unwrap(self.model)).__name__} reads packed rows differently; padding them.")
        return alike
