"""How a response says which option it chooses.

What a model writes is read in a fixed order, from the most to the least explicit: a letter alone, a JSON field, a
phrase that announces the answer, a letter at the start, a conclusion, the text of an option. If none matches there is
no answer, never a guess. No letter is favoured: a capital A or I inside prose is a word, not a letter, and that is the
only rule that knows a letter by name.
"""

import re
from collections.abc import Mapping

from lit_uniopd.rewards import choice_cues as cues
from lit_uniopd.rewards.choice_options import (
    BRACES,
    MARKUP,
    option_at_start,
    option_mentioned,
    options_equal_to,
    plain,
    same_option,
)

_NAME = (
    r"(?:(?:the\s+)?(?:correct\s+|final\s+|right\s+|best\s+)?"
    r"(?:option|choice|answer|letter|opción|opção|antwort|respuesta|réponse|选项|答案)\s*(?:is|[:：])?\s*)"
)
_ALONE = re.compile(rf"{_NAME}?[(\[<]{{0,2}}\s*([A-Za-z])\s*[)\]>]{{0,2}}(?:\s?(?:选项|项|option))?", re.I)
_LEADING = re.compile(rf"{_NAME}?[(\[]?\s*([A-Z])\s*(?:[)\]][.:]?|[.:、])\s*\S")
_LIST = re.compile(r"[(\[]?[A-Za-z][)\]]?(?:\s*(?:,|;|/|&|、|和|\band\b|\s)\s*(?:and\s+)?[(\[]?[A-Za-z][)\]]?){1,9}")
_EITHER = re.compile(r"[(\[]?[A-Za-z][)\]]?\s+or\s+[(\[]?[A-Za-z][)\]]?")
_RUN = re.compile(r"[A-Z]{2,10}")
_JSON = re.compile(
    r"[\"'](?:final|short|correct|selected|chosen|best|my)?[_ ]?"
    r"(?:answer|choice|option|letter|selection|prediction|答案|respuesta|antwort)"
    r"[\"']\s{0,4}:\s{0,4}(\[[^\]]{0,80}\]|\"[^\"]{0,300}\"|'[^']{0,300}'|[A-Za-z])",
    re.I,
)
_CUES = 500
"""Cues that are tried, from the last one back: hostile text is full of them."""
_REACH = 80
"""Characters behind a cue in which its letter must stand."""
_TOKEN = re.compile(
    r"(?<![A-Za-z0-9])(?:([A-Z]{1,6})|([a-z])(?=[)\]]|[.,;!]?\s*$)|(?<=[(\[])([a-z])(?=[)\]]))(?![A-Za-z0-9'’])"
)
_MORE = re.compile(
    r"[)\]]?\s{0,3}(,|;|&|、|和|\band\b|\bor\b|\bund\b|\boder\b|/|或)\s{0,3}(?:and\s+|or\s+)?(?:option\s+)?"
    r"[(\[]?([A-Z])(?![A-Za-z0-9'’])",
    re.I,
)
_HEDGES = frozenset({"or", "/", "或", "oder"})
_ITEM = re.compile(r"[ \t>*-]{0,6}[(\[]?([A-Z])[)\].:][ \t]*\S", re.M)
_NEXT_ITEM = re.compile(r"[)\].:][^\n]{0,200}\n[ \t>*-]{0,6}[(\[]?B[)\].:]")
_START = re.compile(
    r"[(\[]{0,2}([A-Z])(?:[)\]]{1,2}[.:,]?(?=\s|$)|[.:,;。，](?=\s|$|[^\W\d_])|\s*(?=\n)|\s+[-–—]\s|\s*$)"
)
_BEHIND_CONCLUSION = re.compile(
    r"[\s,:]{0,3}(?:it'?s\s+|it\s+is\s+|it\s+must\s+be\s+|the\s+answer\s+is\s+|option\s+|choice\s+|es\s+ist\s+|选)?"
    r"[(\[]?([A-Z])[)\]]?(?=[\s.,;:!)\]。，]|$)",
    re.I,
)
_SET_APART = re.compile(r"(?:\*\*|__|[(\[])([A-Z])(?:\*\*|__|[)\]])")
_SURVEY = re.compile(
    r"\b(?:each|every|all|the)\s(?:\w+\s)?(?:options|choices|option|choice|statement)\b|\bone by one\b", re.I
)
"""Options are gone through: one that is listed is not yet chosen."""
_CORRECTION = re.compile(r"\b(?:wait|no|actually|however|but|instead|hmm|correction|sorry)\b", re.I)


def read(text: str, letters: str, options: Mapping[str, str]) -> str | None:
    """Letters; ``""`` for a hedge, which ends the search; None for nothing."""
    for reader in (alone, _json_field, _cued, _at_start, _concluded):
        chosen = reader(text, letters, options)
        if chosen is not None:
            return chosen
    mentioned = option_mentioned(text, options)
    # Another option's letter that is set apart, "so it is **E**", says more than an option's text.
    others = {match[1] for match in _SET_APART.finditer(text)} & set(letters) - {mentioned}
    surveyed = _SURVEY.search(text) and any(item[1] == mentioned for item in _ITEM.finditer(text))
    return None if others or surveyed else mentioned


# --- the readers, from the most to the least explicit ----------------------------------------------------------------


def alone(text: str, letters: str, options: Mapping[str, str]) -> str | None:
    """The whole text is letters, with or without brackets, markup, full stop or the option's text behind."""
    if len(text) > 2000:
        return None
    content = plain(text)
    if match := _ALONE.fullmatch(content):
        return if_allowed(match[1].upper(), letters)
    if _RUN.fullmatch(content) and len(set(content)) == len(content):
        return if_allowed(content, letters)
    if _LIST.fullmatch(content) and (listed := re.findall(r"(?<![A-Za-z])[A-Za-z](?![A-Za-z])", content)):
        # One letter stands for a word in "a b"; lists are of capitals, or have brackets or commas.
        if "/" in content and not options_equal_to(text, options):
            return ""
        if "/" not in content and (all(letter.isupper() for letter in listed) or re.search(r"[,;()&]", content)):
            return if_allowed("".join(listed).upper(), letters)
    if _EITHER.fullmatch(content):
        return ""
    same = options_equal_to(text, options)
    if len(same) == 1:
        return same[0]
    if "\n" not in content and (match := _LEADING.match(content)) and not _lists_options(text):
        marked = re.search(rf"[(\[]?{match[1]}\s*(?:[)\]][.:]?|[.:、])", text)
        behind = text[marked.end() :] if marked else content[match.end() - 1 :]
        matching_letters = [letter for letter, option in options.items() if same_option(option, behind)]
        if match[1] in letters and (not matching_letters or match[1] in matching_letters):
            return match[1]
    return None


def _json_field(text: str, letters: str, options: Mapping[str, str]) -> str | None:
    value = None
    for match in _JSON.finditer(text):
        value = match[1]
    return None if value is None else alone(value.strip("[]\"'").replace('"', ""), letters, options)


def _cued(text: str, letters: str, options: Mapping[str, str]) -> str | None:
    """The letter behind the last phrase that announces or chooses one, or the last that is called the answer."""
    place, chosen = -1, None
    for pattern, choosing in ((cues.ANNOUNCED, False), (cues.CHOSEN, True)):
        for cue in reversed(list(pattern.finditer(text))[-_CUES:]):
            if cue.start() <= place:
                break
            if is_hypothetical(text, cue.start()) or is_denied(text, cue.start()):
                continue
            if cues.ONE_OF_ALL.search(text, max(0, cue.start() - 12), cue.start()):
                continue
            candidate = _behind_cue(text, cue.end(), letters, options, choosing=choosing)
            if candidate is not None:
                if cues.WOULD.search(cue[0]) and _is_called_otherwise(text, cue.end(), candidate, letters):
                    return ""
                place, chosen = cue.start(), candidate
                break
    clean = MARKUP.sub("", text) if len(text) < 4000 else text
    for called in reversed(list(cues.BEST.finditer(clean))[-_CUES:]):
        if _is_verdict(clean, called, letters) and called.start() > place:
            return called[1] or called[2]
    return chosen if chosen is not None else _called_true(clean, letters)


def _called_true(text: str, letters: str) -> str | None:
    """The one letter that is called correct; of several the last only if the response corrects itself."""
    called = [match for match in list(cues.TRUE.finditer(text))[-_CUES:] if _is_verdict(text, match, letters)]
    if not called:
        return None
    names = [match[1] or match[2] for match in called]
    if len(set(names)) > 1 and not _CORRECTION.search(text, called[-2].end(), called[-1].start()):
        return None
    return _conclusion(text[called[-1].end() :], letters) or names[-1]


def _is_called_otherwise(text: str, start: int, chosen: str, letters: str) -> bool:
    """Whether ``the answer would be A`` is followed by ``it is C``."""
    return any(match[1] in letters and match[1] != chosen for match in cues.IT_IS.finditer(text, start))


def _at_start(text: str, letters: str, options: Mapping[str, str]) -> str | None:
    """A lone capital followed by a separator or the end of its line; not the first item of a list."""
    start = MARKUP.sub("", text[:200]).lstrip()
    match = _START.match(start)
    if match is None:
        match = re.match(r"[(\[]?([A-H])[)\]]?(?=\s)", start)
        if match is None or not re.match(r"[ \t]+(?:because|since|as|weil|porque)\b", start[match.end() :]):
            return None
    return match[1] if match[1] in letters and not _lists_options(text) else None


def _concluded(text: str, letters: str, options: Mapping[str, str]) -> str | None:
    lines = [line for line in text[-4000:].splitlines() if line.strip()]
    if len(lines) > 1 and (last := plain(lines[-1])) and re.fullmatch(r"[(\[]?\s*[A-Z]\s*[)\]]?", last):
        return if_allowed(last.strip("()[] "), letters)
    clean = MARKUP.sub("", text) if len(text) < 4000 else text
    for match in reversed(list(cues.ITSELF.finditer(clean))[-_CUES:]):
        if match[1] in letters:
            return match[1]
    return _conclusion(text, letters) or _mentioned(text, letters)


def _conclusion(text: str, letters: str) -> str | None:
    """The letter behind the last ``so`` or ``therefore`` that has one."""
    for cue in reversed(list(cues.CONCLUSION.finditer(text))[-_CUES:]):
        following = MARKUP.sub("", text[cue.end() : cue.end() + 40])
        match = _BEHIND_CONCLUSION.match(following)
        if match is None or match[1] not in letters or _is_word(following, match.end(1), match[1]):
            continue
        if not is_denied(text, cue.start()) and not cues.REJECTED_BEHIND.match(following, match.end(1)):
            return match[1]
    return None


def _mentioned(text: str, letters: str) -> str | None:
    """The only option that is mentioned by its letter and not rejected."""
    mentioned = set()
    for cue in list(cues.MENTIONED.finditer(text))[-_CUES:]:
        following = MARKUP.sub("", text[cue.end() : cue.end() + 60])
        match = re.match(r"[(\[]?([A-Z])(?![A-Za-z0-9'’])", following)
        if match is None or match[1] not in letters:
            continue
        rejected = cues.REJECTED_BEFORE.search(text[max(0, cue.start() - 40) : cue.start()])
        if not rejected and not cues.REJECTED_BEHIND.match(following, match.end(1)):
            mentioned.add(match[1])
    return mentioned.pop() if len(mentioned) == 1 else None


# --- helpers ---------------------------------------------------------------------------------------------------------


def _behind_cue(text: str, start: int, letters: str, options: Mapping[str, str], *, choosing: bool) -> str | None:
    """The choice behind a cue: the text of an option, or letters."""
    if options:
        end = text.find("\n", start)
        line = text[start : end if end >= 0 else start + 300][:300]
        stated = option_at_start(line, options)
        # An option whose text is one letter is named like its neighbour.
        if stated is not None and (not stated or len(plain(options[stated])) > 1):
            return stated
    return _letters_after(text, start, letters, choosing=choosing)


def _letters_after(text: str, start: int, letters: str, *, choosing: bool) -> str | None:
    """The letters behind a position, within reach and the sentence; ``""`` for a hedge."""
    reach = text[start : start + _REACH]
    window = MARKUP.sub(" ", BRACES.sub(" ", reach.replace("boxed", " ")))
    if end := cues.SENTENCE_END.search(window.rstrip() if window.strip() else window, 3):
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
        if _negated(between) or cues.REJECTED_BEFORE.search(between) or cues.FIGURE.search(between):
            continue
        if (candidate.islower() or len(candidate) > 1) and between.strip(" :([="):
            continue  # prose; a lower-case letter or a run of them is a choice only right behind the cue
        if cues.CONDITION.match(window, token.end()) or (choosing and cues.USED_AS.match(window, token.end())):
            return None
        if _NEXT_ITEM.match(text, min(start + token.end(), len(text))) and candidate == "A":
            return None  # the options are listed once more
        return _enumeration(window, token.end(), candidate.upper(), letters)
    return None


def _enumeration(window: str, end: int, first: str, letters: str) -> str:
    """The letters of an enumeration that begins with ``first``; ``""`` if they are alternatives."""
    chosen = first
    while (more := _MORE.match(window, end)) and more[2].isupper() and more[2] in letters:
        if cues.CLAUSE.match(window, more.end()):
            break
        if more[1].lower() in _HEDGES:
            return ""
        if _is_word(window, more.end(), more[2]):
            break
        chosen += more[2]
        end = more.end()
    return "".join(sorted(set(chosen)))


def _is_verdict(text: str, called: re.Match[str], letters: str) -> bool:
    """Whether ``B is correct`` is said of an option, and without a condition."""
    letter = called[1] or called[2]
    before = text[max(0, called.start() - 40) : called.start()]
    named = re.search(
        r"\b(?:statements?|claims?|if|whether|think|thought|say|says|said|that)\s*(?:option\s*)?$", before, re.I
    )
    return (
        letter in letters
        and not named
        and not cues.FIGURE.search(before)
        and not is_denied(text, called.start())
        and not cues.CONDITION.match(text, called.end())
    )


def is_hypothetical(text: str, start: int) -> bool:
    """Whether a cue belongs to a hypothesis or to somebody else: "if the answer were B"."""
    before = re.split(r"[.!?。\n]", text[max(0, start - 48) : start])[-1]
    match = cues.HYPOTHESIS.search(before)
    if match is None:
        return False
    # "I think the answer is B" is the response's own.
    return not re.search(
        r"\b(?:i|we)\s+(?:think|say|would\s+say|believe)(?:\s+that)?\s*(?:the\s+)?(?:correct\s+)?$", before, re.I
    )


def is_denied(text: str, start: int) -> bool:
    """Whether the same sentence negates a cue: "I don't think the answer is B"."""
    before = re.split(r"[.!?。,，;；\n]", text[max(0, start - 24) : start])[-1]
    return cues.NEGATION.search(before) is not None


def _negated(between: str) -> bool:
    last = None
    for last in cues.NEGATION.finditer(between):  # noqa: B007  # the last one
        pass
    return last is not None and not cues.CONTRAST.search(between, last.end())


def _is_word(text: str, end: int, letter: str) -> bool:
    """Whether a capital A or I is the article or the pronoun: what follows does not explain a choice."""
    if letter not in "AI":
        return False
    behind = text[end : end + 20]
    return bool(re.match(r"[ \t]+[A-Za-z]", behind)) and not cues.AFTER_LETTER.match(behind)


def _lists_options(text: str) -> bool:
    """Whether the text begins by repeating the options."""
    first = [match[1] for match, _ in zip(_ITEM.finditer(text[:4000]), range(3), strict=False)]
    return first[:2] == ["A", "B"]


def if_allowed(chosen: str, letters: str) -> str | None:
    """The chosen letters in alphabetical order; None if one of them may not be chosen."""
    return "".join(sorted(set(chosen))) if set(chosen) <= set(letters) else None
