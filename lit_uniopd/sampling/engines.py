"""Writing answers with the policy: prompts in, tokens and their log-probs out."""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from lit_uniopd.errors import UserError
from lit_uniopd.policy.backbone import unwrap
from lit_uniopd.policy.chat_template import UnprocessedPrompt
from lit_uniopd.policy.multimodal import Vision
from lit_uniopd.sampling import (
    engine_generate,
    engine_loop,
    engine_vllm_colocated,
    engine_vllm_server,
)
from lit_uniopd.sampling.args import ColocateArgs, Engine, SamplingArgs
from lit_uniopd.sampling.decode_loop import decodable
from lit_uniopd.sampling.engine_vllm_server import PendingAnswers
from lit_uniopd.sampling.request import AnswerBuffer, GenerationRequest
from lit_uniopd.types import FinishReason

log = logging.getLogger(__name__)

ENGINES: Mapping[Engine, ModuleType] = {
    "loop": engine_loop,
    "generate": engine_generate,
    "vllm": engine_vllm_colocated,
}
"""Name in YAML -> the file whose ``write(request)`` answers it; where vLLM runs as servers, theirs does."""


@dataclass(slots=True)
class Completions:
    """Answers to ``B / n`` prompts, the ``n`` answers to one prompt adjacent. Padded positions hold 0."""

    tokens_BT: Tensor
    """Token ids, right-padded to the longest answer; the end-of-sequence token is part of the answer."""
    mask_BT: Tensor
    """Bool; True on the answer's tokens."""
    logps_BT: Tensor
    """float32 log-probs under the full softmax at the sampling temperature (at 1 when greedy). Other engines than loop
    and generate report those that they sampled with: after top_p and top_k, and by kernels of their own."""
    finish: list[FinishReason]


@torch.no_grad()
def sample(
    model: nn.Module,
    prompt_tokens: Sequence[Sequence[int]],
    args: SamplingArgs,
    *,
    eos_ids: Collection[int],
    pad_id: int,
    seed: int,
    keys: Sequence[int] | None = None,
    first: int = 0,
    vision: Sequence[Vision] | None = None,
    unprocessed: Sequence[UnprocessedPrompt | None] | None = None,
    processor: Any = None,
    on_progress: Callable[[int, int], None] | None = None,
    on_tokens: Callable[[int], None] | None = None,
) -> Completions:
    """Write ``args.n`` answers to each prompt.

    With the loop, answer ``j`` to a prompt depends on the weights, the prompt, ``seed``, the prompt's key and ``j``
    alone, as far as the model's own logits do not change with the batch. ``generate`` draws from torch's generator and
    promises that only for an equal batch. Torch's random state is left as it was.

    Args:
        model: A transformers causal (or image-text) model, bare or PEFT-wrapped, in eval mode.
        prompt_tokens: Token ids as the model gets them; nothing is added.
        args: How to sample.
        eos_ids: Each of them ends an answer; may be empty.
        pad_id: Pads shorter prompts; may be one of ``eos_ids``.
        seed: Of all randomness.
        keys: A number for each prompt's noise, so that its answers do not depend on its place. None: 0, 1, ...
        first: Number of the first answer to each prompt: ``n`` answers from 2 on are the last ``n`` of ``2 + n``.
        vision: Of each prompt, what the processor made of its pictures. None: there are none.
        unprocessed: Of each prompt with pictures, what the processor made that of. vLLM needs it, and the processor.
        processor: Of the model.
        on_progress: Called with (finished answers, all answers) whenever more are finished.
        on_tokens: Called with the number of tokens written since the last call, by engines that tell.

    Raises:
        ValueError: if a prompt is empty, there is none, or the model is in training mode.
        UserError: if prompt and answer do not fit in the model's table of positions.
        FloatingPointError: if the model's logits are not finite.
    """
    request = GenerationRequest(
        model=model,
        prompt_tokens=prompt_tokens,
        args=args,
        eos_ids=sorted(eos_ids),
        pad_id=pad_id,
        seed=seed,
        keys=range(len(prompt_tokens)) if keys is None else keys,
        first=first,
        vision=[{}] * len(prompt_tokens) if vision is None else vision,
        unprocessed=[None] * len(prompt_tokens) if unprocessed is None else unprocessed,
        processor=processor,
        on_progress=on_progress,
        on_tokens=on_tokens,
    )
    return answer(request)


@torch.no_grad()
def answer(request: GenerationRequest) -> Completions:
    """Do what a request asks, by the engine that it names; see ``sample``."""
    _check(request.model, request.prompt_tokens, request.args)
    args = settled(request.args, request.model, request.processor)
    request = replace(request, args=args)
    engine = "generate" if args.engine == "loop" and not _can_loop(request.model) else args.engine
    return _completions(request, (engine_vllm_server if args.server is not None else ENGINES[engine]).write(request))


@torch.no_grad()
def begin(request: GenerationRequest) -> PendingAnswers:
    """Have vLLM's servers write answers by the weights of now, while the model is trained on.

    Args:
        request: with ``args.server``.

    Raises:
        ValueError: as ``sample``.
        UserError: as ``sample``.
    """
    _check(request.model, request.prompt_tokens, request.args)
    return PendingAnswers(request, trained_meanwhile=True)


def collect(
    pending: PendingAnswers,
    on_progress: Callable[[int, int], None] | None = None,
    on_tokens: Callable[[int], None] | None = None,
) -> Completions:
    """Wait for answers that were begun; arguments and result as of ``sample``.

    Raises:
        UserError: if they do not arrive.
    """
    return _completions(pending.request, pending.collect(on_progress, on_tokens))


def settled(args: SamplingArgs, model: nn.Module, processor: Any = None) -> SamplingArgs:
    """The same options with an engine in the place of ``auto``. The model's weights are not looked at.

    vLLM's engine is made now where ``auto`` chooses it: what it cannot run is known only then. A line of log says, once
    for each kind of model, what was chosen on a GPU and why.

    Args:
        args: options with any engine.
        model: that is to write.
        processor: of the model; without one vLLM reads text alone.
    """
    if args.engine != "auto":
        return args
    engine: Engine = "vllm" if _colocates(args, model, processor) else "loop"
    return replace(args, engine=engine, colocate=args.colocate if engine == "vllm" else ColocateArgs())


staying_awake = engine_vllm_colocated.staying_awake


def likely_engine(args: SamplingArgs, *, cuda: bool) -> Engine:
    """What ``settled`` will choose, as far as that can be told without a model."""
    if args.engine != "auto":
        return args.engine
    return "vllm" if cuda and engine_vllm_colocated.is_installed() else "loop"


def _colocates(args: SamplingArgs, model: nn.Module, processor: Any) -> bool:
    """Whether vLLM in this process is there for a model on a GPU, and runs it."""
    if not _on_gpu(model):
        return False
    name = type(unwrap(model)).__name__
    if not engine_vllm_colocated.is_installed():
        _say_once(
            logging.WARNING,
            "vLLM is not installed, so that sampling.engine=auto is the loop, with which long answers may take several "
            "times as long (an estimate: nothing was measured on a GPU). `pip install 'lit_uniopd[vllm]'` brings it.",
        )
        return False
    try:
        engine_vllm_colocated.engine_for(model, args, processor)
    except UserError as error:
        _say_once(logging.WARNING, f"sampling.engine=auto is the loop for {name}: {error}")
        return False
    _say_once(logging.INFO, f"sampling.engine=auto is vllm for {name}.")
    return True


def _on_gpu(model: nn.Module) -> bool:
    return next(model.parameters()).device.type == "cuda"


@cache
def _say_once(level: int, text: str) -> None:
    log.log(level, text)


def check_engine(args: SamplingArgs) -> None:
    """Check that vLLM is there, if it is to write the answers: in this process, or as servers of the student.

    Raises:
        UserError: if it is not installed, or a server cannot be reached or serves something else.
    """
    if args.colocates:
        engine_vllm_colocated.check_installed()
    if args.server is not None:
        engine_vllm_server.connect(args.server)


def _completions(request: GenerationRequest, buffer: AnswerBuffer) -> Completions:
    """Cut each row after its first end-of-sequence token, then repeat the rows where all answers are the same."""
    tokens_BT, logps_BT, repeat = buffer.tokens_BT, buffer.logps_BT, request.args.n // request.answers
    ended_BT = torch.isin(tokens_BT, request.eos_E)
    stopped_B = ended_BT.any(dim=1)
    lengths_B = torch.where(stopped_B, ended_BT.int().argmax(dim=1) + 1, tokens_BT.shape[1])
    mask_BT = torch.arange(int(lengths_B.max()), device=tokens_BT.device) < lengths_B[:, None]
    tokens_BT = tokens_BT[:, : mask_BT.shape[1]] * mask_BT
    logps_BT = logps_BT[:, : mask_BT.shape[1]].masked_fill(~mask_BT, 0)
    if not bool(logps_BT.isfinite().all()):
        raise FloatingPointError("The policy's logits are not finite: the weights have diverged or are damaged.")
    finish: list[FinishReason] = ["stop" if stopped else "length" for stopped in stopped_B.tolist()]
    return Completions(
        tokens_BT.repeat_interleave(repeat, dim=0),
        mask_BT.repeat_interleave(repeat, dim=0),
        logps_BT.repeat_interleave(repeat, dim=0),
        [reason for reason in finish for _ in range(repeat)],
    )


def _check(model: nn.Module, prompt_tokens: Sequence[Sequence[int]], args: SamplingArgs) -> None:
    if not prompt_tokens or not all(prompt_tokens):
        raise ValueError("prompt_tokens must hold at least one prompt, and each at least one token")
    if model.training:
        raise ValueError(
            "model must be in eval mode: dropout, or checkpointing without a KV cache, would spoil answers"
        )
    config = unwrap(model).config.get_text_config(decoder=True)
    positions = getattr(config, "max_position_embeddings", None)
    longest = max(map(len, prompt_tokens))
    # Rotary positions reach beyond their training length; a table of learned ones ends there.
    if positions and not getattr(config, "rope_parameters", None) and longest + args.max_new_tokens > positions:
        raise UserError(
            f"sampling.max_new_tokens={args.max_new_tokens} does not fit: the model has {positions} positions and the "
            f"longest prompt takes {longest}; lower it to {positions - longest} or drop long prompts."
        )


def _can_loop(model: nn.Module) -> bool:
    if decodable(model):
        return True
    _warn_fallback(type(unwrap(model)).__name__)
    return False


@cache
def _warn_fallback(name: str) -> None:
    log.warning("sampling.engine=loop cannot split the cache of %s; sampling.engine=generate is used instead.", name)
