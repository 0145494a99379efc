"""What a text denies or asks for, and so does not claim to be in the picture."""

from collections.abc import Iterator, Sequence

from lit_uniopd.hallucination.tokens import SENTENCE_ENDS, Token, sentences_of, word_set

_REACH = 40
"""Words that a denial reaches at most, so that a caption that repeats itself costs no more time than its length."""
_BE = word_set("is are was were be being been am isn aren wasn weren 's 're")
_PREPOSITIONS = word_set(
    "in on at by with without near beside besides behind under over above below from into onto inside outside across "
    "along around between among against toward towards through beneath beyond during next for about as than off up of"
)
_BREAKS = (
    _BE
    | _PREPOSITIONS
    | word_set(
        "but except only just although though while whereas because since if whether when where which who that "
        "so however instead has had have does do did can could will would may might appears seems"
    )
)
"""Words behind which a denial no longer holds."""
_EVIDENCE = word_set("sign signs trace traces evidence indication mention hint glimpse kind kinds type sort pair group")
"""``no sign of a dog`` denies the dog; ``no part of the dog`` does not."""
_DEFINITE = word_set("the this that these those his her its their my our your")
"""What is called by these is there, whatever is denied of it: ``not looking at the dog``."""
_OWN = _DEFINITE | word_set("some one two three four five six several many there it he she they")
"""Words that open a claim of its own behind "and": ``no dog and two cats``."""
_SEEN = word_set("visible present seen shown pictured depicted there here included evident")
_ABSENT = word_set("absent missing nowhere")
_PRONOUNS = word_set("it he she they there that this these those you we i")
_ECHOES = _BE | word_set("do does did don doesn didn has have had hasn haven can could will would won wouldn")
_IDIOMS = {
    "no": word_set("doubt matter wonder surprise question problem more less fewer"),
    "not": word_set("only just merely simply all every many much enough far necessarily sure clear more less"),
}
_PHRASES = (
    ("lack", "of"),
    ("lacks",),
    ("lacking",),
    ("absence", "of"),
    ("devoid", "of"),
    ("free", "of"),
    ("empty", "of"),
    ("instead", "of"),
    ("rather", "than"),
    ("if", "there", "is"),
    ("if", "there", "are"),
    ("whether", "there", "is"),
    ("whether", "there", "are"),
    ("if", "there", "were"),
    ("if", "there", "was"),
    ("if", "any"),
    ("without",),
    ("nor",),
)


def denied_places(tokens: Sequence[Token]) -> set[int]:
    """Places of the tokens that a text denies or asks for: ``no dog``, ``isn't a dog``, ``is there a dog?``."""
    denied: set[int] = set()
    for sentence in sentences_of(tokens):
        words = [tokens[place].text for place in sentence]
        if _asks(words):
            denied.update(sentence)
            continue
        denied.update(sentence.start + place for place in _denied(words))
    return denied


def _asks(words: Sequence[str]) -> bool:
    """Whether a sentence is a question; one behind a statement (``, isn't it?``, ``, right?``) is none."""
    stops = [word for word in words if word in SENTENCE_ENDS]
    if "?" not in stops and "\uff1f" not in stops:
        return False
    commas = [place for place, word in enumerate(words) if word == ","]
    tag = [word for word in words[commas[-1] + 1 :] if word[-1].isalnum()] if commas else []
    echo = len(tag) in range(2, 6) and tag[0] in _ECHOES and bool(_PRONOUNS & set(tag[1:]))
    return not (echo or tag in (["right"], ["correct"], ["no"]))


def _denied(words: Sequence[str]) -> Iterator[int]:
    for place, word in enumerate(words):
        following = words[place + 1] if place + 1 < len(words) else ""
        if word == "no" and following == "longer":
            yield from _phrase(words, place + 2, of_verb=True)
        elif word == "no" and following not in _IDIOMS["no"]:
            yield from _phrase(words, place + 1)
        elif word in ("not", "'t", "cannot", "never") and following not in _IDIOMS["not"]:
            yield from _phrase(words, place + 1, of_verb=True)
            yield from _behind_any(words, place + 1)
            yield from _subject(words, place)
        elif word == "neither" and "nor" in words[place : place + _REACH]:
            yield from _phrase(words, place + 1, of_verb=True)
        elif word in _ABSENT and place and words[place - 1] in _BE:
            if following in ("", ",", "and", "from", "in", "here", "to") or not following[-1].isalnum():
                yield from _subject(words, place)
        else:
            for phrase in _PHRASES:
                if tuple(words[place : place + len(phrase)]) == phrase:
                    yield from _phrase(words, place + len(phrase), of_verb=word == "nor")


def _phrase(words: Sequence[str], start: int, *, of_verb: bool = False) -> Iterator[int]:
    """The nouns that a denial in front of them holds for, with those that "or", "nor" and "and" add.

    Args:
        words: of the sentence.
        start: place of the first word.
        of_verb: whether a verb may stand between (``does not have a dog``); then what is definite is not denied.
    """
    articles = 0
    for place in range(start, min(start + _REACH, len(words))):
        word, following = words[place], words[place + 1 : place + 2]
        if (word == "of" and words[place - 1] in _EVIDENCE) or (word == "as" and words[place - 1] == "such"):
            continue
        if word in ("and", "or", "nor", "&"):
            if following and (following[0] in _OWN or (word == "and" and _claims(words, place + 1, of_verb))):
                return
            continue
        if word == ",":
            if not _is_list(words, place + 1):
                return
            continue
        if word in ("a", "an", "any"):
            articles += words[place - 1] not in ("or", "nor", "and", "of")
            if articles > 1 or (place > start and not of_verb and articles):
                return
            continue
        if of_verb and (word in ("be", "been", "being", "have", "to") or (word in _BE and place == start)):
            continue
        stops = word in _BREAKS or not word[-1].isalnum() or (word in _DEFINITE and (of_verb or place > start))
        if stops:
            return
        yield place


def _claims(words: Sequence[str], start: int, of_verb: bool) -> bool:
    """Whether "and" opens a clause or a noun of its own: an article, or a verb within three words."""
    if words[start] in ("a", "an") or (of_verb and words[start] in ("is", "are", "has")):
        return True
    return any(word in _BE or word in ("has", "have") for word in words[start : start + 3])


def _is_list(words: Sequence[str], start: int) -> bool:
    """Whether the words behind a comma go on with a list that ends in "or", "nor" or "and"."""
    for word in words[start : start + 8]:
        if word in ("or", "nor", "and"):
            return True
        if word in _BREAKS or word in _OWN or word in ("a", "an") or (word != "," and not word[-1].isalnum()):
            return False
    return False


def _behind_any(words: Sequence[str], start: int) -> Iterator[int]:
    """Nouns behind an "any" of the denied clause: ``not looking at any dogs``."""
    for place in range(start, min(start + _REACH, len(words))):
        if words[place] in ("but", ";", "although", "though", "while"):
            return
        if words[place] == "any":
            yield from _phrase(words, place + 1)


def _subject(words: Sequence[str], place: int) -> Iterator[int]:
    """What ``is not visible``, or ``is absent``: the last noun phrase before the verb, unless it hangs on another.

    Args:
        words: of the sentence.
        place: of "not" or "absent".
    """
    following = words[place + 1] if place + 1 < len(words) else ""
    here = following == "in" and words[place + 2 : place + 3] and words[place + 2] in ("the", "this", "view", "sight")
    picture = {"picture", "image", "photo", "frame", "scene", "view", "sight"} & set(words[place + 2 : place + 4])
    if words[place] not in _ABSENT and following not in _SEEN and not (here and picture):
        return
    verb = place - 1
    if verb < 0 or words[verb] not in _BE | word_set("can could"):
        return
    start, first = verb, max(verb - _REACH, 0)
    while start > first and words[start - 1] not in _BREAKS and words[start - 1] != "'s":
        if not words[start - 1][-1].isalnum():
            break
        start -= 1
    if start == 0 or words[start - 1] not in _PREPOSITIONS:
        yield from range(start, verb)
