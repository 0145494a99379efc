"""Which words of two answers differ."""

import pytest

from lit_uniopd.view.differences import MAX_WORDS, differing_words


def differing(first, second):
    spans = differing_words(first, second)
    assert spans is not None
    return spans


def marked(first, second):
    """The words that are marked, as JavaScript would cut them: by UTF-16 code units."""
    return [
        [text.encode("utf-16-le")[2 * start : 2 * end].decode("utf-16-le") for start, end in spans]
        for text, spans in zip((first, second), differing(first, second), strict=True)
    ]


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ("a red cat sits", "a red dog sits", [["cat"], ["dog"]]),
        ("a red cat sits", "a cat sits", [["red"], []]),
        ("so, 3 + 4 = 7.", "so, 3 + 4 = 8.", [["7"], ["8"]]),
        ("the same", "the same", [[], []]),
        ("", "", [[], []]),
        ("\U0001f642\U0001f642 a fine day", "\U0001f642\U0001f642 a bad day", [["fine"], ["bad"]]),  # two units each
        ("\u65e5\u672c is far, as is said", "\u65e5\u672c is near, as is said", [["far"], ["near"]]),
        ("one two\nthree four", "one two three four", [[], []]),  # blanks are no words
        ("alpha beta gamma", "x y z", [[], []]),  # nothing in common: all of it differs, and marks would say nothing
    ],
)
def test_words_that_the_other_text_does_not_have_there(first, second, words):
    assert marked(first, second) == words


def test_long_texts_are_not_compared():
    long = "word " * MAX_WORDS
    assert differing_words(long, long + "more") is None


def test_what_is_left_after_the_marks_is_the_same_in_both_texts():
    first, second = "There is a small cat on the old mat, and it sleeps.", "There is a cat on a mat, and a dog sleeps."
    rests = []
    for text, spans in zip((first, second), differing(first, second), strict=True):
        for start, end in reversed(spans):
            text = text[:start] + text[end:]
        rests.append(text.split())
    assert rests[0] == rests[1]
    assert "small" not in rests[0]
    assert "dog" not in rests[0]
