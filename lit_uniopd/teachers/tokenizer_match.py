"""Whether two models mean the same by a token id."""

import logging
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lit_uniopd.errors import UserError

log = logging.getLogger(__name__)


def foreign_ids(student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase, name: str) -> Tensor:
    """Ids of the student's tokens that the teacher does not know.

    The token tables are compared, not ``vocab_size``: models of one family often pad their vocabularies differently,
    which is harmless.

    Raises:
        UserError: if an id means different tokens to the two.
    """
    student_ids, teacher_ids = student.get_vocab(), teacher.get_vocab()
    clash = {token: i for token, i in student_ids.items() if teacher_ids.get(token, i) != i}
    teacher_tokens = {i: token for token, i in teacher_ids.items()}
    clash |= {token: i for token, i in student_ids.items() if token not in teacher_ids and i in teacher_tokens}
    if clash:
        token, i = min(clash.items(), key=lambda item: item[1])
        raise UserError(
            f"--model.teachers.{name} has another tokenizer than --model.student: token {i} is {token!r} to the "
            f"student and {teacher_tokens.get(i)!r} to the teacher ({len(clash)} tokens differ); choose models of "
            f"one family, or let --model.teachers.{name}.cross_tokenizer align their texts."
        )
    missing = sorted(i for token, i in student_ids.items() if token not in teacher_ids)
    if missing:
        log.warning(
            "Teacher %r does not know %d of the student's tokens (%s ...); answers that use them are not scored.",
            name,
            len(missing),
            student.convert_ids_to_tokens(missing[0]),
        )
    return torch.tensor(missing, dtype=torch.long)


def probe_ids(tokenizer: PreTrainedTokenizerBase, count: int = 128) -> list[int]:
    """Ordinary tokens, evenly spread over the vocabulary, by which to tell tokenizers apart.

    Special and added ones are left out: servers give some of them a meaning, places of pictures for one.
    """
    untyped: Any = tokenizer  # some of its methods are in subclasses only
    added = {*untyped.get_added_vocab().values(), *untyped.all_special_ids}
    ids = sorted(set(tokenizer.get_vocab().values()) - added)
    return ids if len(ids) <= count else [ids[i * len(ids) // count] for i in range(count)]


def text_mismatches(
    tokenizer: PreTrainedTokenizerBase, ids: list[int], texts: list[str | None]
) -> list[tuple[int, str, str]]:
    """Ids whose text at a server is not the tokenizer's: (id, the tokenizer's text, the server's text).

    Spaces at the ends are not compared, nor bytes that are no character by themselves: texts of single tokens are
    cleaned up differently.
    """
    mismatches = []
    for i, server_text in zip(ids, texts, strict=True):
        local_text = str(tokenizer.decode([i]))
        if server_text is None or "\ufffd" in local_text + server_text:
            continue
        if local_text.strip() != server_text.strip():
            mismatches.append((i, local_text, server_text))
    return mismatches
