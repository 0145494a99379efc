"""The bytes that each token of a tokenizer stands for: what two tokenizers have in common is the text, byte by byte."""

import json
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from lit_uniopd.errors import UserError

LOSSY = {"WordPiece", "BPEDecoder", "CTC"}
"""Decoders of the tokenizers library that put spaces where they guess them to be."""


class TokenBytes:
    """Bytes of single tokens, from the table of tokens and not from texts: half a character is no text.

    Byte-level BPE writes each byte as a character of its own; SentencePiece writes a space as ``\u2581`` and bytes that
    it has no piece for as ``<0xE4>``; any other token is taken as its text.

    Args:
        tokenizer: a fast one.
        flag: the option that it came from, for messages.

    Raises:
        UserError: naming the option, if its tokens do not say where spaces are.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, flag: str) -> None:
        self.tokenizer: Any = tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", None)
        decoder = getattr(backend, "decoder", None)
        kinds = set() if decoder is None else _kinds(json.loads(decoder.__getstate__()))
        if backend is None or kinds & LOSSY:
            raise UserError(
                f"--{flag} has a tokenizer whose tokens do not say where spaces are ({type(tokenizer).__name__}), so "
                "texts cannot be aligned by bytes; choose a model with byte-level BPE or SentencePiece."
            )
        self._byte_level = "ByteLevel" in kinds
        self._fallback = "ByteFallback" in kinds
        self._spaces = bool(kinds & {"Metaspace", "Replace"})
        added = self.tokenizer.added_tokens_decoder
        self._special = {i for i, token in added.items() if token.special} | set(self.tokenizer.all_special_ids)
        self.special_texts = [str(self.tokenizer.convert_ids_to_tokens(i)) for i in self._special]
        self._known: dict[int, bytes | None] = {
            i: None if i in self._special else token.content.encode() for i, token in added.items()
        }

    def __call__(self, ids: Sequence[int]) -> list[bytes | None]:
        """Of each token; None for special ones, which stand for no text."""
        for i in set(ids) - self._known.keys():
            self._known[i] = self._bytes_of(i)
        return [self._known[i] for i in ids]

    def _bytes_of(self, i: int) -> bytes | None:
        token: str | None = None if i in self._special else self.tokenizer.convert_ids_to_tokens(i)
        if token is None:  # special, or a row of the model without a token
            return None
        if self._byte_level and all(character in _BYTES for character in token):
            return bytes(_BYTES[character] for character in token)
        if self._fallback and len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            return bytes([int(token[3:5], 16)])
        return (token.replace("\u2581", " ") if self._spaces else token).encode()


def _kinds(state: Any) -> set[str]:
    """Names of a decoder and of those that it is made of."""
    return {state["type"]}.union(*map(_kinds, state.get("decoders", ())))


def _byte_characters() -> dict[str, int]:
    """Characters by which byte-level BPE writes bytes: those that can be seen themselves, the others from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + n): byte for n, byte in enumerate(others)}


_BYTES = _byte_characters()


def readable_text(content: bytes) -> tuple[str, list[int], list[tuple[int, int]]]:
    r"""Bytes as a text, with U+FFFD in the place of each run that is no UTF-8.

    Returns:
        The text; how many bytes of it there are up to the end of each of these bytes (of a run, U+FFFD ends with the
        last one); and where each U+FFFD begins and ends in it.

    Example:
        >>> readable_text(b"a\xe4\xbd")
        ('a�', [1, 1, 4], [(1, 4)])
    """
    text, ends, runs, start = "", [], [], 0
    while start < len(content):
        try:
            text, valid, end = text + content[start:].decode(), len(content), len(content)
        except UnicodeDecodeError as error:
            valid, end = start + error.start, start + error.end
            text += content[start:valid].decode() + "\ufffd"
        width = ends[-1] if ends else 0
        ends += range(width + 1, width + 1 + valid - start)
        if end > valid:
            width += valid - start
            ends += [*[width] * (end - valid - 1), width + 3]
            runs.append((width, width + 3))
        start = end
    return text, ends, runs
