"""What a teacher reads in the place of the student's prompt: a solution, worked examples, other pictures."""

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from lit_uniopd.errors import UserError, first_line
from lit_uniopd.types import Message, Prompt
from lit_uniopd.utils.seeding import derive_seed
from lit_uniopd.utils.strict_json import parse_json

Content = str | list[Any]
"""Of a message: a text, or texts and places of pictures."""

PROMPT = "prompt"
"""Field of a template that stands for the question."""
BEST = "best_answer"
"""Field of a template that stands for a right answer of the student's own to the question."""


@dataclass
class WorkedExample:
    """A question and its answer, which a teacher reads as an earlier turn."""

    prompt: str
    """The question."""
    answer: str
    """The answer, as the student is to write its own."""


@dataclass
class DrawArgs:
    """Solved rows of the training data, drawn anew for each prompt."""

    count: int
    """Rows of the prompt's domain that the teacher reads as earlier turns, behind `examples`; never the prompt."""
    answer: str = "{answer}"
    """Their answers: a template over the drawn row, `"{solution}"` for one that has its steps written out."""


@dataclass
class ReadsArgs:
    """What a teacher reads in the place of the student's prompt. The student never sees any of it, and both score the
    same answer. Rows say it themselves in the columns `teacher_prompt`, `teacher_system` and `teacher_images`, for
    which this need not be given.
    """

    template: str | None = None
    """What it reads in the place of the last question: `"{prompt}\\nA correct solution: {answer}"`. Fields are prompt,
    answer (the gold one), domain, id and the row's other columns; braces that belong to the text are doubled, and a
    list is written with what stands behind its colon between the entries (`{objects:; }`), else with commas. A row with
    a `teacher_prompt` is read without. `{best_answer}` is the best right answer of the same group, graded before
    the teacher scores; an answer that is the only right one, and groups without one, are read without the template."""
    system: str | None = None
    """Its system message, in the place of one that the prompt has; a row's `teacher_system` goes before it."""
    examples: str | list[WorkedExample] | None = None
    """Worked examples that it reads as earlier turns: a list of `{prompt, answer}`, or a .jsonl or .json file of such
    rows."""
    draw: DrawArgs | None = None
    """Further ones, drawn from the training rows that have an answer: the same for a prompt at every step, by the run's
    seed."""


class Reading:
    """From a prompt to what one teacher reads of it.

    Args:
        args: of the teacher; None: nothing but what rows say themselves.
        flag: the option that ``args`` came from, for messages.

    Raises:
        UserError: naming the option, if the template or the examples cannot be read.
    """

    def __init__(self, args: ReadsArgs | None, flag: str) -> None:
        self.args = args or ReadsArgs()
        self.flag = flag
        self.turns: list[tuple[str, str]] = []
        """Role and text of each turn of the worked examples."""
        for example in _examples(self.args.examples, f"--{flag}.examples"):
            self.turns += [("user", example.prompt), ("assistant", example.answer)]
        if self.args.template is not None:
            _check_template(self.args.template, f"--{flag}.template")
        if self.args.draw is not None:
            _check_template(self.args.draw.answer, f"--{flag}.draw.answer")
            if self.args.draw.count < 1:
                raise UserError(f"--{flag}.draw.count must be at least 1, got {self.args.draw.count}.")
        self.shows_best = args is not None and BEST in _fields(args.template or "")
        """Whether the template has a right answer of the student's own in it."""
        self._rows: Sequence[Prompt] = ()
        self._solved: dict[str, list[Prompt]] = {}
        self._seed = 0

    def learn_rows(self, prompts: Sequence[Prompt], seed: int) -> None:
        """Take these rows to draw from: those with an answer and one question of text, each once.

        Args:
            prompts: of the training data.
            seed: of the run.
        """
        if self.args.draw is None or (prompts is self._rows and seed == self._seed):
            return
        self._rows, self._seed = prompts, seed
        solved: dict[str, dict[str, Prompt]] = {}
        for prompt in prompts:
            if prompt.gold is not None and not prompt.images and _question(prompt) is not None:
                solved.setdefault(prompt.domain, {}).setdefault(prompt.key, prompt)
        self._solved = {domain: list(rows.values()) for domain, rows in solved.items()}

    def __call__(self, prompt: Prompt) -> Prompt:
        """The prompt as the teacher reads it; the same object, if that is the student's.

        Raises:
            UserError: naming the prompt and the option, if its row lacks what the template asks for.
        """
        args, said = self.args, (prompt.teacher_messages, prompt.teacher_system, prompt.teacher_images)
        if args == ReadsArgs() and said == (None, None, None):
            return prompt
        messages = list(prompt.messages if prompt.teacher_messages is None else prompt.teacher_messages)
        images = prompt.images if prompt.teacher_images is None else prompt.teacher_images
        if prompt.teacher_messages is None:
            messages = with_places(messages, len(prompt.images), len(images))
            if args.template is not None:
                filled = self._filled(messages, prompt)
                messages = messages if self.shows_best and prompt.best_answer is None else filled
        before = messages[:1] if messages[0]["role"] == "system" else []
        turns = messages[len(before) :]
        system = prompt.teacher_system
        if system is None and not (before and prompt.teacher_messages is not None):
            system = args.system
        in_parts = any(not isinstance(message["content"], str) for message in messages)
        if system is not None:
            before = [_message("system", system, in_parts)]
        earlier = [_message(role, text, in_parts) for role, text in (*self.turns, *self._drawn(prompt))]
        reads = replace(prompt, messages=(*before, *earlier, *turns), images=tuple(images))
        return prompt if (reads.messages, reads.images) == (prompt.messages, prompt.images) else reads

    def _filled(self, messages: list[Message], prompt: Prompt) -> list[Message]:
        """The conversation with its last question put into the template."""
        last = next((i for i in reversed(range(len(messages))) if messages[i]["role"] == "user"), None)
        if last is None:
            raise UserError(
                f"Prompt {prompt.id!r} has no question of a user, into which --{self.flag}.template could be written; "
                "mend the row, or give it a teacher_prompt."
            )
        question, flag, values = messages[last]["content"], f"--{self.flag}.template", _values(prompt)
        if self.shows_best:
            if BEST in values:
                raise UserError(
                    f"Prompt {prompt.id!r} has a column {BEST!r}, and in {flag} that is the best answer of the "
                    "student's own; change the column's name."
                )
            values[BEST] = prompt.best_answer or "-"  # whether there is one or not, the other fields must be there
        content = _fill(str(self.args.template), values, question, prompt.id, flag)
        return [*messages[:last], {**messages[last], "content": content}, *messages[last + 1 :]]

    def _drawn(self, prompt: Prompt) -> list[tuple[str, str]]:
        """Role and text of each turn of the rows that are drawn for a prompt."""
        if self.args.draw is None:
            return []
        count, rows = self.args.draw.count, self._solved.get(prompt.domain, [])
        # One more than are needed: one of them may be the prompt.
        drawn = Random(derive_seed(self._seed, "examples", prompt.key)).sample(rows, min(count + 1, len(rows)))
        others = [row for row in drawn if row.key != prompt.key][:count]
        if len(others) < count:
            raise UserError(
                f"Prompt {prompt.id!r} has {len(others)} other training rows of domain {prompt.domain!r} with an "
                f"answer and a question of text, and --{self.flag}.draw.count is {count}; lower it, or give more rows "
                "an answer."
            )
        flag, turns = f"--{self.flag}.draw.answer", []
        for row in others:
            question = str(_question(row))
            answer = _fill(self.args.draw.answer, _values(row), question, row.id, flag)
            turns += [("user", question), ("assistant", str(answer))]
        return turns


def with_places(messages: Sequence[Message], count: int, wanted: int) -> list[Message]:
    """The conversation with places for as many pictures: they stand where the first of the others stood.

    Args:
        messages: with places for ``count`` pictures.
        count: of the pictures that they have places for.
        wanted: how many it shall be.
    """
    if count == wanted:
        return list(messages)
    places: list[Any] = [{"type": "image"}] * wanted
    result: list[Message] = []
    for message in messages:
        parts: list[Any] = []
        for part in _parts(message["content"]):
            if part["type"] == "image":
                parts, places = [*parts, *places], []
            else:
                parts.append(part)
        result.append({**message, "content": parts})
    if places:
        first = next((i for i, message in enumerate(result) if message["role"] == "user"), 0)
        result[first] = {**result[first], "content": [*places, *result[first]["content"]]}
    if not wanted:
        result = [{**message, "content": "".join(part["text"] for part in message["content"])} for message in result]
    return result


def transcript(prompt: Prompt) -> str:
    """A conversation for people: each turn behind its speaker, pictures named."""
    turns = []
    for message in prompt.messages:
        texts = ["[picture]" if part["type"] == "image" else part["text"] for part in _parts(message["content"])]
        turns.append(f"{message['role']}: {''.join(texts)}")
    return "\n\n".join(turns)


def _message(role: str, text: str, in_parts: bool) -> Message:
    """A message in the form of the others of its conversation."""
    return {"role": role, "content": _parts(text) if in_parts else text}


def _parts(content: Content) -> list[Any]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


def _question(prompt: Prompt) -> str | None:
    """The text of a row that asks once; None: it is a conversation, or no text."""
    turns = [message["content"] for message in prompt.messages if message["role"] != "system"]
    return turns[0] if len(turns) == 1 and isinstance(turns[0], str) else None


def _values(prompt: Prompt) -> dict[str, Any]:
    """The fields of a row, for a template."""
    gold = {} if prompt.gold is None else {"answer": prompt.gold}
    return {"id": prompt.id, "domain": prompt.domain, **prompt.row, **gold}


def _fields(template: str) -> set[str | None]:
    """Names of a template's fields."""
    return {name for _, name, _, _ in string.Formatter().parse(template)}


def _check_template(template: str, flag: str) -> None:
    """Refuse what is no format string.

    Raises:
        UserError: naming the option.
    """
    try:
        fields = [field for field in string.Formatter().parse(template) if field[1] is not None]
    except ValueError as error:
        raise UserError(
            f"{flag} is no template ({error}); write braces that belong to its text twice: {{{{ }}}}."
        ) from error
    if any(name == PROMPT and (spec or conversion) for _, name, spec, conversion in fields):
        raise UserError(f"{flag} formats {{{PROMPT}}}, which may hold pictures; write it without : and !.")
    if any(not name or name[0].isdigit() for _, name, _, _ in fields):
        raise UserError(
            f"{flag} has braces without the name of a column; write those that belong to its text twice: {{{{ }}}}."
        )


def _fill(template: str, values: Mapping[str, Any], question: Content, where: str, flag: str) -> Content:
    """A template with the fields of a row; pictures keep their places in the question, else they open the text.

    Raises:
        UserError: naming the prompt ``where`` and the option ``flag``, if the row has no such field or nothing in it.
    """
    parts: list[Any] = []
    placed = False
    for text, name, spec, conversion in string.Formatter().parse(template):
        parts.append({"type": "text", "text": text})
        if name == PROMPT:
            parts += _parts(question)
            placed = True
        elif name is not None:
            value = _value(name, values, where, flag)
            if isinstance(value, list):
                value, spec = (spec or ", ").join(map(str, value)), ""
            shown = string.Formatter().convert_field(value, conversion)  # type: ignore[arg-type]
            try:
                parts.append({"type": "text", "text": format(shown, spec or "")})
            except ValueError as error:
                raise UserError(f"{flag} cannot write {name!r} of prompt {where!r}: {error}; mend it.") from error
    if not placed:
        parts = [*(part for part in _parts(question) if part["type"] == "image"), *parts]
    if any(part["type"] == "image" for part in parts):
        return [part for part in parts if part["type"] == "image" or part["text"]]
    return "".join(part["text"] for part in parts)


def _value(name: str, values: Mapping[str, Any], where: str, flag: str) -> Any:
    """What a field of a template stands for, `answer` or an entry of a column, `notes[hint]`."""
    root = name if name in values else name.partition("[")[0].partition(".")[0]
    if root not in values and root != PROMPT:
        raise UserError(
            f"{flag} asks for {root!r}, which prompt {where!r} does not have; choose among "
            f"{', '.join(sorted({PROMPT, *values}))}."
        )
    try:
        value = values[name] if name in values else string.Formatter().get_field(name, (), values)[0]
    except (KeyError, IndexError, TypeError, AttributeError, ValueError):
        value = None
    if "." in name and name not in values:
        value = None  # an attribute of Python's, and not of the data
    if value in (None, "", []):
        raise UserError(
            f"Prompt {where!r} has nothing in {name!r}, which {flag} asks for; fill it in, give the row a "
            "teacher_prompt of its own, or route it to a teacher without a template."
        )
    entries = value if isinstance(value, list) else [value]
    if not all(isinstance(entry, str | int | float) for entry in entries):
        raise UserError(
            f"Prompt {where!r} has a {type(value).__name__} in {name!r}, and {flag} writes texts, numbers and lists of "
            f"these; name an entry of it, as in {{{name}[0]}}, or a column of texts."
        )
    return value


def _examples(given: str | Sequence[WorkedExample] | None, flag: str) -> Sequence[WorkedExample]:
    """The examples of a list or a file.

    Raises:
        UserError: naming the option and the row.
    """
    if given is None or not isinstance(given, str):
        rows = [(f"{flag}[{i}]", vars(example)) for i, example in enumerate(given or ())]
    else:
        rows = _rows(Path(given).expanduser(), flag)
        if not rows:
            raise UserError(f"{flag} {given} holds no rows; give one with a prompt and an answer at least.")
    examples = []
    for where, row in rows:
        fields = {name: row.get(name) for name in ("prompt", "answer")} if isinstance(row, Mapping) else {}
        empty = (
            [name for name, value in fields.items() if not (isinstance(value, str) and value)] if fields else [PROMPT]
        )
        if empty:
            raise UserError(f"{where} has no text as {empty[0]!r}; give each example a prompt and an answer.")
        examples.append(WorkedExample(**fields))  # type: ignore[arg-type]
    return examples


def _rows(path: Path, flag: str) -> list[tuple[str, Any]]:
    """Rows of a file, each with its place."""
    if path.suffix not in (".jsonl", ".json"):
        raise UserError(f"{flag} {path} is of an unknown kind; give a .jsonl or .json file of prompts and answers.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{flag} {path} cannot be read: {first_line(error)}; mend the path.") from error
    if path.suffix == ".jsonl":
        lines = [(f"{path}:{number}", line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
        return [(where, parse_json(line, where)) for where, line in lines]
    rows = parse_json(text, str(path))
    if not isinstance(rows, list):
        raise UserError(f"{flag} {path} must hold a list of rows, [{{...}}, ...]; name it .jsonl if it has one a line.")
    return [(f"{path}:{number}", row) for number, row in enumerate(rows, start=1)]
