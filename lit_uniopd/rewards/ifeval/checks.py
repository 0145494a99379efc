"""The 25 verifiable instructions of IFEval (Zhou et al. 2023, arXiv 2311.07911), each as a function.

Written from the public description of the instructions. Two things may differ from the official checkers, which
download models for them: where sentences end, and which language a text is in.
"""

import json
import re
from collections.abc import Callable
from typing import Any

from lit_uniopd.rewards.ifeval.language import language_of

Check = Callable[..., bool]

_WORD = re.compile(r"\w+")
_TOKEN = re.compile(r"[A-Za-z][\w'-]*|[^\W\d_][\w'-]*")
_SENTENCE = re.compile(r"[^.!?。！？\n]*[.!?。！？]+[\"')\]]*(?=\s|$)|[^.!?。！？\n]+(?=\n|$)")
_ABBREVIATION = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|Prof|St|vs|etc|e\.g|i\.e|U\.S|No|Inc|Ltd|Jr|Sr)\.")
_CLOSED = ("My answer is yes.", "My answer is no.", "My answer is maybe.")


def _holds(count: int, relation: str, number: int) -> bool:
    if relation not in ("less than", "at least"):
        raise ValueError(f"unknown relation {relation!r}")
    return count < number if relation == "less than" else count >= number


def keywords_existence(text: str, keywords: list[str]) -> bool:
    return all(re.search(re.escape(word), text, re.I) for word in keywords)


def keywords_frequency(text: str, keyword: str, frequency: int, relation: str) -> bool:
    return _holds(len(re.findall(re.escape(keyword.strip()), text, re.I)), relation, frequency)


def keywords_forbidden(text: str, forbidden_words: list[str]) -> bool:
    return not any(re.search(rf"\b{re.escape(word)}\b", text, re.I) for word in forbidden_words)


def letter_frequency(text: str, letter: str, let_frequency: int, let_relation: str) -> bool:
    return _holds(text.lower().count(letter.strip().lower()), let_relation, let_frequency)


def response_language(text: str, language: str) -> bool:
    return language_of(text) == language.split("-")[0].lower()


def number_sentences(text: str, num_sentences: int, relation: str) -> bool:
    return _holds(len(sentences(text)), relation, num_sentences)


def sentences(text: str) -> list[str]:
    """Where a full stop, exclamation or question mark and a blank, or a line, ends a sentence."""
    plain = _ABBREVIATION.sub(lambda match: match[0].replace(".", ""), text)
    return [sentence for sentence in _SENTENCE.findall(plain) if any(letter.isalnum() for letter in sentence)]


def number_paragraphs(text: str, num_paragraphs: int) -> bool:
    """Paragraphs are divided by ``***``; an empty one is wrong, unless it comes first or last."""
    paragraphs = _split(r"\s?\*\*\*\s?", text)
    return all(paragraph.strip() for paragraph in paragraphs) and len(paragraphs) == num_paragraphs


def _split(separator: str, text: str) -> list[str]:
    """The text between separators, without a blank piece at either end."""
    pieces = re.split(separator, text)
    return pieces[1 if not pieces[0].strip() else 0 : -1 if len(pieces) > 1 and not pieces[-1].strip() else None]


def number_words(text: str, num_words: int, relation: str) -> bool:
    return _holds(len(_WORD.findall(text)), relation, num_words)


def nth_paragraph_first_word(text: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """Paragraphs are divided by an empty line."""
    paragraphs = text.split("\n\n")
    nonempty = [paragraph for paragraph in paragraphs if paragraph.strip()]
    if nth_paragraph > len(paragraphs) or len(nonempty) != num_paragraphs:
        return False
    paragraph = paragraphs[nth_paragraph - 1].strip()
    if not paragraph:
        return False
    word = re.split(r"[.,?!'\"]", paragraph.split()[0].lstrip("'\""), maxsplit=1)[0]
    return word.lower() == first_word.lower()


def number_placeholders(text: str, num_placeholders: int) -> bool:
    return len(re.findall(r"\[[^\[\]\n]*\]", text)) >= num_placeholders


def postscript(text: str, postscript_marker: str) -> bool:
    marks = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    pattern = marks.get(postscript_marker.strip(), re.escape(postscript_marker.strip().lower()))
    return re.search(pattern, text.lower()) is not None


def number_bullets(text: str, num_bullets: int) -> bool:
    stars = re.findall(r"^[ \t]*\*[^*\n]", text, re.M)
    dashes = re.findall(r"^[ \t]*-", text, re.M)
    return len(stars) + len(dashes) == num_bullets


def constrained_response(text: str) -> bool:
    return any(option in text for option in _CLOSED)


def number_highlights(text: str, num_highlights: int) -> bool:
    single = [highlight for highlight in re.findall(r"\*([^\n*]*)\*", text) if highlight.strip()]
    double = [highlight for highlight in re.findall(r"\*\*([^\n*]*)\*\*", text) if highlight.strip()]
    return len(single) + len(double) >= num_highlights


def multiple_sections(text: str, section_spliter: str, num_sections: int) -> bool:
    return len(re.findall(rf"{re.escape(section_spliter.strip())}\s?\d+", text)) >= num_sections


def json_format(text: str) -> bool:
    plain = re.sub(r"^```(?:json)?", "", text.strip(), flags=re.I).removesuffix("```").strip()
    try:
        json.loads(plain)
    except (ValueError, RecursionError):
        return False
    return True


def title(text: str) -> bool:
    return any(heading.strip() for heading in re.findall(r"<<([^\n<>]+)>>", text))


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
    return _holds(sum(word.isupper() for word in _TOKEN.findall(text)), capital_relation, capital_frequency)


def english_capital(text: str) -> bool:
    return text.isupper() and language_of(text) == "en"


def english_lowercase(text: str) -> bool:
    return text.islower() and language_of(text) == "en"


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
"""Instruction id -> check; its arguments are those of the data set."""


def follows(text: str, instruction: str, arguments: dict[str, Any]) -> bool:
    """Whether a text follows an instruction; an empty text follows none.

    Raises:
        ValueError: if there is no such instruction.
    """
    if instruction not in CHECKS:
        raise ValueError(f"there is no check for the instruction {instruction!r}")
    return bool(text.strip()) and CHECKS[instruction](text, **arguments)
