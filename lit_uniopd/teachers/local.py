"""A teacher in this process."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from lit_uniopd.distributed.sharding import is_sharded, largest_over_ranks, reshard
from lit_uniopd.functional.projection import Projection
from lit_uniopd.policy.args import PolicyArgs
from lit_uniopd.policy.backbone import head_of
from lit_uniopd.policy.chat_template import EncodedPrompt, encode
from lit_uniopd.policy.loading import load_processor
from lit_uniopd.policy.micro_batches import equal_count
from lit_uniopd.policy.policy import Policy
from lit_uniopd.teachers.args import TeacherArgs
from lit_uniopd.teachers.base import Scored, Teacher, encode_each
from lit_uniopd.types import Prompt, Rollouts


class LocalTeacher(Teacher):
    """A teacher that stays on the device (resident, quantised) or visits it (offloaded).

    Args:
        name: of the teacher in ``model.teachers``.
        args: where it comes from.
        policy: the model, if it is loaded already.
    """

    def __init__(self, name: str, args: TeacherArgs, policy: Policy | None = None) -> None:
        super().__init__(name, args)
        self._processor: Any = None if policy is None else policy.processor
        self._policy = policy
        self._host_copies: list[tuple[Tensor, Tensor]] = []

    @property
    def visits(self) -> bool:
        """Whether it leaves the device when idle; quantised weights stay where they were made."""
        return self.args.placement in ("cpu_offload", "disk_cache") and self.args.quantization == "none"

    @property
    def processor(self) -> Any:
        if self._processor is None:
            self._processor = load_processor(self.args, self.flag)
        return self._processor

    def processor_beside(self, student_processor: Any, student_args: PolicyArgs) -> Any:
        return self.processor

    def tokenize(self, prompt: Prompt) -> EncodedPrompt:
        return encode(self.processor, prompt, self.args.chat_template_kwargs, self.args.max_pixels)

    @property
    def policy(self) -> Policy:
        if self._policy is None:
            self._policy = Policy.load(self.args, trainable=False, flag=self.flag, ranks=self.ranks)
        return self._policy

    @property
    def loaded(self) -> Policy | None:
        return self._policy

    def load(self) -> None:
        _ = self.policy

    def fetch(self) -> None:
        policy = self.policy
        if self.device is None:
            return
        if not self.visits:
            if self.args.quantization == "none" and not is_sharded(policy):
                policy.to(self.device)
            return
        if not self._host_copies:
            tensors = (*policy.parameters(), *policy.buffers())
            self._host_copies = [(tensor, _pinned(tensor.data)) for tensor in tensors]
        for tensor, host_copy in self._host_copies:
            tensor.data = host_copy.to(self.device, non_blocking=True)

    def send_away(self) -> None:
        # The weights are frozen, so the copies in host memory are still right.
        for tensor, host_copy in self._host_copies:
            tensor.data = host_copy

    @property
    def by_layer(self) -> bool:  # type: ignore[override]
        return self.args.gather == "layers" and is_sharded(self.policy)

    @contextmanager
    def gathered(self) -> Iterator[None]:
        if self.loaded is None:
            yield
        elif self.by_layer:
            yield
            reshard(self.policy)  # what is outside of its layers stays gathered after a pass
        else:
            with self.policy.gathered():
                yield

    @property
    def stays(self) -> bool:
        """Whether whole weights are on the device all the time."""
        return not (self.visits or is_sharded(self.policy))

    def score(self, rollouts: Rollouts, *, temperature: float, max_tokens: int) -> Iterator[Scored]:
        def logps_of(*answers: Any, vision: Any = None) -> Tensor:
            return self.policy.token_logps(*answers, vision=vision, temperature=temperature)[0]

        for rows, logps_BT in self._passes(rollouts, max_tokens, logps_of):
            yield Scored(rows, logps_BT)

    def hidden_states(self, rollouts: Rollouts, max_tokens: int, *, on_host: bool) -> list[Tensor]:
        """Scaled hidden states ``[T, H]`` from which it predicts the tokens of each answer; within ``gathered``.

        Args:
            rollouts: answers to prompts of this teacher.
            max_tokens: token budget of one forward pass.
            on_host: whether to hold them in host memory.
        """

        def hidden_of(prompts: Any, tokens_BT: Tensor, mask_BT: Tensor, vision: Any = None) -> Tensor:
            policy = self.policy
            return policy(lambda: _scaled(policy, prompts, tokens_BT, mask_BT, vision))

        states = [torch.empty(0)] * len(rollouts)
        for rows, hidden_BTH in self._passes(rollouts, max_tokens, hidden_of):
            lengths = rollouts.lengths_B[rows].tolist()
            hidden_NH = torch.cat([hidden_TH[:length] for hidden_TH, length in zip(hidden_BTH, lengths, strict=True)])
            hidden_NH = hidden_NH.cpu() if on_host else hidden_NH
            for row, hidden_TH in zip(rows, hidden_NH.split(lengths), strict=True):
                states[row] = hidden_TH
        return states

    def projection(self, temperature: float) -> Projection:
        """Its output head, which outlasts its visit of the device; within ``gathered``."""
        head = head_of(self.policy.model)
        tensors = (head.weight_VH, head.bias_V)
        weight_VH, bias_V = (t if t is None or self.stays else t.detach().clone() for t in tensors)
        assert weight_VH is not None
        return Projection(weight_VH, bias_V, head.softcap, temperature)

    def _passes(
        self, rollouts: Rollouts, max_tokens: int, compute: Callable[..., Tensor]
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Rows of each forward pass, and what is computed in it from prompts, tokens, mask and pictures."""
        self.fetch()
        teacher = self.policy
        prompts = encode_each(self, rollouts.prompts)
        tokens, vision = [prompt.tokens for prompt in prompts], [prompt.vision for prompt in prompts]
        batches: list[list[int]] = []
        if prompts:
            batches = teacher.micro_batches(tokens, rollouts.tokens_BT, rollouts.mask_BT, max_tokens, vision=vision)
        if self.by_layer:
            batches = equal_count(batches, largest_over_ranks(teacher, len(batches)), rollouts.group_B.tolist())
        for rows in batches:
            if not rows:  # others gather layers that this rank has shards of
                with teacher.answering():
                    compute([[teacher.pad_id]], *_ONE_TOKEN)
                continue
            micro_batch = rollouts[rows]
            with teacher.answering():
                values = compute(
                    [tokens[row] for row in rows],
                    micro_batch.tokens_BT,
                    micro_batch.mask_BT,
                    vision=[vision[row] for row in rows],
                )
            yield rows, values


_ONE_TOKEN = torch.zeros((1, 1), dtype=torch.long), torch.ones((1, 1), dtype=torch.bool)
"""An answer and its mask."""


def _scaled(policy: Policy, *answers: Any) -> Tensor:
    """Hidden states ``[B, T, H]`` as the output projection takes them."""
    return policy.response_hidden(*answers) * head_of(policy.model).scale


def _pinned(tensor: Tensor) -> Tensor:
    """A copy in host memory, pinned for fast transfer to the GPU."""
    tensor = tensor.cpu()
    return tensor.pin_memory() if torch.cuda.is_available() else tensor
