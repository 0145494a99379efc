"""A policy: a causal or image-text language model together with its tokenizer.

Students, teachers and references are all policies. This file loads them, and turns (prompt, response) token ids into
log-probs without ever holding ``[B, T, V]`` logits.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from lit_uniopd.distributed.sharding import ShardingArgs, is_sharded, reshard, shard
from lit_uniopd.errors import UserError
from lit_uniopd.functional.fused_token_loss import LossOf, linear_token_loss
from lit_uniopd.functional.logps import linear_token_logps
from lit_uniopd.functional.token_choice import highest_entropy
from lit_uniopd.policy.args import PolicyArgs
from lit_uniopd.policy.backbone import check_head, head_of, layers_of, unwrap
from lit_uniopd.policy.compiled_blocks import compile_blocks
from lit_uniopd.policy.dropout import DropoutRate, stored_configs, switch_off_dropout
from lit_uniopd.policy.hidden_states import HiddenStateModel
from lit_uniopd.policy.hub_kernels import use_hub_kernels
from lit_uniopd.policy.loading import load_model, load_processor
from lit_uniopd.policy.lora import merged_state
from lit_uniopd.policy.multimodal import Vision
from lit_uniopd.policy.sharded_reading import UnreadWeights, load_unread, weightless
from lit_uniopd.policy.trained_parts import choose_trained

T = TypeVar("T")


class Policy(HiddenStateModel):
    """A model and its tokenizer behind the few operations that the objectives need.

    Args:
        model: a transformers causal or image-text model, or a PEFT model around one.
        processor: its tokenizer, or its processor if it reads pictures.
        args: what it was loaded from.
    """

    def __init__(self, model: nn.Module, processor: Any, args: PolicyArgs | None = None) -> None:
        super().__init__(model, processor, args if args is not None else PolicyArgs())
        # Not submodules: frozen copies must reach neither the optimizer nor the checkpoint.
        self._copies: list[Policy] = []
        self._reference: list[Policy] = []
        self.dropout_off: list[DropoutRate] = []
        """What ``switch_off_dropout`` has switched off."""
        self.flag = "policy"
        """The option that it came from, for messages."""
        self.unread: UnreadWeights | None = None
        """Where its weights are that are on the meta device until they are sharded."""

    @classmethod
    def load(cls, args: PolicyArgs, *, trainable: bool, flag: str = "policy", ranks: int = 1) -> "Policy":
        """Load a policy as ``args`` say; a frozen one has no parameter that requires a gradient.

        Args:
            args: what to load.
            trainable: whether it will be trained (in full, or by adapters if ``args.lora`` is set).
            flag: the option that ``args`` came from, for messages (``model.student``).
            ranks: that will share each weight. If more than one, weights stay on the meta device until ``shard``
                has every rank read its own, where that can be done.

        Raises:
            UserError: naming ``flag``, if the model cannot be loaded or the options contradict each other.
        """
        if trainable and args.quantization != "none" and args.lora is None:
            raise UserError(
                f"--{flag}.quantization {args.quantization} freezes the weights; set --{flag}.lora too, or 'none'."
            )
        processor = load_processor(args, flag)
        unread = load_unread(args, trainable=trainable, flag=flag, ranks=ranks) if ranks > 1 else None
        stored = load_model(args, trainable=trainable, flag=flag) if unread is None else unread[0]
        with weightless(stored):
            model = choose_trained(stored, args, trainable=trainable, flag=flag)
        check_head(model)
        if args.gradient_checkpointing and trainable:
            base: Any = unwrap(model)
            # Renamed in transformers 5.2x; the old name warns there.
            enable = getattr(base, "activation_checkpointing_enable", None) or base.gradient_checkpointing_enable
            enable({"use_reentrant": False})
        if args.use_kernels:
            use_hub_kernels(model, flag)
        if args.compile and trainable:
            compile_blocks(model, flag)
        # from_pretrained leaves models in eval mode, and Lightning keeps that mode.
        policy = cls(model, processor, args).train(trainable)
        policy.flag, policy.unread = flag, unread and unread[1]
        return policy

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
        """Log-probs ``[B, T]`` (float32, 0 in padding) of the response tokens, and optionally entropies ``[B, T]``.

        Args:
            prompt_tokens: the prompt of each sample, unpadded.
            tokens_BT: response tokens, right-padded.
            mask_BT: True on response tokens.
            vision: for each sample, the processor's output for its pictures. None: there are none.
            temperature: divides the logits.
            return_entropy: also return the entropy (nats, detached) of each next-token distribution.
        """

        def compute() -> tuple[Tensor, Tensor | None]:
            states, options = self._response_states(prompt_tokens, tokens_BT, mask_BT, vision)
            options |= {"temperature": temperature, "return_entropy": return_entropy}
            output: Any = linear_token_logps(*states, **options)
            logps_N, entropy_N = output if return_entropy else (output, None)
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
        keep: float = 1.0,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Loss that is a sum over response tokens, with log-probs and entropies ``[B, T]`` without gradient.

        Args:
            prompt_tokens: the prompt of each sample, unpadded.
            tokens_BT: response tokens, right-padded.
            mask_BT: True on response tokens.
            loss_of: the losses of consecutive response tokens, row after row, from their log-probs and their slice or
                indices; see `linear_token_loss`.
            vision: for each sample, the processor's output for its pictures. None: there are none.
            temperature: divides the logits.
            keep: only this share of each answer's tokens is in the loss, those of highest entropy, and has log-probs
                (`highest_entropy` of what is returned); the gradients of the others' logits are never made.
        """

        def compute() -> tuple[Tensor, Tensor, Tensor]:
            (hidden_NH, weight_VH, tokens_N), options = self._response_states(prompt_tokens, tokens_BT, mask_BT, vision)
            options["temperature"] = temperature
            if keep == 1:
                loss, logps_N, entropy_N = linear_token_loss(hidden_NH, weight_VH, tokens_N, loss_of, **options)
                return loss, _as_table(logps_N, mask_BT), _as_table(entropy_N, mask_BT)
            with torch.no_grad():
                entropy_N = linear_token_logps(hidden_NH, weight_VH, tokens_N, return_entropy=True, **options)[1]
            mask, entropy_BT = mask_BT.to(hidden_NH.device), _as_table(entropy_N, mask_BT)
            kept_BT = highest_entropy(entropy_BT, mask, keep)
            index_K = kept_BT[mask].nonzero()[:, 0]
            loss, logps_K, _ = linear_token_loss(
                hidden_NH[index_K], weight_VH, tokens_N[index_K], lambda logps, k: loss_of(logps, index_K[k]), **options
            )
            return loss, _as_table(logps_K, kept_BT), entropy_BT

        return self(compute)

    def _response_states(
        self,
        prompt_tokens: Sequence[Sequence[int]],
        tokens_BT: Tensor,
        mask_BT: Tensor,
        vision: Sequence[Vision] | None,
    ) -> tuple[tuple[Tensor, Tensor, Tensor], dict[str, Any]]:
        """Hidden states, output weight, tokens and options, as the functions in `functional` take them.

        Of response positions only: the head's cost is per token, padding included.
        """
        tokens_BT, mask_BT = tokens_BT.to(self.device), mask_BT.to(self.device)
        hidden_BTH = self.response_hidden(prompt_tokens, tokens_BT, mask_BT, vision)
        head = head_of(self.model)
        states = (hidden_BTH[mask_BT] * head.scale, head.weight_VH, tokens_BT[mask_BT])
        return states, {"bias_V": head.bias_V, "softcap": head.softcap}

    def shard(self, mesh: DeviceMesh, args: ShardingArgs) -> None:
        """Shard the policy, and its frozen copies, over the ranks of a mesh. A collective call if it is ``unread``.

        Adapters must be in place: each rank would train later ones by itself.

        Args:
            mesh: of the ranks that see different data.
            args: types and places.

        Raises:
            UserError: if weights that are still to be read cannot be.
        """
        for policy in (self, *self._copies):
            if policy.unread is None:
                policy.decide_packing()  # while a rank can still try it without the others
            shard(policy, layers_of(policy.model), mesh, args)
            if policy.unread is not None:
                policy.read_shards(mesh, policy.unread)

    def read_shards(self, mesh: DeviceMesh, unread: UnreadWeights) -> None:
        """Read this rank's shards, then try on all ranks what is tried on whole weights elsewhere."""
        self.unread = None
        index = f":{torch.cuda.current_device()}" if mesh.device_type == "cuda" else ""
        unread.read_into(self.model, torch.device(f"{mesh.device_type}{index}"), self.flag)
        self(lambda: check_head(self.model))
        self(self.decide_packing)
        reshard(self)

    def switch_off_dropout(self) -> None:
        """Make log-probs in training mode those of answering; see ``policy.dropout``."""
        self.dropout_off = switch_off_dropout(self.model)

    def keep_reference(self) -> None:
        """Keep the policy as it is now: without adapters by a frozen copy, with them at no cost."""
        if self.args.lora is None and not self._reference:
            self._reference.append(self.frozen_copy())

    def frozen_copy(self) -> "Policy":
        """A frozen copy of the policy as it is now, to be made before it is sharded; it is sharded with it."""
        frozen = copy.deepcopy(self.model).requires_grad_(False)
        policy = Policy(frozen, self.processor, self.args).eval()
        policy.flag, policy.unread = self.flag, self.unread
        self._copies.append(policy)
        return policy

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
            # PEFT has frozen the adapters, and must find the same tensors when it unfreezes them.
            reshard(policy)

    def save(self, directory: str | Path) -> None:
        """Write a Hugging Face directory: safetensors, configs, tokenizer. Adapters are merged into the weights.

        The weights in use are left alone: merging and unmerging in place would change them by rounding.

        Raises:
            UserError: if adapters sit on quantised weights, which cannot be merged.
        """
        base = unwrap(self.model)
        if self.args.quantization != "none":
            raise UserError(
                f"Adapters cannot be merged into {self.args.quantization} weights; export the adapter, and merge it "
                f"into {self.args.path} loaded with quantization 'none'."
            )
        with stored_configs(self.dropout_off):
            base.save_pretrained(directory, state_dict=merged_state(base))
        self.processor.save_pretrained(directory)

    def save_adapter(self, directory: str | Path) -> None:
        """Write the adapters as a PEFT directory."""
        self.model.save_pretrained(directory)
        self.processor.save_pretrained(directory)


def _as_table(values_N: Tensor, mask_BT: Tensor) -> Tensor:
    """Values of the response tokens as a table ``[B, T]``, 0 in padding."""
    mask_BT = mask_BT.to(values_N.device)
    return values_N.new_zeros(mask_BT.shape).masked_scatter(mask_BT, values_N)
