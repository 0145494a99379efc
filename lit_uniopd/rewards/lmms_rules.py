r"""Where lmms-eval 0.7.3 looks for an answer, task by task: rules that published scores count by, with their quirks.

They are not what a reader would do: `reasoning_letter` takes the A of ``A circle`` for a choice, `visulogic_letter`
reads ``Dog`` as D, and `reasoning_answer` takes the first answer tag where models correct themselves in a second one.
For rewards, and for scores that are compared with nobody's, `lit_uniopd.rewards.choice` has readers of its own.

``tests/rewards/test_lmms_agreement.py`` compares each with lmms-eval's own function, answer by answer.
"""

import re
import string
from collections.abc import Mapping, Sequence

_REASONING_TAGS = ("think", "analysis")
_ANSWER_TAG, _END_OF_ANSWER = "<answer>", "</answer>"
_BOX = re.compile(r"\\boxed(?=\{)")
_BRACES = re.compile(r"[{}]")
_NUMBER_AT_END = re.compile(r"\b(\d+(?:\.\d+)?)\s*+\.?\s*+$")

_LETTERS = "ABCDEFGH"
_NUMBERED = {letter: (f"{number}. {letter}",) for number, letter in enumerate(_LETTERS, start=1)}
_ANNOUNCED = re.compile(
    r"(?:the )?(?:correct |best )?answer|(?:the )?(?:correct )?(?:option|choice) is|i (?:choose|select|pick)"
)
_FORMS = tuple(
    {letter: tuple(form.format(letter) for form in forms) for letter in _LETTERS}
    for forms in (("({})",), ("{}.",), ("{}:",), ("{})",), ("{} ",), ("{}-", "{}_", "{}="), ("{}",))
)
"""How each letter may stand in a text; the first form that any letter has decides."""

_VISULOGIC = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"<answer>\s*\(?([A-D])\)?\s*</answer>",
        r"\\boxed{\s*([A-D])\s*}",
        r"answer\s*(?:is|[:-])\s*\(?([A-D])\b",
        r"option\s*([A-D])\b",
        r"\(([A-D])\)",
    )
)
_AI2D = re.compile(r"\s*([A-Z])\.")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def without_reasoning(response: str) -> str:
    """A response without ``<think>`` and ``<analysis>`` blocks and outer blanks, which lmms-eval takes off by default.

    A closing tag that nothing opens ends a block that the chat template opened. A block that is never closed stays.

    Example:
        >>> without_reasoning("<think>A or B?</think> B"), without_reasoning("A?</think> B")
        ('B', 'B')
    """
    for tag in _REASONING_TAGS:
        response = _without_blocks(response, f"<{tag}>", f"</{tag}>")
    return response.strip()


def _without_blocks(text: str, opening: str, closing: str) -> str:
    kept: list[str] = []
    behind = 0
    while (start := text.find(opening, behind)) >= 0 and (end := text.find(closing, start)) >= 0:
        kept.append(text[behind:start])
        behind = end + len(closing)
    text = "".join([*kept, text[behind:]])
    return text if opening in text else text.rpartition(closing)[2]


def reasoning_answer(response: str) -> str:
    r"""The answer of the reasoning tasks: the first answer tag, else the last box, else a number that ends a line.

    Args:
        response: Without reasoning.

    Returns:
        ``""`` without one. Of several lines that end with a number, the last one's; its sign is lost.

    Example:
        >>> reasoning_answer(r"<answer>B</answer> \boxed{C}"), reasoning_answer(r"\boxed{\frac{1}{2}}")
        ('B', '\\frac{1}{2}')
        >>> reasoning_answer("So x = -12.5.\nThat is all.")
        '12.5'
    """
    start = response.find(_ANSWER_TAG)
    end = response.find(_END_OF_ANSWER, start)
    if 0 <= start < end:
        answer = response[start + len(_ANSWER_TAG) : end]
    else:
        answer = _last_closed_box(response) or _last_number(response)
    return answer.strip().removesuffix(".").strip()


def _last_closed_box(text: str) -> str:
    """What the last box holds that is closed, one inside another included; escaped braces count too."""
    closings: dict[int, int] = {}
    unclosed: list[int] = []
    for brace in _BRACES.finditer(text):
        if brace.group() == "{":
            unclosed.append(brace.start())
        elif unclosed:
            closings[unclosed.pop()] = brace.start()
    openings = [box.end() for box in _BOX.finditer(text) if box.end() in closings]
    return text[openings[-1] + 1 : closings[openings[-1]]] if openings else ""


def _last_number(text: str) -> str:
    numbers = (_NUMBER_AT_END.search(line) for line in reversed(text.strip().split("\n")))
    return next((number[1] for number in numbers if number), "")


def reasoning_letter(answer: str) -> str:
    """The letter from A to H that the reasoning tasks read in an answer or in a gold answer; ``""`` for none.

    The first of these that there is: the answer's first character, its last one, ``1. A`` (its own number before a
    letter), the first capital from A to H behind an announcement (``the answer``, ``I choose``), then a letter as
    ``(A)``, ``A.``, ``A:``, ``A)``, before a blank, before ``-``, ``_`` or ``=``, and anywhere. Where several letters
    have the same form, the one that is over first is taken.

    Example:
        >>> reasoning_letter("(B) 12 cm"), reasoning_letter("It is C"), reasoning_letter("Both"), reasoning_letter("12")
        ('B', 'C', 'B', '')
    """
    answer = answer.strip()
    for sign in ",.!?;:'\"":
        answer = answer.strip(sign)
    bare = answer.strip()
    for end in (bare[:1], bare[-1:]):
        if end and end in _LETTERS:
            return end
    framed = f" {answer} "
    if numbered := _earliest(framed, _NUMBERED):
        return numbered
    if (cue := _ANNOUNCED.search(framed.lower())) is not None:
        places = {letter: framed.find(letter, cue.start()) for letter in _LETTERS}
        if found := [letter for letter, place in places.items() if place >= 0]:
            return min(found, key=places.__getitem__)
    return next((letter for forms in _FORMS if (letter := _earliest(framed, forms))), "")


def _earliest(text: str, forms: Mapping[str, Sequence[str]]) -> str:
    """The letter whose form occurs for the last time before any other letter's does; ``""`` for none."""
    places = [(place, letter) for letter in forms for form in forms[letter] if (place := text.rfind(form)) >= 0]
    return min(places)[1] if places else ""


def visulogic_letter(response: str) -> str:
    r"""The letter of VisuLogic: the last match of the first pattern that matches, in either case; ``""`` for none.

    The patterns are a tag, a box, ``answer is``, ``option`` and brackets around it; of at most three characters, the
    first one counts.

    Args:
        response: Without reasoning.

    Example:
        >>> visulogic_letter("(A) or (C)? The answer is: c"), visulogic_letter("b."), visulogic_letter("It is B")
        ('C', 'B', '')
    """
    response = response.strip()
    for pattern in _VISULOGIC:
        if letters := pattern.findall(response):
            return letters[-1].upper()
    first = response[:1].upper() if len(response) <= 3 else ""
    return first if first and first in "ABCD" else ""


def ai2d_answer(response: str) -> str:
    """The answer of AI2D: a capital letter with a full stop in front, else all of the response without reasoning.

    The letter is looked for before reasoning is taken off, so that none is found behind it.

    Example:
        >>> ai2d_answer(" B. rabbit"), ai2d_answer("B rabbit"), ai2d_answer("<think>?</think>B. rabbit")
        ('B', 'B rabbit', 'B. rabbit')
    """
    letter = _AI2D.match(response)
    return letter[1] if letter else without_reasoning(response)


def equal_but_for_punctuation(expected: str, answer: str) -> bool:
    """Whether two texts have the same letters, in either case, without ASCII's punctuation.

    Example:
        >>> equal_but_for_punctuation("B", "(b)"), equal_but_for_punctuation("B", "B rabbit")
        (True, False)
    """
    first, second = (text.strip().lower().translate(_WITHOUT_PUNCTUATION) for text in (expected, answer))
    return first == second
