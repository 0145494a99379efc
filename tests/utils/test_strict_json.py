import pytest

from lit_uniopd.errors import UserError
from lit_uniopd.utils.strict_json import parse_json


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r'{"prompt": "a \ud83d\ude00 b"}', {"prompt": "a 😀 b"}),
        (r'"\\ud83d"', r"\ud83d"),  # an escaped backslash
        ('{"a": {"b": 1}, "b": [{"a": 1}, {"a": 2}]}', {"a": {"b": 1}, "b": [{"a": 1}, {"a": 2}]}),
    ],
)
def test_what_is_right_is_read(text: str, value: object):
    assert parse_json(text, "f:1") == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1', r"^f:1 is not valid JSON \(Expecting ',' delimiter"),
        ('{"a": 1, "b": 2, "a": 3}', r"^f:1 has the key 'a' more than once in \{\"a\": 3, \"b\": 2\}; keep one"),
        (
            '{"m": [{"role": "user", "role": "user"}]}',
            r"^f:1 has the key 'role' more than once in \{\"role\": \"user\"\}",
        ),
        (r'{"p": "x", "q": "say \ud83d now"}', r"^f:1 has half of a surrogate pair \('\\ud83d'\) in 'q', no character"),
        (r'{"q": [{"content": "\uDE00\ud83D"}]}', r"^f:1 has half of a surrogate pair \('\\ude00'\) in 'q'"),
        (r'{"q\ud83d": 1}', r"^f:1 has half of a surrogate pair \('\\ud83d'\) in 'q"),
        (r'[{"q": 1}, {"q": "\ud83d"}]', r"^f:1:2 has half of a surrogate pair"),
    ],
)
def test_what_is_wrong_is_named(text: str, message: str):
    with pytest.raises(UserError, match=message) as refusal:
        parse_json(text, "f:1")
    str(refusal.value).encode()  # a terminal can print it
