"""A policy: a causal or image-text language model together with the tokenizer that it speaks.

Students, teachers and references are all policies. This file loads them, and turns (prompt, response) token ids into
log-probs without ever holding ``[B, T, V]`` logits.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lit_uniopd.backbone import check_head, head_of, unwrap
from lit_uniopd.errors import UserError, first_line
from lit_uniopd.functional.logps import linear_token_logps
from lit_uniopd.functional.token_loss import LossOf, linear_token_loss
from lit_uniopd.loading import load_model, load_processor
from lit_uniopd.response_model import ResponseModel
from lit_uniopd.sharding import is_sharded, reshard, weights_of
from lit_uniopd.vision import Vision

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


class Policy(ResponseModel):
    """A model and its tokenizer behind the few operations that the objectives need.

    Args:
        model: a transformers causal or image-text model, or a PEFT model around one.
        processor: its tokenizer, or its processor if it reads pictures.
        args: where it came from.
    """

    def __init__(self, model: nn.Module, processor: Any, args: PolicyArgs | None = None) -> None:
        super().__init__(model, processor, args if args is not None else PolicyArgs())
        # Not a submodule: the frozen copy must reach neither the optimizer nor the checkpoint.
        self._reference: list[Policy] = []

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

    @property
    def references(self) -> Sequence["Policy"]:
        """The copy that ``keep_reference`` made, if there is one."""
        return self._reference

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

    def keep_reference(self) -> None:
        """Remember the policy as it is now. With adapters that costs nothing; else it is a frozen copy."""
        if self.args.lora is None and not self._reference:
            frozen = copy.deepcopy(self.model).requires_grad_(False)
            self._reference.append(Policy(frozen, self.processor, self.args).eval())

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
    """The base model's state dict with every LoRA product added to its weight; sharded weights must be gathered."""
    deltas: dict[str, Tensor] = {}
    for name, layer in base.named_modules():
        get_delta = getattr(layer, "get_delta_weight", None)
        if get_delta is not None:
            deltas[f"{name}.weight"] = get_delta("default")
    merged = {}
    for name, tensor in weights_of(base).items():
        if ".lora_" in name:
            continue
        clean = name.replace(".base_layer.", ".")
        # Added before it is rounded: a step of training is often smaller than what bfloat16 can add to a weight.
        added = tensor.to(deltas[clean].dtype) + deltas[clean] if clean in deltas else tensor
        merged[clean] = added.to(tensor.dtype)
    return merged
