"""Yes-no questions (POPE, AMBER discriminative, HallusionBench by rule)."""

import re
from collections.abc import Mapping
from typing import Any, Literal

from lit_uniopd.grade import Grade
from lit_uniopd.rewards.grade import check_extraction, gold_text, unknown, verdict
from lit_uniopd.rewards.notation import without_emphasis
from lit_uniopd.rewards.text import marked_answers, readable, strip_reasoning, strip_thinking

_YES = "yes|yeah|yep|sí|sim|oui|ja|да|evet|ya"
_NO = "no|nope|não|non|nein|нет|hayır|tidak"
_WORD = re.compile(rf"(?<![^\W_])(?:(?P<yes>{_YES})|(?P<no>{_NO}))(?![^\W_])", re.I)
_CJK = re.compile(
    r"(?P<no>不是|没有|不对|否|いいえ|아니|错误)|(?P<yes>是的|是(?!否|不是)|对(?!于|不对)|有(?!没有)|はい|예|네|正确)"
)
_MEANING = {"yes": "yes", "true": "yes", "1": "yes", "1.0": "yes", "no": "no", "false": "no", "0": "no", "0.0": "no"}
_EXACT = {"Yes": "yes", "yes": "yes", "No": "no", "no": "no"}
_DECLARED = re.compile(
    r"(?<![^\W_])(?:(?:final\s+|correct\s+|short\s+|my\s+)?answer(?:\s+to\s+(?:the|this|your)\s+\w{1,20})?|conclusion|verdict|antwort|respuesta"
    r"|réponse|resposta|risposta|ответ)\s{0,3}[*_]{0,3}(?:\s+(?:is|would\s+be|must\s+be|should\s+be|ist|lautet|es|est|é|è)(?![^\W_])|[:=]|→|->)"
    r"|(?:答案|回答|结论|答え|정답)\s?(?:是|为|は|은)?\s?[:：]?"
    r"|[\"'](?:final_?|short_?)?answer[\"']\s{0,3}:",
    re.I,
)
_BETWEEN = re.compile(
    r"[\s*_\"'“”‘’$:({\[]{0,6}(?:\\boxed\{)?(?:a\s+|an\s+|definitely\s+|clearly\s+|simply\s+|therefore\s+|likely\s+)?",
    re.I,
)
_CONCLUDED = re.compile(
    r"(?<![^\W_])(?:so|therefore|thus|hence|finally|in\s+conclusion|overall)(?![^\W_])[\s,:]{0,3}(?:the\s+answer\s+is\s+)?",
    re.I,
)
_HYPOTHESIS = re.compile(r"\b(?:if|whether|suppose|unless|when)\b[^.!?\n]{0,30}$", re.I)
_DENIED = re.compile(r"\b(?:not|never|cannot)\b|n['’]t\b", re.I)
_NOT = re.compile(
    r"\b(?:not|cannot|never|none|neither|nothing|nowhere|without\s+any|unable|absent|fails?\s+to|lacks?|nicht|kein(?:e[nmrs]?)?|pas|aucune?|ningún"
    r"|ninguna?|nenhuma?)\b|n['’]t\b|\b(?:dont|doesnt|isnt|arent|cant)\b|没有|不是|看不到|看不见|并非|无法",
    re.I,
)
_DOUBLE = re.compile(
    r"\b(?:not\s+(?:only|just)|no\s+(?:doubt|problem|worries|other)|without\s+(?:a\s+)?doubt|can(?:not|['’]t|\s+not)\s+(?:deny|be\s+denied|miss)|not\s+(?:un\w+|impossible|false"
    r"|wrong|incorrect|absent|missing)|(?:isn['’]t|not)\s+without|why\s+not|not\s+sure|not\s+certain|don['’]t\s+know|cannot\s+(?:tell|determine|say|be\s+determined)"
    r"|can['’]t\s+(?:tell|determine|say)|unable\s+to\s+(?:tell|determine|say)|not\s+(?:clear|possible\s+to|(?:\w+\s+)?enough(?:\s+to\s+(?:say|tell)(?:\s+(?:yes|no)\b)?)?)|无法(?:确定|判断))",
    re.I,
)
"""Negations that negate nothing, or that only say that the response does not know."""
_SENTENCE = re.compile(r"[.!?。！？\n]")
_OPENING = re.compile(r"[\s\"'“(\[#>:-]{0,8}(?:no\s(?:problem|worries|other)\b[\s!.,:-]{0,4})?", re.I)
"""What may stand in front of a first word; "no problem" is a courtesy, "no other" says nothing yet."""
_REJECTED = re.compile(
    r"[\"'”]?\s(?:(?:would\s+be|is|was)\s(?:wrong|incorrect|false|not)|(?:cannot|can['’]t)\s+be\s(?:right|correct))\b",
    re.I,
)
"""Right behind a word: it is spoken about, and not said."""
_COUNTS = re.compile(r"\s+(?!(?:there|it|they|the|this|that|these|he|she|i|we|a|an|one|because|since)\b)[a-z]", re.I)


def grade_yes_no(
    gold: Any,
    prediction: str,
    row: Mapping[str, Any] | None = None,
    *,
    exact: bool = False,
    extraction: Literal["protocol", "robust"] = "robust",
) -> Grade:
    """Compare a yes or no with the gold one.

    The answer tag decides if there is one, else the box, else a JSON field or a phrase that declares the answer, the
    last one; else a response that begins with yes or no; else what follows ``so`` or ``therefore``; else the first of
    the words. ``Yes or no`` is no answer. A response without either word whose first sentence is negated (``I cannot
    see any dog``) means no, as POPE's own rule has it; one that only does not know, and any other, has no answer.

    Args:
        gold: ``yes`` or ``no`` in any case, a truth value, 1 or 0.
        prediction: The response.
        row: Not used.
        exact: the whole response must be Yes, yes, No or no, as in AMBER's script; else there is no answer.
        extraction: ``protocol``: POPE's script, word for word: of the first sentence, ``No``, ``no`` or ``not`` among
            its words is no, everything else is yes; ``robust``: as above.

    Returns:
        A grade whose ``extracted`` is ``yes`` or ``no``.

    Raises:
        ValueError: if the gold answer means neither, or for another ``extraction``.
    """
    check_extraction(extraction)
    text = gold_text(gold)
    if text is None:
        return unknown("no_gold")
    expected = _MEANING.get(text.strip().strip(".").lower())
    if expected is None:
        raise ValueError(f"the gold answer {text[:40]!r} is neither yes nor no")
    visible = strip_reasoning(prediction) if extraction == "robust" else strip_thinking(prediction)
    if visible is None:
        return Grade(False, 0.0, reason="truncated")
    if exact:
        decision = _EXACT.get(visible.strip())
    elif extraction == "protocol":
        decision = _by_pope(visible)
    else:
        decision = _decision(visible)
    return Grade(False, 0.0, reason="no_answer") if decision is None else verdict(decision == expected, decision)


def _by_pope(text: str) -> str | None:
    """The rule of POPE's ``evaluate.py``."""
    words = text.split(".")[0].replace(",", "").split(" ") if text.strip() else []
    if not words:
        return None
    return "no" if {"No", "not", "no"} & set(words) else "yes"


def _decision(text: str) -> str | None:
    return _in_prose(readable(next(marked_answers(text), text)))


def _in_prose(text: str) -> str | None:
    plain = without_emphasis(text).strip().strip(".!。").lower()
    if plain in ("true", "false"):
        return _MEANING[plain]
    text = re.sub(r"[*_`]{1,3}", "", text)
    for reader in (_declared, _first_word, _concluded):
        decision = reader(text)
        if decision is not None:
            return decision or None
    text = _DOUBLE.sub(" ", text)
    first = _WORD.search(text)
    clause = "" if first is None else re.split(r"[.!?\n,;:]", text[max(0, first.start() - 80) : first.start()])[-1]
    if first is not None and not _DENIED.search(clause):
        decision = _meaning(text, first)
        # Behind other words, "yes, a cat, but no dog" says both.
        both = any(word.lastgroup != first.lastgroup for word in _WORD.finditer(text, first.end()))
        return None if both or _REJECTED.match(text, first.end()) else decision or None
    sentence = _SENTENCE.split(text.strip(), maxsplit=1)[0]
    if _NOT.search(sentence):
        return "no"
    match = _CJK.search(sentence)
    return match.lastgroup if match and not re.search(r"是否|有没有|是不是", sentence) else None


# --- readers: yes or no; "" for a hedge, which ends the search; None for nothing --------------------------------------


def _declared(text: str) -> str | None:
    """What the last phrase that declares an answer declares."""
    for cue in reversed(list(_DECLARED.finditer(text))[-200:]):
        before = text[max(0, cue.start() - 40) : cue.start()]
        if _HYPOTHESIS.search(before):
            continue
        between = _BETWEEN.match(text, cue.end())
        start = between.end() if between else cue.end()
        negated = re.compile(r"not\s+(?:a\s+)?", re.I).match(text, start)
        word = _WORD.match(text, negated.end() if negated else start) or _CJK.match(text, start)
        if word is None:
            plain = re.compile(r"(true|false)\b", re.I).match(text, start)
            if plain:
                return _MEANING[plain[1].lower()]
            continue
        decision = _meaning(text, word)
        if _DENIED.search(re.split(r"[.!?\n,]", before)[-1]):
            continue
        return {"yes": "no", "no": "yes"}.get(decision, decision) if negated else decision
    return None


def _first_word(text: str) -> str | None:
    """A response that begins with yes or no, and is not a sentence about none (``No dogs are there``)."""
    start = _OPENING.match(text)
    offset = start.end() if start else 0
    word = _WORD.match(text, offset)
    if word is None:
        cjk = re.compile(
            r"(?:(?P<no>不是|没有|不|否|いいえ|아니)|(?P<yes>是的|是|有|对|はい|예|네))(?=[,，。、.!！\s]|的|$)"
        ).match(text, offset)
        return None if cjk is None else cjk.lastgroup
    return None if _REJECTED.match(text, word.end()) else _meaning(text, word)


def _concluded(text: str) -> str | None:
    for cue in reversed(list(_CONCLUDED.finditer(text))[-200:]):
        word = _WORD.match(text, cue.end())
        if word is not None and not (word.lastgroup == "no" and _COUNTS.match(text, word.end())):
            return _meaning(text, word)
    return None


def _meaning(text: str, word: re.Match[str]) -> str:
    """``yes`` or ``no``; ``""`` if the other one is offered beside it."""
    meaning = word.lastgroup or ""
    # "no" also counts things ("yes, there is no doubt"); only alternatives contradict.
    hedge = re.compile(r"[\"'*]?\s*(?:,?\s*or|/|and|oder|o|ou)\s*[\"'*]?", re.I).match(text, word.end())
    other = _WORD.match(text, hedge.end()) if hedge else None
    return "" if other is not None and other.lastgroup != meaning else meaning
