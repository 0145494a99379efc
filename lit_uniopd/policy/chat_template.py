"""From a prompt to a model's inputs: chat template, token ids, pictures."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from transformers import PreTrainedTokenizerBase

from lit_uniopd.errors import UserError, first_line
from lit_uniopd.policy.multimodal import Vision, vision_of
from lit_uniopd.types import Message, Prompt
from lit_uniopd.utils.images import open_image


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """A prompt as a model takes it."""

    tokens: list[int]
    """Token ids; a picture's placeholder is repeated for each token that the model makes of it."""
    vision: Vision = field(default_factory=dict)
    """The processor's output for the pictures."""


def encode(
    processor: Any, prompt: Prompt, chat_template_kwargs: dict[str, Any], max_pixels: int | None = None
) -> EncodedPrompt:
    """A prompt with its pictures, as a model with this processor takes it.

    Args:
        processor: tokenizer, or processor of an image-text model.
        prompt: what to encode.
        chat_template_kwargs: further arguments of the chat template.
        max_pixels: larger pictures are shrunk to so many pixels.

    Raises:
        UserError: naming the prompt, if it has pictures that cannot be opened or that this model cannot read, or not
            as many as its text has placeholders.
    """
    if not prompt.images:
        return EncodedPrompt(render(processor, prompt, chat_template_kwargs))
    tokenizer = tokenizer_of(processor)
    if processor is tokenizer:
        raise UserError(f"Prompt {prompt.id!r} has pictures, which {tokenizer.name_or_path} cannot read; use an MLLM.")
    pictures = [open_image(image, max_pixels) for image in prompt.images]
    text = chat_text(processor, prompt, chat_template_kwargs)
    try:
        inputs = processor(text=[text], images=pictures, return_tensors="pt", text_kwargs={"add_special_tokens": False})
    except (ValueError, IndexError, StopIteration) as error:
        raise UserError(
            f"Prompt {prompt.id!r}: its {len(pictures)} picture(s) do not fit the places in its text "
            f"({first_line(error)}); mend the row."
        ) from error
    tokens = inputs.pop("input_ids")[0].tolist()
    return EncodedPrompt(tokens, vision_of(inputs, len(tokens)))


def tokenizer_of(processor: Any) -> PreTrainedTokenizerBase:
    """The tokenizer itself, also when a multimodal processor wraps it."""
    return processor if isinstance(processor, PreTrainedTokenizerBase) else processor.tokenizer


def render(processor: Any, prompt: Prompt, chat_template_kwargs: dict[str, Any]) -> list[int]:
    """Token ids of a prompt in the model's chat template, or as plain text if it has none.

    A conversation that ends with an assistant turn is continued; any other gets the generation prompt.

    Raises:
        UserError: if the model has no chat template and the prompt has more than one message.
    """
    tokenizer = tokenizer_of(processor)
    if tokenizer.chat_template is None and getattr(processor, "chat_template", None) is None:
        return tokenizer(chat_text(processor, prompt, chat_template_kwargs)).input_ids
    return tokenizer(chat_text(processor, prompt, chat_template_kwargs), add_special_tokens=False).input_ids


def encode_answer(
    processor: Any, prompt: Prompt, answer: str, chat_template_kwargs: dict[str, Any]
) -> tuple[list[int], list[int]]:
    """Token ids of a prompt, its pictures left out, and of an answer that the policy has not written.

    The prompt's ids are those of a rollout, so they are the same for all answers to it. Prompt and answer are rendered
    and tokenised together, and the answer is what follows the prompt; if a token would span the end of the prompt, the
    two are tokenised separately, as in a rollout.

    The answer ends with the token that ends its turn in the chat template, or with the end-of-sequence token where the
    template has none. What the template adds behind that is dropped, since a model that stops there never writes it.

    Raises:
        UserError: as in `render`.
    """
    tokenizer = tokenizer_of(processor)
    start = chat_text(processor, prompt, chat_template_kwargs)
    text = start + answer
    plain = tokenizer.chat_template is None and getattr(processor, "chat_template", None) is None
    if not plain:
        rendered = answered_text(processor, prompt, answer, chat_template_kwargs)
        text = rendered if rendered.startswith(start) else text
    prompt_tokens = tokenizer(start, add_special_tokens=plain).input_ids
    tokens = tokenizer(text, add_special_tokens=plain).input_ids
    if tokens[: len(prompt_tokens)] == prompt_tokens:
        tokens = tokens[len(prompt_tokens) :]
    else:
        tokens = tokenizer(text[len(start) :], add_special_tokens=False).input_ids
    eos: Any = tokenizer.eos_token_id
    if eos in tokens:
        tokens = tokens[: len(tokens) - tokens[::-1].index(eos)]
    elif eos is not None:
        tokens = [*tokens, eos]
    return prompt_tokens, tokens


def answered_text(processor: Any, prompt: Prompt, answer: str, chat_template_kwargs: dict[str, Any]) -> str:
    """The conversation with the answer as its last turn, or as the rest of the prompt's unfinished assistant turn."""
    tokenizer = tokenizer_of(processor)
    messages = [dict(message) for message in prompt.messages]
    in_parts = any(not isinstance(message["content"], str) for message in messages)
    content: Any = [{"type": "text", "text": answer}] if in_parts else answer
    if messages[-1]["role"] == "assistant":
        messages[-1]["content"] = messages[-1]["content"] + content
    else:
        messages.append({"role": "assistant", "content": content})
    template: Any = tokenizer.chat_template or getattr(processor, "chat_template", None)
    text: Any = tokenizer.apply_chat_template(
        readable_messages(tokenizer, template, messages),
        chat_template=template,
        tokenize=False,
        add_generation_prompt=False,
        **chat_template_kwargs,
    )
    return text


def chat_text(processor: Any, prompt: Prompt, chat_template_kwargs: dict[str, Any]) -> str:
    """The prompt as one text, in the chat template if there is one. Arguments and errors as in `render`."""
    tokenizer = tokenizer_of(processor)
    messages = [dict(message) for message in prompt.messages]
    template: Any = tokenizer.chat_template or getattr(processor, "chat_template", None)
    if template is None:
        if len(messages) != 1:
            raise UserError(
                f"Prompt {prompt.id!r} has {len(messages)} messages, but the tokenizer has no chat template; "
                "give the prompt column as plain text or choose a chat model."
            )
        return _joined(messages[0]["content"])
    unfinished = messages[-1]["role"] == "assistant"
    text: Any = tokenizer.apply_chat_template(
        readable_messages(tokenizer, template, messages),
        chat_template=template,
        tokenize=False,
        add_generation_prompt=not unfinished,
        continue_final_message=unfinished,
        **chat_template_kwargs,
    )
    return text


def readable_messages(
    tokenizer: PreTrainedTokenizerBase, template: str, messages: Sequence[Message]
) -> list[dict[str, Any]]:
    """The messages with contents as texts or as lists of parts, whichever the template reads.

    Templates of text models print a list of parts as Python does; some of image-text models leave a text out.
    """
    reads_text, reads_parts = _contents_read(tokenizer, template)
    readable = [dict(message) for message in messages]
    for message in readable:
        content = message["content"]
        if isinstance(content, str) and reads_parts and not reads_text:
            message["content"] = [{"type": "text", "text": content}]
        elif not isinstance(content, str) and reads_text and not reads_parts:
            message["content"] = _joined(content)
    return readable


@lru_cache(maxsize=16)
def _contents_read(tokenizer: PreTrainedTokenizerBase, template: str) -> tuple[bool, bool]:
    """Whether a chat template writes a content that is a text, and one that is a list of parts."""
    word = "lighthouse"

    def rendered(content: Any) -> str:
        try:
            messages = [{"role": "user", "content": content}]
            return str(tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False))
        except Exception:  # whatever a template raises, it does not read this
            return ""

    parts = rendered([{"type": "text", "text": word}])
    return word in rendered(word), word in parts and not any(f"{quote}type{quote}" in parts for quote in "'\"")


def _joined(content: Any) -> str:
    """The texts of a content, which must have no pictures.

    Raises:
        UserError: if it has.
    """
    if isinstance(content, str):
        return content
    if any(part.get("type") != "text" for part in content):
        raise UserError(
            "The model's chat template has no place for the pictures of a prompt; choose an image-text model that was "
            "trained on conversations, or remove the pictures."
        )
    return "".join(part["text"] for part in content)


def continued(prompt: Prompt, prefix: str) -> Prompt:
    """The prompt with the beginning of its answer, which the policy then continues; unchanged if that is empty."""
    if not prefix:
        return prompt
    in_parts = any(not isinstance(message["content"], str) for message in prompt.messages)
    content: Any = [{"type": "text", "text": prefix}] if in_parts else prefix
    return replace(prompt, messages=(*prompt.messages, {"role": "assistant", "content": content}))


def encode_continuation(
    processor: Any, prompt: Prompt, text: str, chat_template_kwargs: dict[str, Any]
) -> tuple[list[int], list[int]]:
    """Token ids of a prompt, its pictures left out, and of a text that continues its last, unfinished turn.

    No token ends the text: the answer may go on. Both are tokenised together, unless a token would span the end of the
    prompt; the two are then tokenised separately, as in a rollout.

    Raises:
        UserError: as in `render`.
    """
    tokenizer = tokenizer_of(processor)
    start = chat_text(processor, prompt, chat_template_kwargs)
    plain = tokenizer.chat_template is None and getattr(processor, "chat_template", None) is None
    seam = " " if prompt.messages[-1]["role"] == "assistant" else ""
    prompt_tokens = tokenizer(start, add_special_tokens=plain).input_ids
    tokens = tokenizer(start + seam + text, add_special_tokens=plain).input_ids
    if tokens[: len(prompt_tokens)] == prompt_tokens:
        return prompt_tokens, tokens[len(prompt_tokens) :]
    return prompt_tokens, tokenizer(seam + text, add_special_tokens=False).input_ids
