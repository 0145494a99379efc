"""From a prompt to what a model reads: chat template, token ids, pictures."""

from dataclasses import dataclass, field, replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from lit_uniopd.errors import UserError, first_line
from lit_uniopd.policy.multimodal import Vision
from lit_uniopd.types import Prompt
from lit_uniopd.utils.images import open_image


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """A prompt as a model takes it."""

    tokens: list[int]
    """Token ids; a picture's place is as many tokens long as the model makes of it."""
    vision: Vision = field(default_factory=dict)
    """What the processor made of the pictures."""


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
            as many as its text has places for.
    """
    if not prompt.images:
        return EncodedPrompt(render(processor, prompt, chat_template_kwargs))
    tokenizer = tokenizer_of(processor)
    if processor is tokenizer:
        raise UserError(f"Prompt {prompt.id!r} has pictures, which {tokenizer.name_or_path} cannot read; use an MLLM.")
    pictures = [open_image(image, max_pixels) for image in prompt.images]
    text = chat_text(processor, prompt, chat_template_kwargs)
    try:
        given = processor(text=[text], images=pictures, return_tensors="pt", text_kwargs={"add_special_tokens": False})
    except (ValueError, IndexError, StopIteration) as error:
        raise UserError(
            f"Prompt {prompt.id!r}: its {len(pictures)} picture(s) do not fit the places in its text "
            f"({first_line(error)}); mend the row."
        ) from error
    tokens = given.pop("input_ids")[0].tolist()
    # The types of tokens follow from the tokens themselves.
    vision = {name: value for name, value in given.items() if name not in ("attention_mask", "mm_token_type_ids")}
    return EncodedPrompt(tokens, vision)


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
    """Token ids of a prompt, its pictures left out, and of an answer that somebody else wrote.

    The prompt's are those that the policy is asked with, so they are the same for all answers to it. Prompt and answer
    are rendered and tokenised together, and the answer is what follows the prompt; where a token would span the end of
    the prompt, the two are tokenised apart, as in a rollout.

    The answer ends with the token that ends its turn in the chat template, or with the end-of-sequence token where the
    template has none; what a template writes behind that is left away, as a model that stops there never writes it.

    Raises:
        UserError: as in `render`.
    """
    tokenizer = tokenizer_of(processor)
    start = chat_text(processor, prompt, chat_template_kwargs)
    whole = start + answer
    plain = tokenizer.chat_template is None and getattr(processor, "chat_template", None) is None
    if not plain:
        answered = answered_text(processor, prompt, answer, chat_template_kwargs)
        whole = answered if answered.startswith(start) else whole
    prompt_tokens = tokenizer(start, add_special_tokens=plain).input_ids
    tokens = tokenizer(whole, add_special_tokens=plain).input_ids
    if tokens[: len(prompt_tokens)] == prompt_tokens:
        tokens = tokens[len(prompt_tokens) :]
    else:
        tokens = tokenizer(whole[len(start) :], add_special_tokens=False).input_ids
    eos: Any = tokenizer.eos_token_id
    if eos in tokens:
        tokens = tokens[: len(tokens) - tokens[::-1].index(eos)]
    elif eos is not None:
        tokens = [*tokens, eos]
    return prompt_tokens, tokens


def answered_text(processor: Any, prompt: Prompt, answer: str, chat_template_kwargs: dict[str, Any]) -> str:
    """The conversation with the answer's turn, which continues an assistant turn that the prompt ends with."""
    tokenizer = tokenizer_of(processor)
    messages = [dict(message) for message in prompt.messages]
    in_parts = any(not isinstance(message["content"], str) for message in messages)
    said: Any = [{"type": "text", "text": answer}] if in_parts else answer
    if messages[-1]["role"] == "assistant":
        messages[-1]["content"] = messages[-1]["content"] + said
    else:
        messages.append({"role": "assistant", "content": said})
    template: Any = tokenizer.chat_template or getattr(processor, "chat_template", None)
    text: Any = tokenizer.apply_chat_template(
        messages, chat_template=template, tokenize=False, add_generation_prompt=False, **chat_template_kwargs
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
        return messages[0]["content"]
    unfinished = messages[-1]["role"] == "assistant"
    text: Any = tokenizer.apply_chat_template(
        messages,
        chat_template=template,
        tokenize=False,
        add_generation_prompt=not unfinished,
        continue_final_message=unfinished,
        **chat_template_kwargs,
    )
    return text


def continued(prompt: Prompt, said: str) -> Prompt:
    """The prompt with the beginning of its answer, which the policy then goes on with; unchanged if that is empty."""
    if not said:
        return prompt
    in_parts = any(not isinstance(message["content"], str) for message in prompt.messages)
    content: Any = [{"type": "text", "text": said}] if in_parts else said
    return replace(prompt, messages=(*prompt.messages, {"role": "assistant", "content": content}))


def encode_continuation(
    processor: Any, prompt: Prompt, text: str, chat_template_kwargs: dict[str, Any]
) -> tuple[list[int], list[int]]:
    """Token ids of a prompt, its pictures left out, and of a text that goes on with its last, unfinished turn.

    No token ends the text: the answer may go on. The prompt's ids are a true prefix of the ids of both together, unless
    a token would span the seam; the two are then tokenised apart, as in a rollout.

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
