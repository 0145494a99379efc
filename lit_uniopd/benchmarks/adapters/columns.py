"""The adapter of most benchmarks: each column has a role."""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any

from lit_uniopd.benchmarks.adapters.base import Adapted, AdapterContext
from lit_uniopd.benchmarks.spec import BenchmarkSpec, Example, PromptFormat
from lit_uniopd.errors import UserError
from lit_uniopd.rewards import is_custom

if TYPE_CHECKING:
    from lit_uniopd.types import Message

Row = Mapping[str, Any]

_FIELD = re.compile(r"\{([a-z_]+)\}")
_PICTURE_MARK = re.compile(r"<image ?\d*>")
_HALF_WIDTH = str.maketrans("；，：．（）", ";,:.()")  # noqa: RUF001
_MARK = re.compile(r"(?:^|(?<=[\s;,、。]))(\(?)([A-Z])([.:)、])")
_PARTED_BY = (("\n",), ("\n", ";"), ("",))
"""What stands before a mark: first what seldom is part of an option, last anything."""


def columns(rows: Sequence[Row], spec: BenchmarkSpec, context: AdapterContext) -> Adapted:
    """One example per row.

    ``adapter_args``:

    - ``answer``: ``text`` (default), ``letter``, or ``index`` of the right option, from 0.
    - ``where``: ``{role: value}``; other rows are not part of the benchmark.
    - ``keep``: roles that graders, metrics or exports read.
    - ``id_of``: roles that together name a row, where no column does alone.

    Args:
        rows: of the data set.
        spec: what the columns mean.
        context: not used.
    """
    where: Mapping[str, Any] = spec.adapter_args.get("where", {})
    examples = []
    for number, row in enumerate(rows):
        values = roles_of(row, spec)
        if all(str(values.get(role)) == str(required) for role, required in where.items()):
            examples.append(example_of(values, spec, number))
    return Adapted(examples)


def roles_of(row: Row, spec: BenchmarkSpec) -> dict[str, Any]:
    """Role -> cell.

    Raises:
        UserError: if the row lacks a column.
    """
    missing = [column for column in spec.columns.values() if column not in row]
    if missing:
        raise UserError(
            f"Benchmark {spec.key}: the data set has no column {missing[0]!r} (it has {', '.join(row)}); it has "
            "changed: pin hub.revision, or give --data.benchmarks a YAML file with its new columns."
        )
    return {role: row[column] for role, column in spec.columns.items()}


def example_of(values: Mapping[str, Any], spec: BenchmarkSpec, number: int) -> Example:
    """A row's roles as an example.

    Args:
        values: role -> cell.
        spec: prompt, scoring and report.
        number: of the row, which names it if nothing else does.
    """
    choices = choices_of(values.get("options"))
    texts = {role: str(value) for role, value in values.items() if not role.startswith("image") and value is not None}
    texts["options"] = lettered(choices) if choices else texts.get("options", "")
    images = pictures(value for role, value in values.items() if role.startswith("image"))
    return Example(
        id=row_id(values, spec, number),
        messages=chat(spec.prompt, fill_template(spec.prompt.template, texts), len(images)),
        gold=gold_of(values.get("answer"), choices, spec),
        images=images,
        group="" if spec.group is None else str(values[spec.group]),
        options={"choices": choices} if choices and spec.scoring.grader in ("choice", "math") else {},
        breakdown={name: str(values[name]) for name in spec.report.breakdown if name in values},
        row=_row_for_grader(values, spec),
    )


def _row_for_grader(values: Mapping[str, Any], spec: BenchmarkSpec) -> dict[str, Any]:
    """The roles that its adapter's arguments keep; all but the pictures for a user's grader."""
    if any(map(is_custom, (spec.scoring.grader or "", *spec.scoring.also))):
        return {role: value for role, value in values.items() if not role.startswith("image")}
    return {role: values[role] for role in spec.adapter_args.get("keep", ())}


def row_id(values: Mapping[str, Any], spec: BenchmarkSpec, number: int) -> str:
    """Name of a row: from its columns where the data set has names, else its number."""
    roles = spec.adapter_args.get("id_of", ["id"] if "id" in values else [])
    return "/".join(str(values[role]) for role in roles) or str(number)


def gold_of(answer: Any, choices: Mapping[str, str], spec: BenchmarkSpec) -> Any:
    """The gold answer as graders take it."""
    style = spec.adapter_args.get("answer", "text")
    if style == "index":
        return ascii_uppercase[int(answer)]
    if style == "letter" or not choices or not isinstance(answer, str):
        return answer.strip() if style == "letter" and isinstance(answer, str) else answer
    return next((letter for letter, text in choices.items() if text.strip() == answer.strip()), answer)


def choices_of(options: Any) -> dict[str, str]:
    """Letter -> option, from a list, a mapping, or a text like ``A. one; B. two``.

    Empty without options, and for a text that can be split in several ways, or in none: it stays as it is.
    """
    if options is None or (isinstance(options, str) and not options.strip()):
        return {}
    if isinstance(options, Mapping):
        return {str(letter): str(text) for letter, text in options.items() if text is not None}
    if isinstance(options, str):
        return _split(options.strip())
    return {letter: str(text) for letter, text in zip(ascii_uppercase, options, strict=False)}


def _split(text: str) -> dict[str, str]:
    """The options of a text whose marks are of one style and run A, B, C ... from its beginning."""
    plain = text.translate(_HALF_WIDTH)
    first = _MARK.match(plain)
    if first is None or first[2] != "A":
        return {}
    marks = [mark for mark in _MARK.finditer(plain) if mark.group(1, 3) == first.group(1, 3)]
    most = max(map(len, _longest_runs(plain, marks)), default=0)
    for ends in _PARTED_BY:
        parting = [mark for mark in marks[1:] if plain[: mark.start()].rstrip(" \t").endswith(ends)]
        runs = _longest_runs(plain, [marks[0], *parting])
        if runs and len(runs[0]) > 1:  # options that are parted in more than one manner are not told from their texts
            ends_of = [*runs[0][1:], None]
            options = {mark[2]: _option(text, mark, end) for mark, end in zip(runs[0], ends_of, strict=True)}
            return options if len(runs) == 1 and len(options) == most else {}
    return {}


def _option(text: str, mark: re.Match[str], end: re.Match[str] | None) -> str:
    return text[mark.end() : None if end is None else end.start()].strip(" \t\r\n;,；，、")  # noqa: RUF001


def _longest_runs(text: str, marks: Sequence[re.Match[str]]) -> list[list[re.Match[str]]]:
    """Ways from the first mark through one of each following letter, with an option behind each; two are enough."""
    runs = [[marks[0]]]
    for letter in ascii_uppercase[1:]:
        longer: list[list[re.Match[str]]] = []
        for mark in (mark for mark in marks if mark[2] == letter):
            before = (run for run in runs if run[-1].end() <= mark.start() and _option(text, run[-1], mark))
            longer += [[*run, mark] for run in islice(before, 2)]
        if not longer:
            break
        runs = longer
    return [run for run in runs if _option(text, run[-1], None)]


def lettered(choices: Mapping[str, str]) -> str:
    """Options as lines."""
    return "\n".join(f"{letter}. {text}" for letter, text in choices.items())


def fill_template(template: str, texts: Mapping[str, str]) -> str:
    """The template with its fields filled in; other braces (LaTeX) stay."""
    return _FIELD.sub(lambda match: texts.get(match[1], match[0]), template)


def chat(prompt: PromptFormat, text: str, pictures: int) -> "tuple[Message, ...]":
    """System and user turn; pictures stand where the text marks their places, else before or behind it."""
    system: tuple[Message, ...] = ({"role": "system", "content": prompt.system},) if prompt.system else ()
    if not pictures:
        return (*system, {"role": "user", "content": text})
    segments = _PICTURE_MARK.split(text) if prompt.user_text == "marked" else [text]
    content: list[dict[str, str]] = []
    if len(segments) == pictures + 1:
        for i, segment in enumerate(segments):
            content += [{"type": "image"}] if i else []
            content += [{"type": "text", "text": segment}] if segment.strip() else []
    else:
        text = "".join(segments)
        image_parts = [{"type": "image"}] * pictures
        text_parts = [{"type": "text", "text": text if prompt.user_text == "as_is" else text.strip()}]
        content = [*image_parts, *text_parts] if prompt.image_first else [*text_parts, *image_parts]
    return (*system, {"role": "user", "content": content})


def question_chat(prompt: PromptFormat, question: str) -> "tuple[Message, ...]":
    """The chat about one text; its braces stay as they are."""
    return chat(prompt, fill_template(prompt.template, {"question": question}), 0)


def pictures(cells: Iterable[Any]) -> tuple[Any, ...]:
    """The pictures of a row, in order; a cell holds one, a list of them, or none."""
    images: list[Any] = []
    for cell in cells:
        images += [picture(item) for item in (cell if isinstance(cell, list) else [cell]) if item is not None]
    return tuple(images)


def picture(cell: Any) -> Any:
    """A path, a loaded picture, or the bytes of its file: thousands of pictures must not be decoded at once.

    Raises:
        UserError: if the cell holds no picture.
    """
    if isinstance(cell, Mapping) and isinstance(cell.get("bytes"), bytes):
        return cell["bytes"]
    reference = cell.get("path") if isinstance(cell, Mapping) else cell
    if isinstance(reference, str) or hasattr(reference, "convert"):
        return reference
    raise UserError(
        f"A picture is missing: a cell of the picture column holds {type(cell).__name__}; name another column."
    )
