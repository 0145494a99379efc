"""Taking the reasoning off a response, and finding what it marks as its answer."""

import re
from collections.abc import Iterator

from lit_uniopd.rewards.lmms_rules import without_reasoning

_THINK_TAG = re.compile(r"(?P<opening><think>)|</think>")
_MODEL_TAG = re.compile(
    r"(?P<opening><think>|◁think▷|\[THINK\]|<seed:think>|<\|channel>thought\b)"
    r"|</think>|◁/think▷|\[/THINK\]|</seed:think>|<channel\|>"
)
"""Around thinking, of Qwen and DeepSeek, Kimi, Magistral, Seed and Gemma."""
_CHANNEL = re.compile(r"<\|channel\|>\s{0,9}(\w{1,20})[^<]{0,99}<\|message\|>")
_CHANNEL_END = re.compile(r"<\|(?:end|return|call|start|channel)\|>")
"""Of GPT-OSS. Decoded without special tokens, they read ``analysis...assistantfinal...``."""
_BARE_ANALYSIS = re.compile(r"\s*analysis(?=[A-Z])")
_BARE_FINAL = "assistantfinal"
_REASONING_TAG = re.compile(r"<(/?)(thinking|reasoning|reflection|analysis|scratchpad|thought)>", re.IGNORECASE)
_LINE_BLANKS = re.compile(r"(?:^|\n)[ \t]{0,40}\Z")
_MODEL_BOX = re.compile(r"<\|(begin|end)_of_box\|>|<(/?)(?:conclusion|final_answer|final|ans)>", re.IGNORECASE)
"""Of GLM-V, LLaVA-CoT and prompts of judges."""
_JUDGED = re.compile(r"\[\[([A-Za-z])\]\]")
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_ANSWER_TAG = re.compile(r"<(/?)answer>", re.IGNORECASE)
_BLANKS = re.compile(r"[^\S\n]{3,}")
_BLANK_LINES = re.compile(r"\n\s*\n")
_FIRST_CHARACTERS, _LAST_CHARACTERS = 20_000, 80_000
"""How much of its two ends is read of a longer response: what it announces, and what it concludes."""
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # an escaped brace is skipped as one unit: it opens nothing


def strip_thinking(response: str) -> str | None:
    """The response without its ``<think>...</think>`` blocks.

    A closing tag that nothing opened ends a block that the prompt's template had opened: all before it is thinking.

    Returns:
        None if the last block is not closed: the response was cut before its answer.
    """
    return _without_thinking(response, _THINK_TAG)


def strip_reasoning(response: str, *, inline: bool = True) -> str | None:
    """A response without the thinking of any family of models, and without the blocks that models make up for it.

    Besides ``<think>`` these are ``[THINK]``, ``◁think▷``, ``<seed:think>``, Gemma's and GPT-OSS's channels, of which
    only the final one is the answer, and ``<thinking>``, ``<reflection>`` and the like.

    Args:
        response: What a model wrote.
        inline: Made-up tags count inside a line too; if not, an opening one begins a line, as programs and their texts
            may hold such tags.

    Returns:
        None if thinking or the last block is not closed, and the response ends inside it.
    """
    final = _final_channel(response)
    visible = None if final is None else _without_thinking(final, _MODEL_TAG)
    if visible is None:
        return None
    pieces: list[str] = []
    start, name = 0, None
    for tag in _REASONING_TAG.finditer(visible):
        if not tag[1] and name is None:
            if not inline and not _LINE_BLANKS.search(visible, max(0, tag.start() - 41), tag.start()):
                continue
            pieces.append(visible[start : tag.start()])
            name = tag[2].lower()
        elif tag[1] and name == tag[2].lower():
            start, name = tag.end(), None
    return None if name is not None else "".join([*pieces, visible[start:]])


def _without_thinking(response: str, tags: re.Pattern[str]) -> str | None:
    visible: list[str] = []
    start, thinking = 0, False
    for tag in tags.finditer(response):
        opens = tag["opening"] is not None
        if opens and not thinking:
            visible.append(response[start : tag.start()])
        elif not opens:
            visible = visible if thinking else []
            start = tag.end()
        thinking = opens
    return None if thinking else "".join([*visible, response[start:]])


def _final_channel(response: str) -> str | None:
    """What stands in the final channels of GPT-OSS; a response without channels stays; None if it never gets there."""
    channels = list(_CHANNEL.finditer(response))
    if channels:
        finals = [channel for channel in channels if channel[1] == "final"]
        ends = [_CHANNEL_END.search(response, channel.end()) for channel in finals]
        contents = [
            response[channel.end() : end.start() if end else len(response)]
            for channel, end in zip(finals, ends, strict=True)
        ]
        return "".join(contents) if finals else None
    if _BARE_ANALYSIS.match(response) is None:
        return response
    _, marker, final = response.rpartition(_BARE_FINAL)
    return final if marker else None


def last_model_box(text: str) -> str | None:
    """What the last box of a model's own markup holds (``<|begin_of_box|>B<|end_of_box|>``, ``[[B]]``).

    Returns:
        None without one that is closed.
    """
    content: str | None = None
    start: int | None = None
    for tag in _MODEL_BOX.finditer(text):
        if tag[1] == "begin" or (tag[1] is None and not tag[2]):
            start = tag.end()
        elif start is not None:
            content, start = text[start : tag.start()], None
    if content is None and (letters := _JUDGED.findall(text)):
        return letters[-1]
    return content


def last_box(text: str) -> str | None:
    r"""What the last ``\boxed{...}`` or ``\fbox{...}`` holds.

    The last box is the answer even if it is broken: an earlier one may be a draft.

    Returns:
        None without a box, or if the last one is never closed.
    """
    boxes = list(_BOX.finditer(text))
    if not boxes:
        return None
    start, depth = boxes[-1].end(), 1
    for brace in _BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(brace.group(), 0)
        if depth == 0:
            return text[start : brace.start()]
    return None


def readable(text: str) -> str:
    """A response for readers of prose: runs of blanks are cut short, and of a very long one the two ends are left.

    So no phrase that they look for can meet a megabyte of blanks, and hostile answers cost milliseconds. Nobody answers
    in prose of 100,000 characters behind the thinking.
    """
    if len(text) > _FIRST_CHARACTERS + _LAST_CHARACTERS:
        text = f"{text[:_FIRST_CHARACTERS]}\n{text[-_LAST_CHARACTERS:]}"
    return _BLANK_LINES.sub("\n\n", _BLANKS.sub("  ", text))


def last_answer_tag(text: str) -> str | None:
    """What the last ``<answer>...</answer>`` holds.

    Returns:
        None without a tag. If no tag is ever closed, all text after the last one: generation may stop at the closing
        tag and drop it.
    """
    closed: str | None = None
    start: int | None = None
    for tag in _ANSWER_TAG.finditer(text):
        if not tag.group(1):
            start = tag.end()
        elif start is not None:
            closed, start = text[start : tag.start()], None
    return text[start:] if closed is None and start is not None else closed


def marked_answers(text: str) -> Iterator[str]:
    """What a response marks as its answer and is not blank: in an answer tag, in a model's own box, in a box."""
    for piece in (last_answer_tag(text), last_model_box(text), last_box(text)):
        if piece is not None and piece.strip():
            yield piece


def visible_answer(response: str) -> str | None:
    """The response without thinking and outer blanks, as lmms-eval hands it to the rules of its tasks.

    Returns:
        None if thinking is not closed.
    """
    return None if strip_thinking(response) is None else without_reasoning(response)
