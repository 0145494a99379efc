"""Prompts with pictures as vLLM takes them.

vLLM has a processor of its own, which writes a picture's tokens into the prompt. It gets the prompt as it was before
the student's processor, and the pictures; what it made of them must be the very tokens that the student's made.
"""

import base64
import io
from collections.abc import Sequence
from typing import Any

from torch import nn

from lit_uniopd.errors import UserError
from lit_uniopd.policy.backbone import unwrap
from lit_uniopd.policy.chat_template import EncodedPrompt, UnprocessedPrompt, tokenizer_of

REMEDY = "start it with the student's own processor files and chat template, or set sampling.engine=loop"
"""For servers that make other tokens of a picture."""
UNREAD = {"video": 0, "audio": 0}
"""Kinds of input that the engine makes no room for."""


def reads_pictures(base: nn.Module, processor: Any) -> bool:
    """Whether an engine of this model gets a processor: that of an image-text model."""
    config: Any = unwrap(base).config
    return getattr(config, "vision_config", None) is not None and not (
        processor is None or processor is tokenizer_of(processor)
    )


def engine_options(base: nn.Module, processor: Any) -> dict[str, Any]:
    """Options of ``vllm.LLM`` that have to do with pictures; a text model has no use for a tokenizer."""
    if reads_pictures(base, processor):
        return {
            "skip_tokenizer_init": False,
            "limit_mm_per_prompt": UNREAD,
            # Rollouts seldom see a picture twice, and by default each process would keep 4 GiB of processed ones.
            "mm_processor_cache_gb": 0,
            # The model would normalise pixels by numbers that it draws along with its first weights, and never gets.
            "mm_device_do_normalize": False,
        }
    if getattr(unwrap(base).config, "vision_config", None) is not None:
        return {"skip_tokenizer_init": True, "limit_mm_per_prompt": UNREAD | {"image": 0}}
    return {"skip_tokenizer_init": True}


def processor_settings(base: nn.Module, processor: Any) -> str:
    """The processor's settings, by which engines are told apart; empty where the engine has none."""
    return processor.to_json_string() if reads_pictures(base, processor) else ""


def engine_prompt(prompt: EncodedPrompt) -> dict[str, Any]:
    """A prompt as vLLM in this process takes it."""
    if not prompt.vision:
        return {"prompt_token_ids": prompt.tokens}
    source = _source(prompt)
    return {"prompt_token_ids": source.tokens, "multi_modal_data": {"image": source.pictures}}


def server_prompt(prompt: EncodedPrompt) -> dict[str, Any]:
    """The fields of a request to a vLLM server that stand for the prompt.

    With pictures it is a conversation, to which the server applies its chat template: completions take tokens alone.
    Pictures travel as PNG, which loses nothing.
    """
    if not prompt.vision:
        return {"prompt": prompt.tokens}
    source = _source(prompt)
    pictures = iter(source.pictures)
    messages = [dict(message) for message in source.messages]
    for message in messages:
        if not isinstance(message["content"], str):
            message["content"] = [
                _data_url(next(pictures)) if part.get("type") == "image" else part for part in message["content"]
            ]
    unfinished = messages[-1]["role"] == "assistant"
    return {
        "messages": messages,
        "add_generation_prompt": not unfinished,
        "continue_final_message": unfinished,
        "chat_template_kwargs": source.chat_template_kwargs,
    }


def route_of(body: dict[str, Any]) -> str:
    """Where a server takes a request with `server_prompt`."""
    return "/v1/chat/completions" if "messages" in body else "/v1/completions"


def logps_of(logprobs: dict[str, Any]) -> list[float]:
    """Log-probs of an answer's tokens, as either route gives them.

    Raises:
        KeyError, TypeError: if they are in another form.
    """
    if "content" in logprobs:
        return [entry["logprob"] for entry in logprobs["content"]]
    return logprobs["token_logprobs"]


def prompt_logps_of(answer: dict[str, Any], prompt: EncodedPrompt) -> list[float]:
    """Log-probs of all tokens of a prompt but the first, as either route gives them.

    Raises:
        KeyError, TypeError, IndexError, ValueError: if they are in another form.
    """
    entries = (answer if "prompt_logprobs" in answer else answer["choices"][0])["prompt_logprobs"]
    return [entry[str(token)]["logprob"] for token, entry in zip(prompt.tokens[1:], entries[1:], strict=True)]


def check_tokens(prompt: EncodedPrompt, tokens: Sequence[int] | None, engine: str, remedy: str) -> None:
    """Refuse an engine that read other tokens than the student.

    Args:
        prompt: with pictures or without.
        tokens: that the engine says it has read.
        engine: its name, as a message begins with it.
        remedy: what to do.

    Raises:
        UserError: naming the first token that differs.
    """
    read = [] if tokens is None else list(tokens)
    if read == prompt.tokens:
        return
    place = next(
        (i for i, pair in enumerate(zip(read, prompt.tokens, strict=False)) if pair[0] != pair[1]),
        min(len(read), len(prompt.tokens)),
    )
    raise UserError(
        f"{engine} makes other tokens of a prompt with pictures than the student's processor: {len(read)} instead of "
        f"{len(prompt.tokens)}, unlike from token {place} on; {remedy}."
    )


def _source(prompt: EncodedPrompt) -> UnprocessedPrompt:
    if prompt.unprocessed is None:
        raise ValueError(
            "vLLM needs prompts with pictures as they were before the processor: give sample() unprocessed"
        )
    return prompt.unprocessed


def _data_url(picture: Any) -> dict[str, Any]:
    file = io.BytesIO()
    picture.save(file, format="PNG")
    url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": url}}
