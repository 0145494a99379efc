"""A policy: a causal or image-text language model together with the tokenizer that it speaks.

Students, teachers and references are all policies. This file loads them, and turns (prompt, response) token ids into
log-probs without ever holding ``[B, T, V]`` logits.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from lightning.pytorch.utilities import rank_zero_info
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lit_uniopd.backbone import body_of, check_head, head_of, unwrap
from lit_uniopd.errors import UserError, first_line
from lit_uniopd.functional.logps import linear_token_logps
from lit_uniopd.functional.token_loss import LossOf, linear_token_loss
from lit_uniopd.loading import load_model, load_processor
from lit_uniopd.packing import Rows, enable_packing, packed_hidden, why_not_packed
from lit_uniopd.prompting import EncodedPrompt, encode, render, tokenizer_of
from lit_uniopd.sharding import gathered, is_sharded, reshard
from lit_uniopd.types import Prompt
from lit_uniopd.vision import Vision, grid_positions, sum_of_nothing, vision_inputs

T = TypeVar("T")


@dataclass
class LoraArgs:
    """Train low-rank adapters (peft) instead of the weights themselves."""

    rank: int = 64
    """Rank of the adapter matrices."""
    alpha: int = 128
    """Scale of the adapters: their product is multiplied by alpha / rank."""
    dropout: float = 0.0
    """Dropout on the adapters' input while training."""
    target_modules: str | list[str] = "all-linear"
    """Names of the layers that get adapters, or `all-linear` for every linear layer but the output head."""


@dataclass
class PolicyArgs:
    """Where a model comes from and how it is held."""

    path: str = ""
    """A Hugging Face hub id, a local model directory, or `playground:student` (`math_teacher`, `code_teacher`)."""
    config: dict[str, Any] | None = None
    """A transformers config (`{model_type: qwen3, hidden_size: 64, ...}`) to build with random weights instead of
    loading any; `tokenizer` must then be given."""
    tokenizer: str | None = None
    """Hub id or directory of the tokenizer or processor, if it is not at `path`."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the weights. `auto`: float32 for weights that are trained in full (small steps vanish in bfloat16), else
    the type they are stored in."""
    attn_implementation: str | None = None
    """Attention kernel of transformers (`sdpa`, `flash_attention_2`, `eager`); null: its own choice."""
    share_prompts: bool = True
    """Compute a prompt once for all of its answers in a batch, and no padding, where the model can and a tenth of the
    tokens is saved; needs sdpa attention. Results are the same."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    lora: LoraArgs | None = None
    """Train adapters only; the model with its adapters off serves as the reference."""
    quantization: Literal["none", "8bit", "4bit"] = "none"
    """Hold frozen weights in 8 or 4 bits (bitsandbytes). A trained policy then needs `lora`."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Off: models that need it are refused."""
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    """Extra arguments of the chat template, `{enable_thinking: false}` for hybrid Qwen3 say."""
    max_pixels: int | None = None
    """Larger pictures are shrunk to so many pixels before the processor sees them; null: its own limit."""


class Policy(nn.Module):
    """A model and its tokenizer behind the few operations that the objectives need.

    Args:
        model: a transformers causal or image-text model, or a PEFT model around one.
        processor: its tokenizer, or its processor if it reads pictures.
        args: where it came from.
    """

    model: Any  # a PreTrainedModel or PeftModel; their own methods are looked up through nn.Module's __getattr__

    def __init__(self, model: nn.Module, processor: Any, args: PolicyArgs | None = None) -> None:
        super().__init__()
        self.model = model
        self.processor = processor
        self.args = args if args is not None else PolicyArgs()
        # Not a submodule: the frozen copy must reach neither the optimizer nor the checkpoint.
        self._reference: list[Policy] = []
        self._packing_works: dict[bool, bool] = {}

    @classmethod
    def load(cls, args: PolicyArgs, *, trainable: bool, flag: str = "policy") -> "Policy":
        """Load a policy as ``args`` say; a frozen one has no parameter that requires a gradient.

        Args:
            args: what to load.
            trainable: whether it will be trained (in full, or by adapters if ``args.lora`` is set).
            flag: the option that ``args`` came from, for messages (``model.student``).

        Raises:
            UserError: naming ``flag``, if the model cannot be had or the options contradict each other.
        """
        if trainable and args.quantization != "none" and args.lora is None:
            raise UserError(
                f"--{flag}.quantization {args.quantization} freezes the weights; set --{flag}.lora too, or 'none'."
            )
        processor = load_processor(args, flag)
        model = load_model(args, trainable=trainable, flag=flag)
        if args.lora is not None:
            model = with_adapters(model, args.lora, flag)
        if not trainable:
            model.requires_grad_(False)
        check_head(model)
        if args.gradient_checkpointing and trainable:
            base: Any = unwrap(model)
            # Renamed in transformers 5.2x; the old name warns there.
            enable = getattr(base, "activation_checkpointing_enable", None) or base.gradient_checkpointing_enable
            enable({"use_reentrant": False})
        # from_pretrained leaves models in eval mode, and Lightning keeps the mode it finds.
        return cls(model, processor, args).train(trainable)

    def forward(self, compute: Callable[[], T]) -> T:
        """Run what reads the weights: ``policy(lambda: ...)``.

        Where they are sharded, FSDP gathers them before and frees them after, and does so again in the backward pass of
        the tensors that come out; elsewhere nothing is added.
        """
        return compute()

    def gathered(self) -> AbstractContextManager[None]:
        """Whole weights without gradients, for forward passes that other ranks need not run (see ``sharding``)."""
        return gathered(self)

    @property
    def references(self) -> Sequence["Policy"]:
        """The copy that ``keep_reference`` made, if there is one."""
        return self._reference

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return tokenizer_of(self.processor)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def eos_ids(self) -> frozenset[int]:
        """Every id that ends an answer: of the generation config, the model config and the tokenizer."""
        base: PreTrainedModel = unwrap(self.model)
        found: set[int] = set()
        sources: list[Any] = [
            base.generation_config.eos_token_id if base.generation_config is not None else None,
            base.config.get_text_config().eos_token_id,
            self.tokenizer.eos_token_id,
        ]
        for ids in sources:
            found.update([] if ids is None else [ids] if isinstance(ids, int) else ids)
        return frozenset(found)

    @property
    def pad_id(self) -> int:
        """Filler for padded positions; it is masked wherever it is used, so any id will do."""
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

    def response_hidden(
        self,
        prompt_tokens: Sequence[Sequence[int]],
        tokens_BT: Tensor,
        mask_BT: Tensor,
        vision: Sequence[Vision] | None = None,
    ) -> Tensor:
        """Hidden states ``[B, T, H]`` from which the response tokens are predicted; to be run by ``policy(...)``.

        Args:
            prompt_tokens: the prompt of each sample, unpadded.
            tokens_BT: response tokens, right-padded.
            mask_BT: True on response tokens.
            vision: of each sample, what the processor made of its pictures. None: there are none.
        """
        rows = Rows.of(prompt_tokens, tokens_BT, mask_BT, vision)
        hidden = self._packed_hidden(rows) if self._packs(rows) else self._padded_hidden(rows)
        return nn.functional.pad(hidden, (0, 0, 0, tokens_BT.shape[1] - hidden.shape[1]))

    def _padded_hidden(self, rows: Rows) -> Tensor:
        """One row of the batch for each answer, behind its prompt."""
        lengths_B = torch.tensor([len(p) + len(a) for p, a in zip(rows.prompts, rows.answers, strict=True)])
        whole = [torch.tensor([*p, *a]) for p, a in zip(rows.prompts, rows.answers, strict=True)]
        ids = pad_sequence(whole, batch_first=True, padding_value=self.pad_id).to(self.device)
        pictures = vision_inputs(self.model, ids, rows.vision)
        real = (torch.arange(ids.shape[1]) < lengths_B[:, None]).to(self.device)
        grid = grid_positions(self.model, ids, real, pictures)
        if grid is not None:
            pictures["position_ids"] = grid[0]
        # Rows are padded on the right and attention is causal, so padding cannot be seen and needs no mask.
        hidden = body_of(self.model)(input_ids=ids, use_cache=False, **pictures).last_hidden_state
        nothing = sum_of_nothing(self.model)
        hidden = hidden if nothing is None else hidden + nothing
        prompt_lengths_B = torch.tensor([len(prompt) for prompt in rows.prompts])
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
        # Told apart by the type of the token, where a model wants that.
        pictures = inputs | vision_inputs(self.model, prompts, vision)
        inputs["position_ids"] = packing.positions(grid_positions(self.model, prompts, packing.prompts.real, pictures))
        hidden = packed_hidden(self.model, packing, inputs)
        nothing = sum_of_nothing(self.model)
        hidden = hidden if nothing is None else hidden + nothing
        places_BT = packing.predictors(packing.answers.width)
        return hidden.index_select(0, places_BT.flatten()).view(*places_BT.shape, -1)

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
        prompt counts once. Else rows of like length go together, and padding counts.

        Args:
            prompt_tokens: the prompt of each sample, unpadded.
            tokens_BT: response tokens, right-padded.
            mask_BT: True on response tokens.
            max_tokens: budget of a forward pass. A longer row is alone.
            vision: of each sample, what the processor made of its pictures. None: there are none.
        """
        rows = Rows.of(prompt_tokens, tokens_BT, mask_BT, vision)
        return rows.batches(max_tokens, packable=lambda: self._can_pack(rows))

    def _packs(self, rows: Rows) -> bool:
        """Whether to pack this batch: it saves something, and the model can."""
        return rows.worth_packing and self._can_pack(rows)

    def _can_pack(self, rows: Rows) -> bool:
        """Whether the model can read rows packed.

        What its config tells is checked by trying: the first rows with and without pictures are computed both ways.
        """
        if not self.args.share_prompts or not all(rows.answers):
            return False
        if why_not_packed(self.model, rows.longest) is not None:
            return False
        seen = any(rows.vision)
        if seen not in self._packing_works:
            if is_sharded(self):  # a trial that other ranks do not make would hang
                return False
            enable_packing(self.model)
            self._packing_works[seen] = self._try_packing(rows.first_group(with_pictures=seen))
        return self._packing_works[seen]

    def settle_packing(self) -> None:
        """Try now whether the model reads packed rows, with and without a picture, before it is sharded."""
        token = min(self.eos_ids, default=0)
        self._packs(Rows([[token] * 3] * 2, [[token], [token] * 2]))
        if self.processor is self.tokenizer:
            return
        content = [{"type": "image"}, {"type": "text", "text": "?"}]
        picture = Image.new("RGB", (64, 64))
        try:
            seen = self.encode(Prompt(id="blank", messages=({"role": "user", "content": content},), images=(picture,)))
        except UserError:  # a template of another kind: pictures will be padded
            return
        self._packs(Rows([seen.tokens] * 2, [[token], [token] * 2], [seen.vision] * 2))

    def _try_packing(self, rows: Rows) -> bool:
        with self.answering():
            real = rows.packing(self.device).answers.real
            expected = self._padded_hidden(rows)[real].float()
            try:
                found = self._packed_hidden(rows)[real].float()
            except (TypeError, RuntimeError, ValueError) as error:
                rank_zero_info(f"{type(unwrap(self.model)).__name__} cannot read packed rows ({error}); padding them.")
                return False
        # Tokens that look at the wrong ones are off by far more than any rounding.
        rounding = 1e-3 if next(self.model.parameters()).dtype in (torch.float32, torch.float64) else 0.05
        wrong = float((found - expected).norm() / expected.norm().clamp(min=1e-30))
        if wrong > rounding:
            rank_zero_info(f"{type(unwrap(self.model)).__name__} reads packed rows differently; padding them.")
        return wrong <= rounding

    def token_logps(
        self,
        prompt_tokens: Sequence[Sequence[int]],
        tokens_BT: Tensor,
        mask_BT: Tensor,
        *,
        vision: Sequence[Vision] | None = None,
        temperature: float = 1.0,
        return_entropy: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Log-probs ``[B, T]`` (float32, 0 in padding) of the response tokens, and on demand the entropies ``[B, T]``.

        Args:
            prompt_tokens: the prompt of each sample, unpadded.
            tokens_BT: response tokens, right-padded.
            mask_BT: True on response tokens.
            vision: of each sample, what the processor made of its pictures. None: there are none.
            temperature: divides the logits.
            return_entropy: also return the entropy (nats, detached) of each next-token distribution.
        """

        def compute() -> tuple[Tensor, Tensor | None]:
            states, options = self._response_states(prompt_tokens, tokens_BT, mask_BT, vision)
            options |= {"temperature": temperature, "return_entropy": return_entropy}
            found: Any = linear_token_logps(*states, **options)
            logps_N, entropy_N = found if return_entropy else (found, None)
            return _as_table(logps_N, mask_BT), None if entropy_N is None else _as_table(entropy_N, mask_BT)

        return self(compute)

    def token_loss(
        self,
        prompt_tokens: Sequence[Sequence[int]],
        tokens_BT: Tensor,
        mask_BT: Tensor,
        loss_of: LossOf,
        *,
        vision: Sequence[Vision] | None = None,
        temperature: float = 1.0,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Loss that is a sum over response tokens, with log-probs and entropies ``[B, T]`` without gradient.

        Args:
            prompt_tokens: the prompt of each sample, unpadded.
            tokens_BT: response tokens, right-padded.
            mask_BT: True on response tokens.
            loss_of: from log-probs of consecutive response tokens, row after row, and which they are, to their losses;
                see `linear_token_loss`.
            vision: of each sample, what the processor made of its pictures. None: there are none.
            temperature: divides the logits.
        """

        def compute() -> tuple[Tensor, Tensor, Tensor]:
            states, options = self._response_states(prompt_tokens, tokens_BT, mask_BT, vision)
            loss, logps_N, entropy_N = linear_token_loss(*states, loss_of, **options, temperature=temperature)
            return loss, _as_table(logps_N, mask_BT), _as_table(entropy_N, mask_BT)

        return self(compute)

    def _response_states(
        self,
        prompt_tokens: Sequence[Sequence[int]],
        tokens_BT: Tensor,
        mask_BT: Tensor,
        vision: Sequence[Vision] | None,
    ) -> tuple[tuple[Tensor, Tensor, Tensor], dict[str, Any]]:
        """Hidden states, output weight and tokens as the heads of `functional` take them, and their other arguments.

        Only response positions are among them: a head's cost is per token, and padding would be paid for.
        """
        tokens_BT, mask_BT = tokens_BT.to(self.device), mask_BT.to(self.device)
        hidden_BTH = self.response_hidden(prompt_tokens, tokens_BT, mask_BT, vision)
        head = head_of(self.model)
        states = (hidden_BTH[mask_BT] * head.scale, head.weight_VH, tokens_BT[mask_BT])
        return states, {"bias_V": head.bias_V, "softcap": head.softcap}

    @contextmanager
    def answering(self) -> Iterator["Policy"]:
        """Eval mode, cache on, no gradients; on leaving, every flag is as it was.

        Eval mode also switches gradient checkpointing off. ``no_grad`` rather than ``inference_mode``, whose tensors
        would poison the backward passes that follow.
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

    def keep_reference(self) -> None:
        """Remember the policy as it is now. With adapters that costs nothing; else it is a frozen copy."""
        if self.args.lora is None and not self._reference:
            frozen = copy.deepcopy(self.model).requires_grad_(False)
            self._reference.append(Policy(frozen, self.processor, self.args).eval())

    @property
    def frozen_copy(self) -> "Policy | None":
        """What ``keep_reference`` copied; None if it did not have to."""
        return self._reference[0] if self._reference else None

    @contextmanager
    def reference(self) -> Iterator["Policy"]:
        """The policy before training: adapters off, or the copy that ``keep_reference`` made.

        Raises:
            RuntimeError: if there is neither.
        """
        if self.args.lora is None and not self._reference:
            raise RuntimeError("call Policy.keep_reference() before training to have a reference")
        policy = self._reference[0] if self._reference else self
        if self._reference and not is_sharded(policy):
            policy.to(self.device)
        with policy.answering(), nullcontext() if self._reference else self.model.disable_adapter():
            yield policy
            # PEFT freezes the adapters meanwhile, and must find the same tensors when it thaws them.
            reshard(policy)

    def save(self, directory: str | Path) -> None:
        """Write a Hugging Face directory: safetensors, configs, tokenizer. Adapters are merged into the weights.

        The live weights are left alone: merging and unmerging in place would change them by rounding.

        Raises:
            UserError: if adapters sit on quantised weights, which cannot be merged.
        """
        base = unwrap(self.model)
        if self.args.quantization != "none":
            raise UserError(
                f"Adapters cannot be merged into {self.args.quantization} weights; export the adapter, and merge it "
                f"into {self.args.path} loaded with quantization 'none'."
            )
        base.save_pretrained(directory, state_dict=merged_state(base))
        self.processor.save_pretrained(directory)

    def save_adapter(self, directory: str | Path) -> None:
        """Write the adapters as a PEFT directory."""
        self.model.save_pretrained(directory)
        self.processor.save_pretrained(directory)


def _as_table(values_N: Tensor, mask_BT: Tensor) -> Tensor:
    """Values of the response tokens at their places ``[B, T]``, 0 in padding."""
    mask_BT = mask_BT.to(values_N.device)
    return values_N.new_zeros(mask_BT.shape).masked_scatter(mask_BT, values_N)


def with_adapters(model: PreTrainedModel, args: LoraArgs, flag: str) -> nn.Module:
    """A PEFT model with adapters, in float32, around a frozen one.

    Raises:
        UserError: naming ``flag``, if no layer has the names that ``args`` ask for.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=args.rank,
        lora_alpha=args.alpha,
        lora_dropout=args.dropout,
        target_modules=args.target_modules,
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise UserError(
            f"--{flag}.lora.target_modules {args.target_modules} fit no layer ({first_line(error)}); "
            "name layers of the model, or all-linear."
        ) from error


@torch.no_grad()
def merged_state(base: nn.Module) -> dict[str, Tensor]:
    """The base model's state dict with every LoRA product added to its weight."""
    deltas: dict[str, Tensor] = {}
    for name, layer in base.named_modules():
        get_delta = getattr(layer, "get_delta_weight", None)
        if get_delta is not None:
            deltas[f"{name}.weight"] = get_delta("default")
    merged = {}
    for name, tensor in base.state_dict().items():
        if ".lora_" in name:
            continue
        clean = name.replace(".base_layer.", ".")
        # Added before it is rounded: a step of training is often smaller than what bfloat16 can add to a weight.
        added = tensor.to(deltas[clean].dtype) + deltas[clean] if clean in deltas else tensor
        merged[clean] = added.to(tensor.dtype)
    return merged
