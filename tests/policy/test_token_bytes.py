import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tokenizers import byte_level, sentencepiece, unigram, word_piece

from lit_uniopd.errors import UserError
from lit_uniopd.policy.token_bytes import TokenBytes, readable_text

TEXTS = ["the answer  is 12", " 你好\n\n", "🙂 العربية\té", "<0xE4> ▁", ""]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("tokenizer", [byte_level(), sentencepiece()], ids=["byte level", "SentencePiece"])
def test_tokens_are_the_bytes_of_the_text(tokenizer, text):
    pieces = TokenBytes(tokenizer, "x")(tokenizer(text, add_special_tokens=False).input_ids)
    expected = text.replace("▁", " ") if "▁" in text and tokenizer.backend_tokenizer.normalizer else text
    assert b"".join(piece or b"" for piece in pieces) == expected.encode()


def test_half_a_character_has_its_own_bytes():
    tokenizer = sentencepiece()
    ids = tokenizer("é", add_special_tokens=False).input_ids
    assert TokenBytes(tokenizer, "x")(ids) == [b"\xc3", b"\xa9"]


def test_special_tokens_stand_for_no_text():
    tokenizer = byte_level()
    bytes_of = TokenBytes(tokenizer, "x")
    assert bytes_of([1, 3, *tokenizer("a").input_ids, len(tokenizer) + 7]) == [None, None, b"a", None]
    tokenizer.add_tokens(["<think>"])  # a word of its own, and not special
    assert TokenBytes(tokenizer, "x")(tokenizer("<think>").input_ids) == [b"<think>"]


def test_a_space_before_every_text_is_seen():
    for tokenizer in (sentencepiece(prepends=True), unigram()):
        pieces = TokenBytes(tokenizer, "x")(tokenizer("the a", add_special_tokens=False).input_ids)
        assert b"".join(piece or b"" for piece in pieces) == b" the a"


def test_tokens_without_spaces_are_refused():
    with pytest.raises(
        UserError, match=r"--model\.teachers\.math has a tokenizer whose tokens do not say where spaces"
    ):
        TokenBytes(word_piece(), "model.teachers.math")


@given(st.binary(max_size=20))
@settings(max_examples=200, deadline=None)
def test_texts_of_any_bytes(content):
    text, ends, runs = readable_text(content)
    assert text == content.decode(errors="replace")
    assert len(ends) == len(content)
    assert ends == sorted(ends)
    assert ends[-1:] == [len(text.encode())][: len(content)]
    whole = text.encode()
    assert all(whole[start:end] == "\ufffd".encode() for start, end in runs)
