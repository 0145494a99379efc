"""From the rows of a table to preference pairs, in the conventions of TRL."""

import math
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import regex

from datamodules.columns import Columned, columns_of, lookup, other_columns
from datamodules.formats import PAIR_FORMATS, ConvertedRows, Format, PairFormat, in_our_form
from datamodules.messages import has_images, messages_of, place_images, refuse_tools
from datamodules.picture_folder import PictureFolder
from datamodules.rows import MadeOf, Row
from datamodules.sources import KEPT_BYTES, images_of
from datamodules.tables import TableArgs, read_rows
from lit_uniopd.errors import UserError
from lit_uniopd.types import Message, PreferencePair, Prompt
from lit_uniopd.utils.progress import track

_ROLES = ("prompt", "chosen", "rejected", "score_chosen", "score_rejected", "id", "domain", "images")
_REQUIRED = ("chosen", "rejected")


@dataclass
class PairSourceArgs(TableArgs):
    """One table of preference pairs, in any of TRL's forms.

    Answers are texts or lists of chat messages. The prompt is a column of its own, or what both answers begin with.
    Under its default name a column other than `chosen` and `rejected` may be missing; "" leaves it unread. Dots lead
    into nested columns.
    """

    format: PairFormat | None = None
    """As whom the rows were written for: `ultrafeedback`, `armorm`, `chatml` (Omni-DPO's mathematics), `sentinel`,
    `swift` or `sharegpt`. Columns named here go before those of the format. Default: rows are as the columns say."""
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


class PairTable(MadeOf[PreferencePair]):
    """The pairs of a source.

    Attributes:
        unusable: why rows of a published format were dropped -> how many.
        scores: of the chosen and the rejected answer of each pair, one after the other; NaN: there are none.
        in_memory: whether the pairs are kept there; those of large sources are made when they are asked for.
    """

    unusable: Counter[str]
    scores: "array[float]"
    in_memory: bool


def read_pairs(source: PairSourceArgs, flag: str) -> PairTable:
    """Read a source, and check every row of it.

    Args:
        source: where the rows are and which column holds what.
        flag: the option that ``source`` came from (``--data.train``), for messages.

    Raises:
        UserError: naming the file, the row or the column that is wrong.
    """
    published = None if source.format is None else PAIR_FORMATS[source.format]
    keyed = None if published is None else published.keyed
    table = read_rows(source, flag, keyed)
    published = None if published is None else published.beside(table, source, flag)
    rows = in_our_form(table, published, source, _ROLES)
    columns = _columns(source, rows, flag, published)
    make = partial(_pair, source, columns, PictureFolder.of(source, flag))
    keeps = rows.nbytes <= KEPT_BYTES
    kept: list[PreferencePair] = []
    scores = array("d")
    for row in track(rows, f"Checking {source.path}"):
        pair = make(row)
        scores.extend((pair.score_chosen, pair.score_rejected))
        if keeps:
            kept.append(pair)
    pairs = PairTable(kept, lambda pair: pair) if keeps else PairTable(rows, make)
    pairs.unusable = rows.dropped if isinstance(rows, ConvertedRows) else Counter()
    pairs.scores, pairs.in_memory = scores, keeps
    return pairs


def _columns(source: PairSourceArgs, rows: Columned, flag: str, published: Format | None) -> dict[str, str]:
    """As `columns_of`; `image` does for `images`, and scores are of both sides or of none."""
    named = None if published is None else published.columns
    columns = columns_of(source, rows, flag, roles=_ROLES, required=_REQUIRED, published=named)
    if "images" not in columns and source.images_column and "image" in rows.columns:
        columns["images"] = "image"
    if ("score_chosen" in columns) != ("score_rejected" in columns):
        missing = "score_chosen" if "score_rejected" in columns else "score_rejected"
        raise UserError(f"{source.path} has scores of one side only; name the other by {flag}.{missing}_column.")
    return columns


def _pair(
    source: PairSourceArgs, columns: Mapping[str, str], pictures: PictureFolder | None, row: Row
) -> PreferencePair:
    refuse_tools(row, columns)
    cells = {role: lookup(row.values, name) for role, name in columns.items()}
    for side in _REQUIRED:
        if cells[side] in (None, []):
            raise UserError(f"{row.where}: column {columns[side]!r} is empty; give both answers or remove the row.")
    messages, chosen, rejected = _split(cells, columns, row)
    images = images_of(cells.get("images"), row, columns.get("images"), pictures)
    identity = cells.get("id")
    prompt = Prompt(
        id=row.name if identity in (None, "") else str(identity),
        messages=place_images(messages, len(images), row.where) if images or has_images(messages) else messages,
        domain=cells.get("domain") or source.domain or "default",
        images=images,
        row=other_columns(row, columns),
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
    try:
        score = float("nan") if isinstance(cell, bool) or not isinstance(cell, int | float | str) else float(cell)
    except ValueError:  # a text that is no number; those of CSV files are
        score = float("nan")
    if not math.isfinite(score):
        raise UserError(
            f"{row.where}: column {column!r} must hold a finite number, not {cell!r}; mend or remove the row, or leave "
            'scores unread by setting both score columns to "".'
        )
    return score
