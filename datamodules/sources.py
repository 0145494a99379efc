"""From the rows of a table to prompts: which column holds what."""

import io
import logging
from array import array
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from datamodules.columns import columns_of, lookup, other_columns
from datamodules.formats import PROMPT_FORMATS, ConvertedRows, PromptFormat, in_our_form
from datamodules.messages import has_images, messages_of, place_images, refuse_tools
from datamodules.picture_folder import PictureFolder
from datamodules.rows import MadeOf, Row
from datamodules.tables import TableArgs, read_rows
from datamodules.teacher_names import teacher_of
from datamodules.unique_ids import refuse_repeated_ids
from lit_uniopd.errors import UserError
from lit_uniopd.rewards import is_custom, named_grader
from lit_uniopd.types import Message, Prompt
from lit_uniopd.utils.progress import track

log = logging.getLogger(__name__)

_ROLES = (
    *("prompt", "answer", "id", "domain", "teacher", "grader", "images"),
    *("teacher_prompt", "teacher_system", "teacher_images"),
)
"""What the columns hold; also their default names."""
KEPT_BYTES = 64 << 20
"""Prompts of a source up to this size are kept in memory; those of larger ones are made when they are asked for."""


@dataclass
class SourceArgs(TableArgs):
    """One table of prompts: which column holds what, and what its rows have in common.

    Under its default name a column may be missing, under another it must exist; null or "" leaves it unread. Dots lead
    into nested columns: `reward_model.ground_truth`.
    """

    format: PromptFormat | None = None
    """As whom the rows were written for: `verl`, or `prime` (Eurus-2-RL). It names the columns that keep their default
    names, and rows whose gold answers are tests get the grader `code`. Default: rows are as the columns say."""
    prompt_column: str = "prompt"
    """Column of the question, a text or a list of chat messages; it must exist."""
    answer_column: str | None = "answer"
    """Column of the gold answer, in the form that the row's grader takes."""
    id_column: str | None = "id"
    """Column of a name, unique in the source. Without one, rows are named file:line."""
    domain_column: str | None = "domain"
    """Column of the domain: curves are split by it, and it routes to the teacher of the same name."""
    teacher_column: str | None = "teacher"
    """Column of the name of the teacher that scores the row's answers; several are mixed: `[math, code]`, or with
    weights `{math: 0.7, code: 0.3}`."""
    grader_column: str | None = "grader"
    """Column of the name of the row's grader, or of its dotted path."""
    images_column: str | None = "images"
    """Column of a picture or a list of them: embedded, or paths that start from the file's folder. They take the places
    of <image> in the prompt, or stand before it."""
    teacher_prompt_column: str | None = "teacher_prompt"
    """Column of what the row's teacher reads in the place of the prompt, in the form of that; the student does not."""
    teacher_system_column: str | None = "teacher_system"
    """Column of the system message that the row's teacher reads."""
    teacher_images_column: str | None = "teacher_images"
    """Column of the pictures that the row's teacher sees in the place of the row's; an empty list: none."""
    domain: str | None = None
    """Domain of the rows whose domain column is missing, unread or empty."""
    teacher: str | list[str] | dict[str, float] | None = None
    """Teacher of the rows whose teacher column is missing, unread or empty, or several as in that column. Default: the
    one named like the domain."""
    grader: str | Callable[..., Any] | None = None
    """Grader of the rows whose grader column is missing, unread or empty: a name, my_module.is_right for your own, or,
    in Python, the function itself. Default: none; UniOPD asks for one if there are gold answers."""
    only_domains: list[str] | None = None
    """Read only the rows of these domains. Default: all."""
    row_graders: list[str] = field(default_factory=list)
    """Graders of your own that the rows' grader column may name, `[my_module.is_right]`; data alone choose no code."""
    weight: float = 1.0
    """How often each row is seen per pass over the training data: 2 is twice, 0.5 every other pass."""

    def __post_init__(self) -> None:
        if self.grader is not None:
            self.grader = named_grader(self.grader)
        for name in self.row_graders:
            named_grader(name)


_CONSTANTS: dict[str, Callable[..., None]] = {"domain": log.warning, "teacher": log.warning, "grader": log.info}
"""What a source gives to rows that have none -> how it is said that all have. Configs give a grader just in case."""


class PromptTable(MadeOf[Prompt]):
    """The prompts of a source.

    Args:
        rows: of the source.
        prompts: those that are kept in memory; None: none are.
        make: from a row to its prompt.
        chosen: numbers of the rows; None: all.

    Attributes:
        unusable: why rows of a published format were dropped -> how many.
        without_answer: prompts that have no gold answer.
    """

    unusable: Counter[str]
    without_answer: int


def read_prompts(source: SourceArgs, flag: str) -> PromptTable:
    """Read a source, and check every row of it.

    Args:
        source: where the rows are and which column holds what.
        flag: the option that ``source`` came from (``--data.train``), for messages.

    Raises:
        UserError: naming the file, the row or the column that is wrong.
    """
    published = None if source.format is None else PROMPT_FORMATS[source.format]
    table = read_rows(source, flag)
    published = None if published is None else published.beside(table, source, flag)
    rows = in_our_form(table, published, source, _ROLES)
    named = None if published is None else published.columns
    columns = columns_of(source, rows, flag, roles=_ROLES, required=("prompt",), published=named)
    teacher = teacher_of(source.teacher, f"{flag}.teacher")
    make = partial(_prompt, source, columns, PictureFolder.of(source, flag), teacher)
    keeps = rows.nbytes <= KEPT_BYTES
    kept: list[Prompt] = []
    chosen, domains, without_answer, ids = array("q"), dict[str, int](), 0, array("q")
    unused = {role for role in _CONSTANTS if getattr(source, role) is not None and role in columns}
    for number, row in enumerate(track(rows, f"Checking {source.path}")):
        prompt = make(row)
        unused -= {role for role in unused if _is_empty(lookup(row.values, columns[role]))}
        domains[prompt.domain] = domains.get(prompt.domain, 0) + 1
        if source.only_domains is not None and prompt.domain not in source.only_domains:
            continue
        chosen.append(number)
        ids.append(hash(prompt.id))
        without_answer += prompt.gold is None
        if keeps:
            kept.append(prompt)
    if source.only_domains is not None:
        log.info("%s: %d of %d rows are of %s.", source.path, len(chosen), len(rows), ", ".join(source.only_domains))
        if missing := set(source.only_domains) - set(domains):
            raise UserError(
                f"{flag}.only_domains has {min(missing)!r}, but {source.path} has {', '.join(sorted(domains))}; choose "
                "among these."
            )
    for role in sorted(unused) if len(rows) else ():
        _CONSTANTS[role](
            "%s.%s %s has no effect: every row of %s has its own in column %r; set %s.%s_column null to use it.",
            *(flag, role, getattr(source, role), source.path, columns[role], flag, role),
        )
    everything = None if len(chosen) == len(rows) else chosen
    if "id" in columns:
        named_rows = MadeOf(rows, lambda row: (make(row).id, row.where), everything)
        refuse_repeated_ids(ids, named_rows, f"{flag}.id_column")
    prompts = PromptTable(kept, lambda prompt: prompt) if keeps else PromptTable(rows, make, everything)
    prompts.without_answer = without_answer
    prompts.unusable = rows.dropped if isinstance(rows, ConvertedRows) else Counter()
    return prompts


def _is_empty(cell: Any) -> bool:
    """Whether a row leaves the choice to its source; Arrow gives every struct all names."""
    return not (any(cell.values()) if isinstance(cell, Mapping) else cell)


def _prompt(
    source: SourceArgs,
    columns: Mapping[str, str],
    pictures: PictureFolder | None,
    source_teacher: str | dict[str, float] | None,
    row: Row,
) -> Prompt:
    def cell(role: str) -> Any:
        value = lookup(row.values, columns[role]) if role in columns else None
        return None if value == "" else value

    def text(role: str) -> str | None:
        if not isinstance(value := cell(role), str | None):
            raise UserError(f"{row.where}: column {columns[role]!r} must hold a text, not {type(value).__name__}.")
        return value

    if not isinstance(identity := cell("id"), str | int | None):
        raise UserError(f"{row.where}: column {columns['id']!r} must hold a text or a whole number.")
    refuse_tools(row, columns)
    images = images_of(cell("images"), row, columns.get("images"), pictures)
    teacher_cell = cell("teacher_images")
    teacher_images = None if teacher_cell is None else images_of(teacher_cell, row, columns["teacher_images"], pictures)
    grader = text("grader") or (None if source.grader is None else str(source.grader))
    messages = messages_of(cell("prompt"), row, columns["prompt"])
    return Prompt(
        id=row.name if identity is None else str(identity),
        messages=place_images(messages, len(images), row.where) if images or has_images(messages) else messages,
        gold=cell("answer"),
        domain=text("domain") or source.domain or "default",
        teacher=teacher_of(cell("teacher"), f"{row.where}: column {columns.get('teacher')!r}") or source_teacher,
        grader=grader,
        images=images,
        row=_row_for_grader(columns, row, grader),
        teacher_messages=_teacher_messages(cell("teacher_prompt"), row, columns, images, teacher_images),
        teacher_system=text("teacher_system"),
        teacher_images=teacher_images,
    )


def _teacher_messages(
    cell: Any,
    row: Row,
    columns: Mapping[str, str],
    images: tuple[Any, ...],
    teacher_images: tuple[Any, ...] | None,
) -> tuple[Message, ...] | None:
    """The conversation that the row's teacher reads, with places for its pictures; None: the student's."""
    if cell is None:
        return None
    messages = messages_of(cell, row, columns["teacher_prompt"])
    count = len(images if teacher_images is None else teacher_images)
    return place_images(messages, count, row.where) if count or has_images(messages) else messages


def _row_for_grader(columns: Mapping[str, str], row: Row, grader: str | None) -> dict[str, Any]:
    """The columns that no role has; all but the pictures for a user's grader, who knows them by their names."""
    if not is_custom(grader or ""):
        return other_columns(row, columns)
    return {name: value for name, value in row.values.items() if name != columns.get("images")}


def images_of(cell: Any, row: Row, column: str | None, pictures: PictureFolder | None = None) -> tuple[Any, ...]:
    """The pictures of a row.

    Raises:
        UserError: naming the row and the column.
    """
    if cell is None:
        return ()
    return tuple(_image(item, row, column, pictures) for item in (cell if isinstance(cell, list) else [cell]))


def _image(item: Any, row: Row, column: str | None, pictures: PictureFolder | None) -> Any:
    """A picture as its path, its URL, or lazily opened from its bytes."""
    if isinstance(item, dict) and isinstance(item.get("bytes"), bytes):
        from PIL import Image, UnidentifiedImageError

        try:
            return Image.open(io.BytesIO(item["bytes"]))
        except UnidentifiedImageError as error:
            raise UserError(f"{row.where}: column {column!r} holds no readable picture; remove the row.") from error
    reference = item.get("path") if isinstance(item, dict) else item
    if isinstance(reference, int) and pictures is not None:
        reference = str(reference)
    if not isinstance(reference, str):
        raise UserError(f"{row.where}: column {column!r} must hold paths of pictures, or embedded pictures.")
    if reference.startswith(("http://", "https://")):
        return reference
    if pictures is not None:
        return pictures.find(reference, row.where)
    path = (row.folder or Path()) / Path(reference).expanduser()
    if not path.is_file():
        raise UserError(f"{row.where}: the picture {path} does not exist; mend column {column!r} or remove the row.")
    return str(path)
