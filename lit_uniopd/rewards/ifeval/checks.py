"""The 25 verifiable instructions of IFEval (Zhou et al. 2023, arXiv 2311.07911), each as a function.

Their verdicts are those of the official checkers, also where one would decide otherwise: keywords are regular
expressions, sentences and languages are what NLTK and langdetect say, text that has no language is in every one. Only
what the official checkers draw at random is decided here (see `lit_uniopd.rewards.ifeval.arguments`). They take time
linear in the text, if a row's own expressions do.
"""

import json
import re
from collections.abc import Callable
from typing import Any

from lit_uniopd.rewards.ifeval.division import sentences, tokens, words
from lit_uniopd.rewards.ifeval.language import language_of

Check = Callable[..., bool]

RELATIONS = ("less than", "at least")
_OPTIONS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
_FENCES = ("```json", "```Json", "```JSON", "```")
_POSTSCRIPTS = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
_WORD_END = re.compile(r"[.,?!'\"]")


def _holds(count: int, relation: str, number: int) -> bool:
    return count < number if relation == "less than" else count >= number


def keywords_existence(text: str, keywords: list[str]) -> bool:
    return all(re.search(word, text, re.I) for word in keywords)


def keywords_frequency(text: str, keyword: str, frequency: int, relation: str) -> bool:
    return _holds(len(re.findall(keyword.strip(), text, re.I)), relation, frequency)


def keywords_forbidden(text: str, forbidden_words: list[str]) -> bool:
    return not any(re.search(rf"\b{word}\b", text, re.I) for word in forbidden_words)


def letter_frequency(text: str, letter: str, let_frequency: int, let_relation: str) -> bool:
    """Two rows of the benchmark ask for ``#`` and ``!``; the official checker counts a random letter for them."""
    return _holds(text.lower().count(letter.lower()), let_relation, let_frequency)


def response_language(text: str, language: str) -> bool:
    return language_of(text) in (language, None)


def number_sentences(text: str, num_sentences: int, relation: str) -> bool:
    return _holds(len(sentences(text)), relation, num_sentences)


def number_paragraphs(text: str, num_paragraphs: int) -> bool:
    """Paragraphs are divided by ``***``; an empty one is wrong, unless it comes first or last."""
    paragraphs = _split(r"\s?\*\*\*\s?", text)
    return all(paragraph.strip() for paragraph in paragraphs) and len(paragraphs) == num_paragraphs


def _split(separator: str, text: str) -> list[str]:
    """The text between separators, without a blank piece at either end."""
    pieces = re.split(separator, text)
    return pieces[1 if not pieces[0].strip() else 0 : -1 if len(pieces) > 1 and not pieces[-1].strip() else None]


def number_words(text: str, num_words: int, relation: str) -> bool:
    return _holds(len(words(text)), relation, num_words)


def nth_paragraph_first_word(text: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """Paragraphs are divided by an empty line; blank ones are not counted, but have a place."""
    paragraphs = [paragraph.strip() for paragraph in text.split("\n\n")]
    paragraph = paragraphs[nth_paragraph - 1] if nth_paragraph <= len(paragraphs) else ""
    if not paragraph or sum(map(bool, paragraphs)) != num_paragraphs:
        return False
    word = _WORD_END.split(paragraph.split()[0].lstrip("'").lstrip('"'), maxsplit=1)[0]
    return "".join(map(str.lower, word)) == first_word.lower()  # letter by letter: a sigma at the end stays the same


def number_placeholders(text: str, num_placeholders: int) -> bool:
    closed = (line[: line.rfind("]") + 1] for line in text.split("\n"))  # else many opened ones take quadratic time
    return sum(len(re.findall(r"\[[^]]*\]", line)) for line in closed) >= num_placeholders


def postscript(text: str, postscript_marker: str) -> bool:
    marker = postscript_marker.strip()
    return re.search(_POSTSCRIPTS.get(marker, marker.lower()), text.lower()) is not None


def number_bullets(text: str, num_bullets: int) -> bool:
    """A star alone in its line makes one bullet with the next line."""
    stars = re.findall(r"^[^\S\n]*\*[^*].*", text, re.M)
    dashes = re.findall(r"^[^\S\n]*-", text, re.M)
    return len(stars) + len(dashes) == num_bullets


def constrained_response(text: str) -> bool:
    return any(option in text for option in _OPTIONS)


def number_highlights(text: str, num_highlights: int) -> bool:
    single = [highlight for highlight in re.findall(r"\*([^\n*]*)\*", text) if highlight.strip()]
    double = [highlight for highlight in re.findall(r"\*\*([^\n*]*)\*\*", text) if highlight.strip()]
    return len(single) + len(double) >= num_highlights


def multiple_sections(text: str, section_spliter: str, num_sections: int) -> bool:
    return len(re.split(rf"{section_spliter.strip()}\s?\d+", text)) > num_sections


def json_format(text: str) -> bool:
    plain = text.strip()
    for fence in _FENCES:
        plain = plain.removeprefix(fence)
    try:
        json.loads(plain.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


def title(text: str) -> bool:
    spans = (line[line.find("<<") : line.rfind(">>") + 2] for line in text.split("\n") if "<<" in line and ">>" in line)
    return any(span.lstrip("<").rstrip(">").strip() for span in spans)


def two_responses(text: str) -> bool:
    """Two different answers, divided by six stars."""
    responses = [response.strip() for response in _split(r"\*{6}", text)]
    return len(responses) == 2 and all(responses) and responses[0] != responses[1]


def repeat_prompt(text: str, prompt_to_repeat: str) -> bool:
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


def end_checker(text: str, end_phrase: str) -> bool:
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def quotation(text: str) -> bool:
    plain = text.strip()
    return len(plain) > 1 and plain[0] == plain[-1] == '"'


def capital_word_frequency(text: str, capital_frequency: int, capital_relation: str) -> bool:
    return _holds(sum(map(str.isupper, tokens(text))), capital_relation, capital_frequency)


def english_capital(text: str) -> bool:
    return text.isupper() and language_of(text) in ("en", None)


def english_lowercase(text: str) -> bool:
    return text.islower() and language_of(text) in ("en", None)


def no_comma(text: str) -> bool:
    return "," not in text


CHECKS: dict[str, Check] = {
    "keywords:existence": keywords_existence,
    "keywords:frequency": keywords_frequency,
    "keywords:forbidden_words": keywords_forbidden,
    "keywords:letter_frequency": letter_frequency,
    "language:response_language": response_language,
    "length_constraints:number_sentences": number_sentences,
    "length_constraints:number_paragraphs": number_paragraphs,
    "length_constraints:number_words": number_words,
    "length_constraints:nth_paragraph_first_word": nth_paragraph_first_word,
    "detectable_content:number_placeholders": number_placeholders,
    "detectable_content:postscript": postscript,
    "detectable_format:number_bullet_lists": number_bullets,
    "detectable_format:constrained_response": constrained_response,
    "detectable_format:number_highlighted_sections": number_highlights,
    "detectable_format:multiple_sections": multiple_sections,
    "detectable_format:json_format": json_format,
    "detectable_format:title": title,
    "combination:two_responses": two_responses,
    "combination:repeat_prompt": repeat_prompt,
    "startend:end_checker": end_checker,
    "startend:quotation": quotation,
    "change_case:capital_word_frequency": capital_word_frequency,
    "change_case:english_capital": english_capital,
    "change_case:english_lowercase": english_lowercase,
    "punctuation:no_comma": no_comma,
}
"""Instruction id -> check; its further parameters are named like the data set's arguments."""


def follows(text: str, instruction: str, arguments: dict[str, Any]) -> bool:
    """Whether a text follows an instruction; an empty text follows none."""
    return bool(text.strip()) and CHECKS[instruction](text, **arguments)
