"""The grader of multiple-choice questions: one letter, or a set of letters.

What a model writes is read in a fixed order, from the most to the least explicit: an answer tag or box, a letter alone,
a JSON field, a phrase that announces the answer, a letter at the start, a conclusion, the text of an option. If none
matches there is no answer, never a guess. A capital A or I inside prose is a word, not a letter.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from string import ascii_uppercase
from typing import Any

from lit_uniopd.grade import Grade
from lit_uniopd.rewards.grade import gold_text, unknown, verdict
from lit_uniopd.rewards.text import last_answer_tag, last_box, strip_thinking

DEFAULT_LETTERS = ascii_uppercase[:10]
"""Which letters may be answers if the options are not given."""

_MARKUP = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mathsf|mbox|left|right)\b|\\[()\[\]]|[*_`$\"'“”‘’]")
_BULLET = re.compile(r"^(?:[#>•]{1,6}|-(?=\s))\s*")
"""At the start of a line; a number's minus sign is not one."""
_BRACES = re.compile(r"[{}]")
_TRAILING = ".,;:!?。，；：！"
_ALONE = re.compile(r"[(\[<]?\s*([A-Za-z])\s*[)\]>]?")
_LEADING = re.compile(r"[(\[]?\s*([A-Z])\s*(?:[)\]][.:]?|[.:、])\s*\S")
_LIST = re.compile(r"[(\[]?[A-Za-z][)\]]?(?:\s*(?:,|;|/|&|、|和|\band\b|\s)\s*(?:and\s+)?[(\[]?[A-Za-z][)\]]?){1,9}")
_RUN = re.compile(r"[A-Z]{2,10}")
_JSON = re.compile(
    r"[\"'](?:final_?)?answer[\"']\s{0,4}:\s{0,4}(\[[^\]]{0,80}\]|\"[^\"]{0,300}\"|'[^']{0,300}'|[A-Za-z])", re.I
)
_CUE = re.compile(
    r"\b(?:answers?|(?:correct|right|best)\s+(?:option|choice|letter)s?)\b(?:\s+(?:to|for)\s+(?:this|the)\s+\w{1,20})?"
    r"[*_]{0,3}\s{0,4}(?:(?:is|are|was|would\s+be|must\s+be|should\s+be|has\s+to\s+be)\b(?!['’]t|n['’]t)|[:=]|→|->)"
    r"|\b(?:choose|select|pick|go\s+with|opt\s+for|going\s+with)\b"
    r"|答案\s{0,3}(?:应该)?(?:应?[是为选]|[:：])?|正确选项\s{0,3}[是为:：]?|(?:应|故|所以|因此)?选(?:择)?(?:项)?\s{0,2}[:：]?",
    re.I,
)
_VERDICT = re.compile(
    r"(?<![A-Za-z0-9])[(\[]?([A-Z])[)\]]?\s{1,3}is\s{1,3}(?:(?:clearly|definitely|indeed)\s{1,3})?(?:the\s{1,3})?"
    r"(?:correct|right|best|true|answer)\b"
)
_CUES = 500
"""Cues that are tried, from the last one back: hostile text is full of them."""
_CONCLUSION = re.compile(r"\b(?:so|therefore|thus|hence|option|choice|conclude(?:\s+that)?)\b|[∴→]|=>", re.I)
_REACH = 80
"""Characters behind a cue in which its letter must stand."""
_TOKEN = re.compile(
    r"(?<![A-Za-z0-9])(?:([A-Z]{1,6})|([a-z])(?=[)\]]|[.,;!]?\s*$)|(?<=[(\[])([a-z])(?=[)\]]))(?![A-Za-z0-9'’])"
)
_NEGATION = re.compile(r"\b(?:not|never|neither|nor|cannot|isn't|isnt|aren't|except)\b|n't\b|不是|不选|并非", re.I)
_CONTRAST = re.compile(r"\b(?:but|rather|instead)\b|而是", re.I)
_SENTENCE_END = re.compile(r"[.!?。]\s|\n")
_MORE = re.compile(
    r"[)\]]?\s{0,3}(,|;|&|、|和|\band\b|\bor\b|/|或)\s{0,3}(?:and\s+|or\s+)?(?:option\s+)?[(\[]?([A-Z])(?![A-Za-z0-9'’])",
    re.I,
)
_HEDGES = frozenset({"or", "/", "或"})
_AFTER_LETTER = re.compile(
    r"\s+(?:because|since|as|is|for|which|with|and|or|but|due|given|based|in|from|that|if|by|would|will)\b", re.I
)
_ITEM = re.compile(r"[ \t>*-]{0,6}[(\[]?([A-Z])[)\].:][ \t]*\S", re.M)
_WORDS = re.compile(r"[^\w.%+-]+")


def grade_choice(
    gold: Any,
    prediction: str,
    row: Mapping[str, Any] | None = None,
    *,
    choices: Mapping[str, str] | Sequence[str] | None = None,
) -> Grade:
    """Compare the chosen letters with the gold ones, as sets.

    Args:
        gold: A letter (``B``, ``b``, ``(B)``), several (``A, C``, ``AC``, ``["A", "C"]``), or the text of an option.
        prediction: The response. An unclosed thinking block is reason ``truncated``; nothing that can be read as a
            choice is reason ``no_answer``; both are wrong.
        row: Not used.
        choices: Letter -> text of the options, or their texts in order. Letters beyond them are no answers.

    Returns:
        A grade whose ``extracted`` holds the letters in alphabetical order: ``B`` or ``AC``.

    Raises:
        ValueError: if the gold answer is neither letters nor an option.
    """
    options = _options(choices)
    letters = "".join(options) if options else DEFAULT_LETTERS
    expected = _gold_letters(gold, options, letters)
    if expected is None:
        return unknown("no_gold")
    visible = strip_thinking(prediction)
    if visible is None:
        return Grade(False, 0.0, reason="truncated")
    chosen = chosen_letters(visible, letters, options)
    return verdict(chosen == expected, chosen) if chosen else Grade(False, 0.0, reason="no_answer")


def chosen_letters(response: str, letters: str, options: Mapping[str, str] | None = None) -> str | None:
    """The letters that a response chooses, in alphabetical order.

    Args:
        response: Without thinking.
        letters: Those that may be chosen.
        options: Letter -> text.

    Returns:
        None if it chooses nothing, or hedges.
    """
    text = unicodedata.normalize("NFKC", response)
    options = options or {}
    for piece in (last_answer_tag(text), last_box(text)):
        if piece is not None and piece.strip():
            chosen = _read(piece, letters, options)
            if chosen is not None:
                return chosen or None
    return _read(text, letters, options) or None


def _read(text: str, letters: str, options: Mapping[str, str]) -> str | None:
    """Letters; ``""`` for a hedge, which ends the search; None for nothing."""
    readers = (_alone, _json_field, _cued, _at_start, _concluded, _by_content)
    for reader in readers:
        chosen = reader(text, letters, options)
        if chosen is not None:
            return chosen
    return None


# --- the readers, from the most to the least explicit ----------------------------------------------------------------


def _alone(text: str, letters: str, options: Mapping[str, str]) -> str | None:
    """The whole text is letters, with or without brackets, markup, full stop or the option's text behind."""
    if len(text) > 2000:
        return None
    plain = _plain(text)
    if match := _ALONE.fullmatch(plain):
        return _if_allowed(match[1].upper(), letters)
    if _RUN.fullmatch(plain) and len(set(plain)) == len(plain):
        return _if_allowed(plain, letters)
    if _LIST.fullmatch(plain) and (listed := re.findall(r"(?<![A-Za-z])[A-Za-z](?![A-Za-z])", plain)):
        # One letter stands for a word in "a b"; lists are of capitals, or have brackets or commas.
        if "/" in plain:
            return ""
        if all(letter.isupper() for letter in listed) or re.search(r"[,;()&]", plain):
            return _if_allowed("".join(listed).upper(), letters)
    if re.fullmatch(r"[(\[]?[A-Za-z][)\]]?\s+or\s+[(\[]?[A-Za-z][)\]]?", plain):
        return ""
    same = [letter for letter, option in options.items() if _words(option) == _words(plain) != ""]
    if len(same) == 1:
        return same[0]
    if "\n" not in plain and (match := _LEADING.match(plain)) and not _lists_options(text):
        text_behind = _words(plain[match.end() - 1 :])
        matching_letters = [letter for letter, option in options.items() if _words(option) == text_behind != ""]
        if match[1] in letters and (not matching_letters or match[1] in matching_letters):
            return match[1]
    return None


def _json_field(text: str, letters: str, options: Mapping[str, str]) -> str | None:
    value = None
    for match in _JSON.finditer(text):
        value = match[1]
    return None if value is None else _alone(value.strip("[]\"'").replace('"', ""), letters, options)


def _cued(text: str, letters: str, options: Mapping[str, str]) -> str | None:
    """The first letter behind the last cue that has one, or the last letter that is called the answer."""
    cue_start, chosen = -1, None
    for cue in reversed(list(_CUE.finditer(text))[-_CUES:]):
        candidate = _letters_after(text, cue.end(), letters)
        if candidate is None and options:
            candidate = _option_behind(text, cue.end(), options)
        if candidate is not None and not _denied(text, cue.start()):
            cue_start, chosen = cue.start(), candidate
            break
    for called in reversed(list(_VERDICT.finditer(_MARKUP.sub("", text) if len(text) < 4000 else text))[-_CUES:]):
        if called[1] in letters and called.start() > cue_start:
            return called[1]
    return chosen


def _at_start(text: str, letters: str, options: Mapping[str, str]) -> str | None:
    """A lone capital followed by a separator or the end of its line; not the first item of a list."""
    start = _MARKUP.sub("", text[:200]).lstrip()
    match = re.match(r"[(\[]?([A-Z])(?:[)\]][.:,]?(?=\s|$)|[.:,](?=\s|$)|\s*(?=\n)|\s+[-–—]\s|\s*$)", start)
    if match is None or match[1] not in letters or _lists_options(text):
        return None
    return match[1]


def _concluded(text: str, letters: str, options: Mapping[str, str]) -> str | None:
    lines = [line for line in text[-4000:].splitlines() if line.strip()]
    if len(lines) > 1 and (last := _plain(lines[-1])) and _ALONE.fullmatch(last) and last.strip("()[]").isupper():
        return _if_allowed(last.strip("()[] "), letters)
    chosen = None
    for cue in list(_CONCLUSION.finditer(text))[-_CUES:]:
        following = _MARKUP.sub("", text[cue.end() : cue.end() + 40])
        match = re.match(
            r"[\s,:]{0,3}(?:it'?s\s+|it\s+is\s+|option\s+|choice\s+)?[(\[]?([A-Z])[)\]]?(?=[\s.,;:!)\]]|$)", following
        )
        if match is None or match[1] not in letters or _is_word(following, match.end(1), match[1]):
            continue
        if not _denied(text, cue.start()):
            chosen = match[1]
    return chosen


def _by_content(text: str, letters: str, options: Mapping[str, str]) -> str | None:
    """The longest option that the response names, if it names no other."""
    response_words = f" {_words(text)} "
    mentioned = {
        letter: words
        for letter, option in options.items()
        if (words := _words(option)) and f" {words} " in response_words and f" not {words} " not in response_words
    }
    longest = [
        letter
        for letter, words in mentioned.items()
        if not any(words != other and f" {words} " in f" {other} " for other in mentioned.values())
    ]
    if len(longest) != 1:
        return None
    # What is part of a longer option must not be named a second time, on its own.
    remainder = response_words.replace(f" {mentioned[longest[0]]} ", "  ")
    del mentioned[longest[0]]
    return None if any(f" {words} " in remainder for words in mentioned.values()) else longest[0]


# --- helpers ---------------------------------------------------------------------------------------------------------


def _letters_after(text: str, start: int, letters: str) -> str | None:
    """The letters behind a position, within reach and the sentence; ``""`` for a hedge."""
    reach = text[start : start + _REACH]
    window = _MARKUP.sub(" ", _BRACES.sub(" ", reach.replace("boxed", " ")))
    if end := _SENTENCE_END.search(window.rstrip() if window.strip() else window, 3):
        window = window[: end.end()]
    checked = 0
    for token in _TOKEN.finditer(window):
        candidate = token[1] or token[2] or token[3]
        between = window[checked : token.start()]
        checked = token.end()
        if not set(candidate.upper()) <= set(letters) or len(set(candidate)) != len(candidate):
            continue
        if len(candidate) == 1 and token[1] and _is_word(window, token.end(), candidate):
            continue
        if _negated(between):
            continue
        if candidate.islower() and between.strip(" :(["):
            continue  # prose; a lower-case letter is a choice only right behind the cue
        return _enumeration(window, token.end(), candidate.upper(), letters)
    return None


def _option_behind(text: str, start: int, options: Mapping[str, str]) -> str | None:
    """The option whose text follows a cue."""
    end = text.find("\n", start)
    following_words = _words(text[start : end if end >= 0 else start + 300][:300])
    matching_letters = [
        letter
        for letter, option in options.items()
        if (words := _words(option)) and f"{following_words} ".startswith(f"{words} ")
    ]
    return max(matching_letters, key=lambda letter: len(options[letter])) if matching_letters else None


def _enumeration(window: str, end: int, first: str, letters: str) -> str:
    """The letters of an enumeration that begins with ``first``; ``""`` if they are alternatives."""
    chosen = first
    while (more := _MORE.match(window, end)) and more[2].isupper() and more[2] in letters:
        if more[1].lower() in _HEDGES:
            return ""
        if _is_word(window, more.end(), more[2]):
            break
        chosen += more[2]
        end = more.end()
    return "".join(sorted(set(chosen)))


def _denied(text: str, start: int) -> bool:
    """Whether the same sentence negates a cue: "I don't think the answer is B"."""
    before = re.split(r"[.!?。\n]", text[max(0, start - 24) : start])[-1]
    return _NEGATION.search(before) is not None


def _negated(between: str) -> bool:
    last = None
    for last in _NEGATION.finditer(between):  # noqa: B007  # the last one
        pass
    return last is not None and not _CONTRAST.search(between, last.end())


def _is_word(text: str, end: int, letter: str) -> bool:
    """Whether a capital A or I is the article or the pronoun: what follows does not explain a choice."""
    if letter not in "AI":
        return False
    behind = text[end : end + 20]
    return bool(re.match(r"\s+[A-Za-z]", behind)) and not _AFTER_LETTER.match(behind)


def _lists_options(text: str) -> bool:
    """Whether the text begins by repeating the options."""
    first = [match[1] for match, _ in zip(_items(text), range(3), strict=False)]
    return first[:2] == ["A", "B"]


def _items(text: str) -> Iterator[re.Match[str]]:
    return _ITEM.finditer(text[:4000])


def _plain(text: str) -> str:
    plain = _BULLET.sub("", _BRACES.sub("", _MARKUP.sub("", text)).strip())
    return plain.strip(_TRAILING).strip()


def _words(text: str) -> str:
    return _WORDS.sub(" ", unicodedata.normalize("NFKC", _plain(text)).lower()).strip(" .")


def _if_allowed(chosen: str, letters: str) -> str | None:
    """The chosen letters in alphabetical order; None if one of them may not be chosen."""
    return "".join(sorted(set(chosen))) if set(chosen) <= set(letters) else None


def _options(choices: Mapping[str, str] | Sequence[str] | None) -> dict[str, str]:
    if not choices:
        return {}
    if isinstance(choices, Mapping):
        return {str(letter).strip().upper(): str(text) for letter, text in choices.items()}
    return {letter: str(text) for letter, text in zip(ascii_uppercase, choices, strict=False)}


def _gold_letters(gold: Any, options: Mapping[str, str], letters: str) -> str | None:
    if isinstance(gold, list | tuple | set | frozenset):
        gold = ", ".join(sorted(str(letter).strip() for letter in gold))
    expected = gold_text(gold)
    if expected is None:
        return None
    same = [letter for letter, option in options.items() if option.strip() == expected.strip()]
    text = unicodedata.normalize("NFKC", expected)
    gold_letters = _alone(text, letters, {}) or (
        _if_allowed(text.strip().upper(), letters) if text.strip().isalpha() else None
    )
    if gold_letters:
        return gold_letters
    if len(same) == 1:
        return same[0]
    raise ValueError(f"the gold answer {expected[:40]!r} is neither a letter of {letters} nor the text of an option")
