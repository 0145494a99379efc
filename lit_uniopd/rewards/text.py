"""Finding the final answer in a response, and the grader that compares it as text."""

import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from lit_uniopd.grade import Grade
from lit_uniopd.rewards.grade import check_extraction, gold_text, unknown, verdict
from lit_uniopd.rewards.notation import without_emphasis

_THINK_TAG = re.compile(r"</?think>")
_REASONING_TAG = re.compile(r"<(/?)(thinking|reasoning|reflection|analysis|scratchpad|thought)>", re.IGNORECASE)
_MODEL_BOX = re.compile(r"<\|(begin|end)_of_box\|>|<(/?)(?:conclusion|final_answer|final|ans)>", re.IGNORECASE)
"""Of GLM-V, LLaVA-CoT and prompts of judges."""
_JUDGED = re.compile(r"\[\[([A-Za-z])\]\]")
_BOX = re.compile(
    r"<\|begin_of_box\|>(.*?)<\|end_of_box\|>|<(conclusion|final_answer|final|ans)>(.*?)</\2>|\[\[([A-Za-z])\]\]",
    re.DOTALL | re.IGNORECASE,
)
"""Of GLM-V, LLaVA-CoT and prompts of judges."""
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_ANSWER_TAG = re.compile(r"<(/?)answer>", re.IGNORECASE)
_QUOTES = "\"'“”‘’«»「」"
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # an escaped brace is skipped as one unit: it opens nothing


def strip_thinking(response: str) -> str | None:
    """The response without its ``<think>...</think>`` blocks.

    A closing tag that nothing opened ends a block that the prompt's template had opened: all before it is thinking.

    Returns:
        None if the last block is not closed: the response was cut before its answer.
    """
    visible: list[str] = []
    start, thinking = 0, False
    for tag in _THINK_TAG.finditer(response):
        opens = tag.group() == "<think>"
        if opens and not thinking:
            visible.append(response[start : tag.start()])
        elif not opens:
            visible = visible if thinking else []
            start = tag.end()
        thinking = opens
    return None if thinking else "".join([*visible, response[start:]])


def strip_reasoning(response: str) -> str | None:
    """A response without thinking, and the blocks that models make up for it (``<thinking>``, ``<reflection>``).

    Returns:
        None if thinking or the last block is not closed, and the response ends inside it.
    """
    visible = strip_thinking(response)
    if visible is None:
        return None
    pieces: list[str] = []
    start, name = 0, None
    for tag in _REASONING_TAG.finditer(visible):
        if not tag[1] and name is None:
            pieces.append(visible[start : tag.start()])
            name = tag[2].lower()
        elif tag[1] and name == tag[2].lower():
            start, name = tag.end(), None
    return None if name is not None else "".join([*pieces, visible[start:]])


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
    """The response without thinking and the blanks around it; one without thinking stays unchanged.

    Returns:
        None if thinking is not closed.
    """
    visible = strip_thinking(response)
    return visible if visible is None or visible == response else visible.strip()


def grade_exact(
    gold: Any,
    prediction: str,
    row: Mapping[str, Any] | None = None,
    *,
    extraction: Literal["protocol", "robust"] = "robust",
    ignore_case: bool = False,
) -> Grade:
    """Equality of texts, after normalisation.

    Args:
        gold: Text or a number.
        prediction: The response; thinking and outer blanks never count.
        row: Not used.
        extraction: ``protocol``: the whole response is the gold answer, letter by letter. ``robust``: the last answer
            tag, else the last box, else the whole response is, after repeated blanks, quotes and markdown around it,
            one final full stop and the width of signs (``Ａ`` is ``A``) are taken off both sides.
        ignore_case: capital and small letters are the same.

    Raises:
        ValueError: for another ``extraction``.
    """
    check_extraction(extraction)
    expected = gold_text(gold)
    if expected is None:
        return unknown("no_gold")
    answer = strip_reasoning(prediction) if extraction == "robust" else strip_thinking(prediction)
    if answer is None:
        return Grade(False, 0.0, reason="truncated")
    answer, expected = answer.strip(), expected.strip()
    if extraction == "robust" and answer != expected:
        marked = last_answer_tag(answer)
        marked = last_box(answer) if marked is None else marked
        answer, expected = normalised_text(answer if marked is None else marked), normalised_text(expected)
    if not answer:
        return Grade(False, 0.0, reason="no_answer")
    equal = answer.casefold() == expected.casefold() if ignore_case else answer == expected
    return verdict(equal, answer)


def normalised_text(text: str) -> str:
    """A text without what surrounds it: blanks, quotes, markdown, one final full stop; NFKC signs, single blanks."""
    text = unicodedata.normalize("NFKC", text)
    for _ in range(3):
        text = without_emphasis(text).strip().strip(_QUOTES)
        text = text.strip() if text.endswith("..") else re.sub(r"\s*[.。।۔]$", "", text.strip())
    return " ".join(text.split())
