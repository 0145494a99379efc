r"""Finding the boxed answers of mathematics, and answers that are declared without a box."""

import re
from dataclasses import dataclass

from lit_uniopd.rewards import choice_cues as cues
from lit_uniopd.rewards.choice_readers import is_denied, is_hypothetical
from lit_uniopd.rewards.expression import evaluate
from lit_uniopd.rewards.text import last_answer_tag, last_model_box, readable

_FENCE = re.compile(r"^[ \t]*(`{3,}+|~{3,}+)[^\n]*+\n.*?(?:^[ \t]*\1[ \t]*$|\Z)", re.DOTALL | re.MULTILINE)
_OPENING = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])")
_OPENING_BRACE = re.compile(r"\s*\{")
_BARE = re.compile(
    r"\s?(\d)(?![\d.,/^!\\A-Za-z{])|\s?([A-Za-z])(?![A-Za-z])|\s?(\\(?:pi|infty|emptyset|varnothing))(?![A-Za-z])"
)
r"""What TeX boxes without braces: one digit, letter or command; of ``\boxed 12`` it would box the 1."""
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_SPACE = r"(?:[\s$~]|\\(?:quad|qquad)(?![A-Za-z])|\\[,;:! ()\[\]])*+"
_AND = r"(?:and|or|und|oder|y|et|ou)"
_JOINS = re.compile(
    rf"{_SPACE}(?:,?\s*\b{_AND}\b|,?{_SPACE}\\(?:text|mbox|mathrm)\s*\{{\s*{_AND}\s*\}}|[,;、，&和或]){_SPACE}"
    rf"(?:[A-Za-z](?:_\{{?\w\}}?)?\s*=)?{_SPACE}",
    re.I,
)
"""What stands between the boxes of one list."""
_END = re.compile(r"\n|[.。](?=\s|$)|(?<=\$)\.|,\s+(?:which|since|because|so|as)\b|\s+(?:because|since|which)\b")

_NUMBER_ANNOUNCED = re.compile(r"(?:答案|结果)\s?(?:应该)?(?:是|为|[:：])|(?:答え|正解)\s?(?:は|[:：])")


@dataclass(frozen=True, slots=True)
class _Box:
    content: str | None
    """None: it is never closed."""
    start: int
    end: int


LONGEST_ANSWER = 300
"""Characters of an answer that are read."""


def final_gold(gold: str) -> str:
    """The answer of a written-out solution in GSM8K's form, behind its last ``####``; any other gold as it is."""
    final = gold.rpartition("####")[2].strip()
    return final if final and "\n" not in final and "\\boxed" not in gold else gold


def is_written_out(gold: str) -> bool:
    """Whether a gold answer is a whole solution that does not say where its answer stands: no response equals it."""
    final = final_gold(gold.strip())
    return "\\boxed" not in final and (len(final) > LONGEST_ANSWER or ("\n" in final and "\\begin" not in final))


def boxed_answer(text: str) -> str | None:
    r"""The final boxed answer of a response: its last box, and those that ``and``, ``or`` or a comma join to it.

    Boxes in fenced programs are no answers. The last box is the answer even if it is broken: an earlier one may be a
    draft.

    Returns:
        None without a box, or if the last one is never closed; several boxes are one list, ``3, 7``.
    """
    masked = _FENCE.sub(lambda match: " " * len(match[0]), text)
    boxes = _boxes(masked)
    if not boxes or boxes[-1].content is None:
        return None
    contents = [boxes[-1].content]
    for before, after in zip(boxes[-2::-1], boxes[:0:-1], strict=True):
        if (
            before.content is None
            or not before.content.strip()
            or not _JOINS.fullmatch(masked[before.end : after.start])
        ):
            break
        contents.append(before.content)
    distinct = list(dict.fromkeys(content.strip() for content in reversed(contents)))
    return ", ".join(distinct) if len(distinct) > 1 else contents[0]


def marked_answer(text: str, *, tags: bool) -> str | None:
    """The answer that stands in an answer tag (if they are read), in a model's own box, or in a box; None without."""
    tagged = last_answer_tag(text) if tags else None
    if tagged is None:
        tagged = last_model_box(text)
    if tagged is None:
        return boxed_answer(text)
    inner = boxed_answer(tagged)
    return tagged if inner is None else inner


def declared_answer(text: str) -> str | None:
    """The answer that a response without a box announces (``The final answer is 12.``), or is from end to end."""
    if len(text) <= 80 and "\n" not in text.strip() and evaluate(text) is not None:
        return text
    text = readable(text)
    announced = [*cues.ANNOUNCED.finditer(text), *_NUMBER_ANNOUNCED.finditer(text)]
    for cue in sorted(announced, key=lambda match: match.start(), reverse=True)[:100]:
        if is_hypothetical(text, cue.start()) or is_denied(text, cue.start()):
            continue
        behind = text[cue.end() : cue.end() + 300].lstrip(" \t\n:*=$")
        end = _END.search(behind)
        answer = (behind[: end.start()] if end else behind).strip(" *$")
        if answer and not cues.NEGATION.match(answer):
            return answer
    return None


def _boxes(text: str) -> list[_Box]:
    """All boxes, in order; one inside another is not listed twice."""
    boxes: list[_Box] = []
    closings = _closing_braces(text)
    for opening in _OPENING.finditer(text):
        if boxes and opening.start() < boxes[-1].end:
            if (
                boxes[-1].content is not None
                and boxes[-1].content.strip() == text[opening.start() : boxes[-1].end - 1].strip()
            ):
                boxes.pop()  # \boxed{\boxed{5}}
            else:
                continue
        brace = _OPENING_BRACE.match(text, opening.end())
        if brace is None:
            if bare := _BARE.match(text, opening.end()):
                boxes.append(_Box(bare[1] or bare[2] or bare[3], opening.start(), bare.end()))
            continue
        closing = closings.get(brace.end() - 1)
        if closing is None:
            boxes.append(_Box(None, opening.start(), brace.end()))
        else:
            boxes.append(_Box(text[brace.end() : closing], opening.start(), closing + 1))
    return boxes


def _closing_braces(text: str) -> dict[int, int]:
    """The place of each closed brace -> that of the brace that closes it."""
    closings: dict[int, int] = {}
    unclosed: list[int] = []
    for brace in _BRACE.finditer(text):
        if brace.group() == "{":
            unclosed.append(brace.start())
        elif brace.group() == "}" and unclosed:
            closings[unclosed.pop()] = brace.start()
    return closings
