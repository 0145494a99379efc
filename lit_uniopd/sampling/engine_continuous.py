"""transformers' continuous batching, behind ``sampling.engine: cb``: a paged cache, and rows that change at any step.

It shares the trained weights, reads text only and is made for CUDA; on the CPU it is correct and slow. Its attention
kernels differ from those of training, so its log-probs are compared with the trainer's, not trusted.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from lit_uniopd.errors import UserError
from lit_uniopd.policy.backbone import unwrap
from lit_uniopd.policy.shared_prefix import ATTENTION
from lit_uniopd.sampling.request import AnswerBuffer, GenerationRequest, Progress
from lit_uniopd.utils.seeding import derive_seed

PAGE = 64
"""Tokens in a page of the cache on the CPU; on other devices transformers chooses."""


def write(request: GenerationRequest) -> AnswerBuffer:
    """Answer a request.

    Raises:
        UserError: if a prompt has pictures, the model or the installed transformers cannot do it, or answers fail.
    """
    base: Any = unwrap(request.model)
    request.refuse_pictures()
    if not hasattr(base, "init_continuous_batching"):
        raise UserError("sampling.engine=cb needs transformers 5.17 or newer; upgrade it, or set sampling.engine=loop.")
    devices = [request.device] if request.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), _without_packed_attention(request.model):
        answers = _generate(request, base)
    buffer = AnswerBuffer(request)
    for row, (tokens, logps) in answers.items():
        buffer.put(row, tokens, logps)
    return buffer


def _generate(request: GenerationRequest, base: Any) -> dict[int, tuple[Tensor, Tensor]]:
    """Row -> its tokens and log-probs."""
    try:
        manager = base.init_continuous_batching(
            generation_config=request.generation_config(request.answers), continuous_batching_config=_config(request)
        )
        manager.warmup()
    except (ValueError, NotImplementedError) as error:
        raise UserError(
            f"sampling.engine=cb cannot run {type(base).__name__} ({error}); set sampling.engine=loop."
        ) from error
    # All are in the queue before the thread starts, so that equal requests get equal batches and equal noise.
    ids = manager.add_requests([list(prompt) for prompt in request.prompt_tokens])
    rows = {name: prompt * request.answers for prompt, name in enumerate(ids)}
    rows |= {
        f"{name}__child#{child}": prompt * request.answers + 1 + child
        for prompt, name in enumerate(ids)
        for child in range(request.answers - 1)
    }
    manager.start()
    try:
        return _collect(request, manager, rows)
    except BaseException:
        for name in rows:
            manager.cancel_request(name)  # stopping would wait for every answer
        raise
    finally:
        manager.stop(block=True, timeout=30)
        manager.destroy()


def _collect(request: GenerationRequest, manager: Any, rows: dict[str, int]) -> dict[int, tuple[Tensor, Tensor]]:
    """Wait for every answer, and count them: errors in the manager's thread are only logged there."""
    answers: dict[int, tuple[Tensor, Tensor]] = {}
    progress = Progress(request)
    while len(answers) < len(rows):
        output = manager.get_result(timeout=1)
        if output is None:
            if not manager.is_running():
                raise UserError(
                    f"transformers' continuous batching stopped after {len(answers)} of {len(rows)} answers, for "
                    "reasons in its log; lower sampling.max_rows, or set sampling.engine=loop."
                )
        elif output.is_finished():
            if output.error is not None or len(output.logprobs) != len(output.generated_tokens):
                reason = output.error or "no log-probs"
                raise UserError(
                    f"transformers' continuous batching failed on an answer ({reason}); set sampling.engine=loop."
                )
            answers[rows[output.request_id]] = torch.tensor(output.generated_tokens), torch.tensor(output.logprobs)
            progress(len(answers), len(output.generated_tokens))
    return answers


def _config(request: GenerationRequest) -> Any:
    from transformers.generation.configuration_utils import ContinuousBatchingConfig

    rows = min(request.rows, request.args.max_rows)
    options: dict[str, Any] = {
        "return_logprobs": True,
        "seed": derive_seed(request.seed, "cb") % 2**31,
        "max_requests_per_batch": rows,
        # The policy's attn_implementation decides on flash attention.
        "auto_switch_to_flash": False,
    }
    if request.device.type == "cpu":  # by default it takes most of the machine's memory
        longest = max(map(len, request.prompt_tokens)) + request.args.max_new_tokens
        options |= {"page_size": PAGE, "num_blocks": 4 + rows * math.ceil(longest / PAGE), "max_batch_tokens": 1024}
    supported = {field.name for field in fields(ContinuousBatchingConfig)}
    return ContinuousBatchingConfig(**{name: value for name, value in options.items() if name in supported})


@contextmanager
def _without_packed_attention(model: nn.Module) -> Iterator[None]:
    """Set aside our packed attention, which it does not know; afterwards every layer has its own again."""
    configs = {id(c): c for m in model.modules() if (c := getattr(m, "config", None)) is not None}
    before = [(c, c._attn_implementation) for c in configs.values() if hasattr(c, "_attn_implementation")]
    for config, attention in before:
        if attention == ATTENTION:
            config._attn_implementation = "sdpa"
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for config, attention in before:
            config._attn_implementation = attention
        for module, mode in modes:
            module.training = mode
