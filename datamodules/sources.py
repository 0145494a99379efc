"""From the rows of a table to prompts: which column holds what."""

import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.messages import has_images, messages_of, place_images, refuse_tools
from datamodules.tables import Row, TableArgs, read_rows
from lit_uniopd.errors import UserError
from lit_uniopd.types import Message, Prompt

log = logging.getLogger(__name__)

_ROLES = (
    *("prompt", "answer", "id", "domain", "teacher", "grader", "images"),
    *("teacher_prompt", "teacher_system", "teacher_images"),
)
"""What the columns hold; also their default names."""


@dataclass
class SourceArgs(TableArgs):
    """One table of prompts: which column holds what, and what its rows have in common.

    Under its default name a column may be missing, under another it must exist; null or "" leaves it unread.
    """

    prompt_column: str = "prompt"
    """Column of the question, a text or a list of chat messages; it must exist."""
    answer_column: str | None = "answer"
    """Column of the gold answer, in the form that the row's grader takes."""
    id_column: str | None = "id"
    """Column of a name, unique in the source. Without one, rows are named file:line."""
    domain_column: str | None = "domain"
    """Column of the domain: curves are split by it, and it routes to the teacher of the same name."""
    teacher_column: str | None = "teacher"
    """Column of the name of the teacher that scores the row's answers."""
    grader_column: str | None = "grader"
    """Column of the name of the row's grader."""
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
    teacher: str | None = None
    """Teacher of the rows whose teacher column is missing, unread or empty. Default: the one named like the domain."""
    grader: str | None = None
    """Grader of the rows whose grader column is missing, unread or empty. Default: none; UniOPD asks for one
    if there are gold answers."""
    only_domains: list[str] | None = None
    """Read only the rows of these domains. Default: all."""
    weight: float = 1.0
    """How often each row is seen per pass over the training data: 2 is twice, 0.5 every other pass."""


def read_prompts(source: SourceArgs, flag: str) -> list[Prompt]:
    """Read a source.

    Args:
        source: where the rows are and which column holds what.
        flag: the option that ``source`` came from (``--data.train``), for messages.

    Raises:
        UserError: naming the file, the row or the column that is wrong.
    """
    rows = read_rows(source, flag)
    columns = columns_of(source, rows, flag, roles=_ROLES, required=("prompt",))
    prompts = [_prompt(source, columns, row) for row in rows]
    if source.only_domains is not None:
        chosen = [i for i, prompt in enumerate(prompts) if prompt.domain in source.only_domains]
        log.info("%s: %d of %d rows are of %s.", source.path, len(chosen), len(rows), ", ".join(source.only_domains))
        domains = {prompt.domain for prompt in prompts}
        if missing := set(source.only_domains) - domains:
            raise UserError(
                f"{flag}.only_domains has {min(missing)!r}, but {source.path} has {', '.join(sorted(domains))}; choose "
                "among these."
            )
        prompts, rows = [prompts[i] for i in chosen], [rows[i] for i in chosen]
    row_of_id: dict[str, Row] = {}
    for prompt, row in zip(prompts, rows, strict=True):
        if (first := row_of_id.setdefault(prompt.id, row)) is not row:
            raise UserError(
                f"{row.where} has the same id {prompt.id!r} as {first.where}; name a column of unique ids by "
                f'{flag}.id_column, or set it to "" to name rows by file and line.'
            )
    return prompts


def columns_of(
    source: TableArgs, rows: Sequence[Row], flag: str, *, roles: Sequence[str], required: Sequence[str]
) -> dict[str, str]:
    """Role (``answer``) -> the column that holds it, for the roles whose column exists.

    Args:
        source: has a ``<role>_column`` for each role.
        rows: of the table.
        flag: the option that ``source`` came from, for messages.
        roles: what columns can hold.
        required: those of them that must exist; another may be missing under its default name, and null or "" leaves
            it unread.

    Raises:
        UserError: naming the column that is missing.
    """
    present = list(dict.fromkeys(name for row in rows for name in row.values))
    columns: dict[str, str] = {}
    for role in roles:
        name = getattr(source, f"{role}_column")
        if not name and role not in required:
            continue
        if name in present:
            columns[role] = name
        elif name != role or role in required:
            raise UserError(
                f"{source.path} has no column {name!r}; choose {flag}.{role}_column from {', '.join(present)}."
            )
    return columns


def _prompt(source: SourceArgs, columns: Mapping[str, str], row: Row) -> Prompt:
    def cell(role: str) -> Any:
        value = row.values.get(columns[role]) if role in columns else None
        return None if value == "" else value

    def text(role: str) -> str | None:
        if not isinstance(value := cell(role), str | None):
            raise UserError(f"{row.where}: column {columns[role]!r} must hold a text, not {type(value).__name__}.")
        return value

    if not isinstance(identity := cell("id"), str | int | None):
        raise UserError(f"{row.where}: column {columns['id']!r} must hold a text or a whole number.")
    refuse_tools(row, columns)
    images = images_of(cell("images"), row, columns.get("images"))
    pictures = cell("teacher_images")
    teacher_images = None if pictures is None else images_of(pictures, row, columns["teacher_images"])
    messages = messages_of(cell("prompt"), row, columns["prompt"])
    return Prompt(
        id=row.name if identity is None else str(identity),
        messages=place_images(messages, len(images), row.where) if images or has_images(messages) else messages,
        gold=cell("answer"),
        domain=text("domain") or source.domain or "default",
        teacher=text("teacher") or source.teacher,
        grader=text("grader") or source.grader,
        images=images,
        row={name: value for name, value in row.values.items() if name not in columns.values()},
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


def images_of(cell: Any, row: Row, column: str | None) -> tuple[Any, ...]:
    """The pictures of a row.

    Raises:
        UserError: naming the row and the column.
    """
    if cell is None:
        return ()
    return tuple(_image(item, row, column) for item in (cell if isinstance(cell, list) else [cell]))


def _image(item: Any, row: Row, column: str | None) -> Any:
    """A picture as its path, its URL, or lazily opened from its bytes."""
    if isinstance(item, dict) and isinstance(item.get("bytes"), bytes):
        from PIL import Image, UnidentifiedImageError

        try:
            return Image.open(io.BytesIO(item["bytes"]))
        except UnidentifiedImageError as error:
            raise UserError(f"{row.where}: column {column!r} holds no readable picture; remove the row.") from error
    reference = item.get("path") if isinstance(item, dict) else item
    if not isinstance(reference, str):
        raise UserError(f"{row.where}: column {column!r} must hold paths of pictures, or embedded pictures.")
    if reference.startswith(("http://", "https://")):
        return reference
    path = (row.folder or Path()) / Path(reference).expanduser()
    if not path.is_file():
        raise UserError(f"{row.where}: the picture {path} does not exist; mend column {column!r} or remove the row.")
    return str(path)
