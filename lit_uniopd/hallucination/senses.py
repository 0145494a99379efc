"""Words that look like objects and are verbs or adjectives here: ``train the dog``, ``an orange shirt``."""

from collections.abc import Sequence
from functools import cache

from lit_uniopd.hallucination.tokens import Token, word_set

_REACH = 12
"""Words that are looked at on each side."""
_AUXILIARIES = word_set(
    "will would can could may might must shall should do does did don doesn didn won wouldn couldn shouldn mustn "
    "'ll 'd cannot let help helps helped"
)
_ADVERBS = word_set("not 't also always never often usually still soon now just even really both all together proudly")
_TO = word_set("next close adjacent similar according attached connected tied due thanks opposite parallel compared")
"""Words behind which "to" opens no verb."""
_SUBJECTS = word_set("i you we they")
_SINGULAR_SUBJECTS = word_set("he she it who which that")
_DETERMINERS = word_set("a an the this that these those his her its their my our your some any each every another")
_OBJECTS = _DETERMINERS | word_set(
    "him them it us me up down out through past along with for in on at over together to"
)
"""Words behind the verb of several: ``people bike down the road``."""
_OBJECTS_ALONE = _DETERMINERS | word_set(
    "him them it us himself herself itself themselves two three four five six seven eight ten twelve up"
)
"""Words behind the verb of one, which a plural noun would not have: ``the table seats four``."""
_PREPOSITIONS = word_set(
    "in on at by with near beside behind under over above below from into onto inside of to for next and or but "
    "between among as than off along around across while against through toward towards"
)
_ARTICLES = word_set("a an one another each every single half whole peeled sliced fresh ripe juicy halved")
_COLOURS = word_set(
    "red blue green yellow white black brown grey gray pink purple gold golden beige tan teal silver cream violet "
    "turquoise maroon colored coloured striped"
)
_SHADES = word_set("bright dark light deep pale vibrant burnt neon vivid reddish yellowish solid mostly soft warm rich")
_VERBS = word_set(
    "sits rests lies stands looks walks runs plays holds watches rides poses smiles waits seems appears talks works "
    "stops moves turns uses reads drinks hangs floats flies eats jumps has is was were are wears leans sleeps swims "
    "grazes can could will would sit rest lie stand look walk run play hold watch ride pose smile wait cut left peeks "
    "placed sliced peeled shown visible present next lying sitting standing resting had have does did being stretches"
)
"""Words behind a noun that are no noun themselves, though a dictionary has some of them as such."""
_PRONOUNS = word_set(
    "who whom whose which that while where when because although though since until if so he she it they we you i not "
    "nearby there here both either neither then too also"
)
_PIECES = word_set("slice slices piece pieces half halves wedge wedges segment segments bowl basket bag crate pile")
_PLURALS = word_set("people men women children kids couples")
_NO_PLURALS = word_set("sports clothes glasses gas bus this his its is was has as us series across always")


@cache
def _kinds(word: str) -> frozenset[str]:
    from lemminflect import getAllLemmas

    return frozenset(getAllLemmas(word))


@cache
def _is_plural(word: str) -> bool:
    from lemminflect import getAllLemmas

    lemmas = getAllLemmas(word, upos="NOUN").get("NOUN", ())
    return word in _PLURALS or (word not in _NO_PLURALS and word.endswith("s") and bool(lemmas) and word not in lemmas)


def is_verb(tokens: Sequence[Token], place: int, word: str) -> bool:
    """Whether a token that could be a noun is a verb here.

    Args:
        tokens: of the text.
        place: of the token.
        word: its singular. A token that differs from it ends in -s.
    """
    text = tokens[place].text
    before, following = _before(tokens, place), _behind(tokens, place)
    earlier = [word for word in before if word not in _ADVERBS]
    last = earlier[-1] if earlier else ""
    if text == word:
        if last in _AUXILIARIES or last in _SUBJECTS:
            return True
        if last == "to":
            return following[:1] != ["tracks"] and (len(earlier) < 2 or earlier[-2] not in _TO)
        if last == "who":
            return True
        if last in ("and", "or") and _is_bare_verb(earlier[-3:-1]):
            return True
        if not earlier and following[:1] and following[0] in _DETERMINERS | word_set("in mind with"):
            return (place + 1 < len(tokens) and following[0] not in ("in", "with")) or following[:2] == ["in", "mind"]
        sloppy_possessive = bool({"a", "an"} & set(earlier[-3:-1]))  # a ladies bike
        goes_on = following and (following[0] in _OBJECTS or "NOUN" in _kinds(following[0]))
        return _is_plural(last) and not sloppy_possessive and bool(goes_on)
    if last in _SINGULAR_SUBJECTS:
        return last != "it" or len(earlier) < 2 or earlier[-2] not in _PREPOSITIONS
    noun_before = "NOUN" in _kinds(last) and not _is_plural(last) and last not in _DETERMINERS | _PREPOSITIONS
    return (
        noun_before
        and "ADJ" not in _kinds(last)
        and bool(following)
        and (following[0] in _OBJECTS_ALONE or following[0].isdigit())
    )


def _is_bare_verb(words: Sequence[str]) -> bool:
    """Whether two words are a verb and what asks for its infinitive: ``will ski``."""
    return len(words) == 2 and words[0] in _AUXILIARIES | _SUBJECTS | {"to"} and "VERB" in _kinds(words[1])


def is_adjective(tokens: Sequence[Token], place: int, word: str) -> bool:
    """Whether a token that could be a noun is an adjective here: it stands before a noun, or is a colour.

    Args:
        tokens: of the text.
        place: of the token.
        word: its singular.
    """
    if tokens[place].text != word:
        return False
    following = _behind(tokens, place)
    if following and _goes_on(following[0], _before(tokens, place)):
        return True
    return word == "orange" and _is_colour(tokens, place)


def _goes_on(following: str, before: Sequence[str]) -> bool:
    """Whether a word continues the noun phrase, so that the word in front of it describes it."""
    if following in _VERBS | _PREPOSITIONS | _PRONOUNS or following.startswith("'"):
        return False
    kinds = _kinds(following)
    singular_article = any(word in ("a", "an", "one") for word in before[-2:])
    if "VERB" in kinds and following.endswith("s") and singular_article:
        return False  # an orange rolls
    # A word that no dictionary has is a young noun.
    return not kinds or bool(kinds & {"NOUN", "ADJ"})


def _is_colour(tokens: Sequence[Token], place: int) -> bool:
    """Whether an orange that no noun follows is the colour: it has a shade, a colour beside it, or no article."""
    before, following = _before(tokens, place), _behind(tokens, place)
    around = [token.text for token in tokens[max(place - 3, 0) : place + 4]]
    if before and (before[-1] in _SHADES or before[-1] in _COLOURS):
        return True
    near = [*around[: min(place, 3)][-2:], *around[min(place, 3) + 1 :][:2]]
    if any(word in ("and", "or", ",", "&", "with") for word in near) and any(word in _COLOURS for word in near):
        return True
    if following[:2] in (["in", "color"], ["in", "colour"]):
        return True
    if _has_article(before):
        return False
    # Without an article: a fruit among others, or at the start of a caption.
    return bool(before) and not {"and", "or", ",", "&"} & set(near)


def _has_article(before: Sequence[str]) -> bool:
    """Whether the noun phrase in front of an orange makes it one fruit, or a piece of one."""
    for place in range(len(before) - 1, -1, -1):
        word = before[place]
        if word in _ARTICLES | _DETERMINERS:
            return True
        if word == "of":
            return place > 0 and before[place - 1] in _PIECES
        describes = "ADJ" in _kinds(word) or word.endswith(("ed", "en"))
        if not describes or word in _PREPOSITIONS:
            return False
    return False


def _before(tokens: Sequence[Token], place: int) -> list[str]:
    """Words in front, back to the last stop."""
    start = place
    while start > max(place - _REACH, 0) and tokens[start - 1].is_word:
        start -= 1
    return [token.text for token in tokens[start:place]]


def _behind(tokens: Sequence[Token], place: int) -> list[str]:
    """Words behind, up to the next stop."""
    end = place + 1
    while end < min(place + _REACH, len(tokens)) and tokens[end].is_word:
        end += 1
    return [token.text for token in tokens[place + 1 : end]]
