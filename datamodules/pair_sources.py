"""From the rows of a table to preference pairs, in the conventions of TRL."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import regex

from datamodules.messages import has_images, messages_of, place_images, refuse_tools
from datamodules.sources import columns_of, images_of
from datamodules.tables import Row, TableArgs, read_rows
from lit_uniopd.errors import UserError
from lit_uniopd.types import Message, PreferencePair, Prompt

_ROLES = ("prompt", "chosen", "rejected", "score_chosen", "score_rejected", "id", "domain", "images")
_REQUIRED = ("chosen", "rejected")


@dataclass
class PairSourceArgs(TableArgs):
    """One table of preference pairs, in any of TRL's forms.

    Answers are texts or lists of chat messages. The prompt is a column of its own, or what both answers begin with.
    Under its default name a column other than `chosen` and `rejected` may be missing; "" leaves it unread.
    """

    prompt_column: str = "prompt"
    """Column of the question, a text or chat messages. Where answers are whole conversations, it is not needed."""
    chosen_column: str = "chosen"
    """Column of the preferred answer."""
    rejected_column: str = "rejected"
    """Column of the other answer."""
    score_chosen_column: str = "score_chosen"
    """Column of the preferred answer's quality, a number."""
    score_rejected_column: str = "score_rejected"
    """Column of the other answer's quality."""
    id_column: str = "id"
    """Column of a name, unique in the source. Without one, rows are named file:line."""
    domain_column: str = "domain"
    """Column of the domain."""
    images_column: str = "images"
    """Column of a picture or a list of them, which the prompt is about. Under its default name, `image` will do too."""
    domain: str | None = None
    """Domain of the rows whose domain column is missing, unread or empty."""
    weight: float = 1.0
    """How often each pair is seen per pass over the training data."""


def read_pairs(source: PairSourceArgs, flag: str) -> list[PreferencePair]:
    """Read a source.

    Args:
        source: where the rows are and which column holds what.
        flag: the option that ``source`` came from (``--data.train``), for messages.

    Raises:
        UserError: naming the file, the row or the column that is wrong.
    """
    rows = read_rows(source, flag)
    columns = _columns(source, rows, flag)
    return [_pair(source, columns, row) for row in rows]


def _columns(source: PairSourceArgs, rows: Sequence[Row], flag: str) -> dict[str, str]:
    """As `columns_of`; `image` does for `images`, and scores are of both sides or of none."""
    columns = columns_of(source, rows, flag, roles=_ROLES, required=_REQUIRED)
    if "images" not in columns and source.images_column and any("image" in row.values for row in rows):
        columns["images"] = "image"
    if ("score_chosen" in columns) != ("score_rejected" in columns):
        missing = "score_chosen" if "score_rejected" in columns else "score_rejected"
        raise UserError(f"{source.path} has scores of one side only; name the other by {flag}.{missing}_column.")
    return columns


def _pair(source: PairSourceArgs, columns: Mapping[str, str], row: Row) -> PreferencePair:
    refuse_tools(row, columns)
    cells = {role: row.values.get(name) for role, name in columns.items()}
    for side in _REQUIRED:
        if cells[side] in (None, []):
            raise UserError(f"{row.where}: column {columns[side]!r} is empty; give both answers or remove the row.")
    messages, chosen, rejected = _split(cells, columns, row)
    images = images_of(cells.get("images"), row, columns.get("images"))
    identity = cells.get("id")
    prompt = Prompt(
        id=row.name if identity in (None, "") else str(identity),
        messages=place_images(messages, len(images), row.where) if images or has_images(messages) else messages,
        domain=cells.get("domain") or source.domain or "default",
        images=images,
        row={name: value for name, value in row.values.items() if name not in columns.values()},
    )
    scores = {side: _score(cells.get(f"score_{side}"), columns.get(f"score_{side}"), row) for side in _REQUIRED}
    return PreferencePair(prompt, chosen, rejected, score_chosen=scores["chosen"], score_rejected=scores["rejected"])


def _split(cells: Mapping[str, Any], columns: Mapping[str, str], row: Row) -> tuple[tuple[Message, ...], str, str]:
    """Prompt and answers."""
    chosen, rejected = cells["chosen"], cells["rejected"]
    if isinstance(chosen, str) and isinstance(rejected, str):
        if cells.get("prompt") is None:
            if not (length := _prompt_length(chosen, rejected)):
                raise UserError(
                    f"{row.where} has no prompt, neither as a column nor as what both answers begin with; add one."
                )
            return ({"role": "user", "content": chosen[:length]},), chosen[length:], rejected[length:]
        return messages_of(cells["prompt"], row, columns["prompt"]), chosen, rejected
    turns = {side: messages_of(cells[side], row, columns[side]) for side in _REQUIRED}
    texts = {side: _answer(messages) for side, messages in turns.items()}
    for side, text in texts.items():
        if text is None:
            raise UserError(
                f"{row.where}: column {columns[side]!r} must end with a message of the assistant, "
                '{"role": "assistant", "content": "..."}.'
            )
    before = turns["chosen"][:-1]
    if before != turns["rejected"][:-1]:
        raise UserError(
            f"{row.where}: chosen and rejected answer different conversations; both must begin with the same messages."
        )
    if not before or before[0]["role"] == "assistant":  # the columns have only what follows the prompt
        if cells.get("prompt") is None:
            raise UserError(
                f"{row.where} has no prompt, neither as a column nor as what both answers begin with; add one."
            )
        before = messages_of(cells["prompt"], row, columns["prompt"]) + before
    return before, str(texts["chosen"]), str(texts["rejected"])


def _prompt_length(chosen: str, rejected: str) -> int:
    """Characters of the whole words that both answers begin with, and that leave each of them at least one.

    Unlike TRL's, the prompt never ends inside a word, which the tokens of a chat template could not take apart again.
    As in TRL, the space before the first word of the answers is theirs.
    """
    shorter = min(len(chosen), len(rejected))
    common = next((i for i in range(shorter) if chosen[i] != rejected[i]), shorter)
    ends = _word_ends(chosen) & _word_ends(rejected)
    length = max((end for end in ends if end <= common and chosen[end:].strip() and rejected[end:].strip()), default=0)
    return length - int(length > 0 and chosen[length - 1] == " ")


def _word_ends(text: str) -> set[int]:
    """Where a word, number or sign begins or ends, by Unicode's rules; Chinese characters are words of their own."""
    return {match.start() for match in regex.finditer(r"(?w)\b", text)}


def _answer(turns: Sequence[Message]) -> str | None:
    """Text of the last message if it is the assistant's."""
    content = turns[-1]["content"] if turns[-1]["role"] == "assistant" else None
    return content if isinstance(content, str) else None


def _score(cell: Any, column: str | None, row: Row) -> float:
    if column is None:
        return float("nan")
    if isinstance(cell, bool) or not isinstance(cell, int | float) or cell != cell or abs(cell) == float("inf"):
        raise UserError(
            f"{row.where}: column {column!r} must hold a finite number, not {cell!r}; mend or remove the row, or leave "
            'scores unread by setting both score columns to "".'
        )
    return float(cell)
