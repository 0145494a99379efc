"""From a prompt to a model's inputs: chat template, token ids, pictures; and where an answer ends."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import pairwise
from typing import Any
from weakref import WeakKeyDictionary

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from lit_uniopd.errors import UserError, first_line
from lit_uniopd.policy.multimodal import Vision, vision_of
from lit_uniopd.types import Message, Prompt
from lit_uniopd.utils.images import open_image


@dataclass(frozen=True, slots=True)
class UnprocessedPrompt:
    """A prompt with pictures before the processor has read it, for engines that have processors of their own."""

    tokens: list[int]
    """Token ids of the chat template's text: the place of a picture is written once."""
    messages: tuple[Message, ...]
    pictures: list[Any]
    """RGB pictures of Pillow in the order of their places, within the limit of pixels."""
    chat_template_kwargs: dict[str, Any]


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """A prompt as a model takes it."""

    tokens: list[int]
    """Token ids; a picture's placeholder is repeated for each token that the model makes of it."""
    vision: Vision = field(default_factory=dict)
    """The processor's output for the pictures."""
    unprocessed: UnprocessedPrompt | None = None
    """None: there are no pictures."""


@dataclass(frozen=True, slots=True)
class AnswerEnd:
    """What ends an answer: the same in SFT, in pairs, and where sampling stops."""

    text: str
    """What stands behind an answer, up to and including the token at which the model stops."""
    token: int | None
    """Id of that token; None: the tokenizer has none."""
    marks: tuple[str, ...]
    """Texts of the tokens at which the model stops: this one and the end-of-sequence token."""
    written: bool
    """Whether the chat template writes that token itself."""


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
    source = UnprocessedPrompt(_token_ids(processor, text), prompt.messages, pictures, chat_template_kwargs)
    return EncodedPrompt(tokens, vision_of(inputs, len(tokens)), source)


def tokenizer_of(processor: Any) -> PreTrainedTokenizerBase:
    """The tokenizer itself, also when a multimodal processor wraps it."""
    return processor if isinstance(processor, PreTrainedTokenizerBase) else processor.tokenizer


def render(processor: Any, prompt: Prompt, chat_template_kwargs: dict[str, Any]) -> list[int]:
    """Token ids of a prompt in the model's chat template, or as plain text if it has none.

    A conversation that ends with an assistant turn is continued; any other gets the generation prompt. Plain text keeps
    the token that the tokenizer puts before it, and not the one that some put behind it: the answer follows there.

    Raises:
        UserError: if the model has no chat template and the prompt has more than one message.
    """
    return _token_ids(processor, chat_text(processor, prompt, chat_template_kwargs))


def _token_ids(processor: Any, text: str) -> list[int]:
    """Token ids of a rendered conversation, or of plain text with what the tokenizer puts before it."""
    tokenizer = tokenizer_of(processor)
    tokens: list[int] = tokenizer(text, add_special_tokens=False).input_ids
    if _template(processor) is not None:
        return tokens
    framed: list[int] = tokenizer(text).input_ids
    if not tokens:
        return [token for token in framed[:1] if token == tokenizer.bos_token_id]
    if tokens[0] == tokenizer.bos_token_id:  # the data write it themselves
        return tokens
    ends = range(len(tokens), len(framed) + 1)
    return next((framed[:end] for end in ends if framed[end - len(tokens) : end] == tokens), framed)


def _template(processor: Any) -> Any:
    """The chat template; None: there is none."""
    return tokenizer_of(processor).chat_template or getattr(processor, "chat_template", None)


def answer_end(processor: Any, chat_template_kwargs: dict[str, Any]) -> AnswerEnd:
    """What ends an answer, as the chat template writes it.

    It is the first special token that the template writes behind every assistant turn, the last one of a conversation
    or not, with the text before it and the special tokens that follow at once. What comes later is not part of the
    answer: a newline, or the end-of-sequence token that some templates write behind the end of the turn. Where the
    template writes no such token, and where there is no template, it is the end-of-sequence token.
    """
    tokenizer = tokenizer_of(processor)
    # Tables of thousands of special tokens are not to be searched for each answer anew.
    state = (str(_template(processor)), tokenizer.eos_token, len(tokenizer), repr(sorted(chat_template_kwargs.items())))
    ends: dict[Any, AnswerEnd] = _ENDS.setdefault(tokenizer, {})
    if state not in ends:
        ends[state] = _find_end(processor, chat_template_kwargs)
    return ends[state]


_ENDS: WeakKeyDictionary[PreTrainedTokenizerBase, dict[Any, AnswerEnd]] = WeakKeyDictionary()


def _find_end(processor: Any, chat_template_kwargs: dict[str, Any]) -> AnswerEnd:
    tokenizer = tokenizer_of(processor)
    eos: Any = tokenizer.eos_token
    tail = _behind_answer(processor, chat_template_kwargs, last=True)
    added = {str(token) for token in tokenizer.added_tokens_decoder.values()} | ({eos} - {None})
    names = sorted((name for name in added if name.strip() and name in tail), key=lambda name: (-len(name), name))
    if not names:
        marks = () if eos is None else (eos,)
        return AnswerEnd(tail.rstrip() + "".join(marks), tokenizer.eos_token_id, marks, written=False)  # type: ignore[arg-type]
    special = "|".join(map(re.escape, names))
    inside = _behind_answer(processor, chat_template_kwargs, last=False)
    unlike = (i for i, pair in enumerate(zip(tail, inside, strict=False)) if pair[0] != pair[1])
    always = tail[: next(unlike, len(inside))]
    match = re.search(f"(?:{special})+", always) or re.search(special, tail)
    assert match is not None
    name = re.findall(special, match.group())[-1]
    token: Any = tokenizer.convert_tokens_to_ids(name)
    marks = tuple(dict.fromkeys([name] if eos is None else [name, eos]))
    return AnswerEnd(tail[: match.end()], token, marks, written=True)


def _behind_answer(processor: Any, chat_template_kwargs: dict[str, Any], *, last: bool) -> str:
    """What the chat template writes behind an assistant turn; empty without a template."""
    template = _template(processor)
    if template is None:
        return ""
    mark = "ANSWER0"
    for in_parts in (False, True):  # some templates read one form of content only
        texts = {"user": "question", "assistant": mark}
        messages = [
            {"role": role, "content": [{"type": "text", "text": texts[role]}] if in_parts else texts[role]}
            for role in ("user", "assistant", "user")[: 2 if last else 3]
        ]
        try:
            text: Any = tokenizer_of(processor).apply_chat_template(
                messages, chat_template=template, tokenize=False, add_generation_prompt=False, **chat_template_kwargs
            )
        except (TemplateError, TypeError):
            continue
        if mark in text:
            return text.rpartition(mark)[2]
    return ""


def without_end(prompt: Prompt, answer: str, end: AnswerEnd) -> str:
    """The answer without the end that its data already write.

    Raises:
        UserError: naming the prompt, if the answer goes on behind such an end.
    """
    ends = [text for text in (end.text, *end.marks) if text]
    while written := next((text for text in ends if answer.rstrip().endswith(text)), None):
        answer = answer.rstrip().removesuffix(written)
    mark = next((mark for mark in end.marks if mark in answer), None)
    if mark is not None:
        raise UserError(
            f"Prompt {prompt.id!r}: its answer goes on behind {mark!r}, where the model stops; cut the answer there, "
            "or write that mark in another way."
        )
    return answer


def encode_answer(
    processor: Any, prompt: Prompt, answer: str, chat_template_kwargs: dict[str, Any]
) -> tuple[list[int], list[int]]:
    """Token ids of a prompt, its pictures left out, and of an answer that the policy has not written.

    The prompt's ids are those of a rollout, so they are the same for all answers to it. Prompt and answer are rendered
    and tokenised together, and the answer is what follows the prompt; if a token would span the end of the prompt, the
    two are tokenised separately, as in a rollout. An answer that the template would change (some drop its reasoning)
    is taken as it is.

    The answer ends as `answer_end` says, once, also where the data already write that end.

    Raises:
        UserError: as in `render` and `without_end`.
    """
    end = answer_end(processor, chat_template_kwargs)
    answer = without_end(prompt, answer, end)
    start = chat_text(processor, prompt, chat_template_kwargs)
    text = answer + end.text
    if _template(processor) is not None:
        rendered = answered_text(processor, prompt, answer, chat_template_kwargs)
        if rendered.startswith(start):
            text = _turn_of(rendered.removeprefix(start), answer, end) or text
    return _apart(processor, start, text)


def _turn_of(rendered: str, answer: str, end: AnswerEnd) -> str:
    """The answer with what a template writes before it, a speaker's name or an empty thought, and its end.

    Empty: the template has changed the answer.
    """
    if not end.written:
        head = rendered.rstrip().removesuffix(end.text.removesuffix("".join(end.marks))).rstrip()
        return head.removesuffix(answer.strip()) + answer + end.text if head.endswith(answer.strip()) else ""
    length = rendered.find(end.marks[0]) + len(end.marks[0])
    return rendered[:length] if answer.strip() in rendered[:length] and end.marks[0] in rendered else ""


def _apart(processor: Any, start: str, text: str) -> tuple[list[int], list[int]]:
    """Token ids of a prompt and of what follows it, tokenised together unless a token would span its end."""
    prompt_tokens, tokens = (_token_ids(processor, whole) for whole in (start, start + text))
    if tokens[: len(prompt_tokens)] == prompt_tokens:
        return prompt_tokens, tokens[len(prompt_tokens) :]
    return prompt_tokens, tokenizer_of(processor)(text, add_special_tokens=False).input_ids


def encode_text(
    processor: Any, prompt: Prompt, text: str, chat_template_kwargs: dict[str, Any], special: Iterable[str]
) -> tuple[list[int], list[int]]:
    """Token ids of a prompt, its pictures left out, and of a text that follows it and holds no special tokens.

    Both are tokenised together, unless a token would span the end of the prompt: the two are then tokenised separately.
    What looks like one of the ``special`` tokens is cut behind its first letter, so that it stays text.
    """
    start, tokenizer = chat_text(processor, prompt, chat_template_kwargs), tokenizer_of(processor)
    named = sorted((name for name in special if name in text), key=len, reverse=True)
    if not named:
        return _apart(processor, start, text)
    cuts = [0, *(match.start() + 1 for match in re.finditer("|".join(map(re.escape, named)), text)), len(text)]
    pieces = [text[begin:end] for begin, end in pairwise(cuts)]
    tokens = [token for piece in pieces for token in tokenizer(piece, add_special_tokens=False).input_ids]
    return _token_ids(processor, start), tokens


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
    template = _template(processor)
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
    template = _template(processor)
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
            "trained on conversations, or remove the column `images`."
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
        UserError: as in `render` and `without_end`.
    """
    text = without_end(prompt, text, answer_end(processor, chat_template_kwargs))
    seam = " " if prompt.messages[-1]["role"] == "assistant" else ""
    return _apart(processor, chat_text(processor, prompt, chat_template_kwargs), seam + text)
