"""One real prompt as student and teacher read it, and the switches of their chat templates."""

import difflib
from collections.abc import Iterator
from dataclasses import replace

from lit_uniopd.doctor.dry_run import Case, Model
from lit_uniopd.doctor.findings import Finding, green, shown, yellow
from lit_uniopd.modules.run_objections import template_objections
from lit_uniopd.policy.chat_template import chat_text
from lit_uniopd.policy.template_options import switches_of
from lit_uniopd.types import Prompt

COLUMN = 46
"""Characters of each side."""
LINES = 30
BEST_ANSWER = "(the best right answer of the same group)"
"""Stands for one that is not written yet."""


def check_templates(case: Case) -> Iterator[Finding]:
    """Render the first prompt of each teacher for the student and for the teacher."""
    for model in case.models:
        yield from _switches(model)
    for name, teacher in case.teachers.items():
        prompt = next((p for p in case.train_prompts if name in case.readings(p)), None)
        if prompt is not None:
            shows_best = case.pool is not None and name in case.pool.showing_best
            shown = replace(prompt, best_answer=BEST_ANSWER) if shows_best else prompt
            yield _compare(case.student, teacher, name, shown, case.readings(shown)[name])


def _compare(student: Model, teacher: Model, name: str, prompt: Prompt, read: Prompt) -> Finding:
    """The student's prompt beside that of its teacher, ``read``."""
    student_text, teacher_text = (
        chat_text(model.processor, reading, model.args.chat_template_kwargs)
        for model, reading in ((student, prompt), (teacher, read))
    )
    if read is not prompt:
        pictures = "" if read.images == prompt.images else f", with {len(read.images)} pictures of its own"
        return green(
            f"template {name}",
            f"The teacher reads more of {prompt.id!r} than the student, as its options or its row say{pictures} "
            f"({len(teacher_text):,} characters, the student {len(student_text):,}).",
            details=side_by_side(student_text, teacher_text, ("student", f"teacher {name}")),
        )
    if student_text == teacher_text:
        return green(
            f"template {name}", f"Student and teacher read {prompt.id!r} as the same {len(student_text):,} characters."
        )
    return yellow(
        f"template {name}",
        f"Student and teacher read {prompt.id!r} differently (see below).",
        "That is allowed, each reads prompts in its own template and only the answer is shared; make sure that system "
        "prompt and thinking switch are what you mean, by chat_template_kwargs.",
        details=side_by_side(student_text, teacher_text, ("student", f"teacher {name}")),
    )


def side_by_side(left: str, right: str, titles: tuple[str, str]) -> str:
    """Two texts in two columns, line by line; ``|`` stands between lines that differ, ``<`` and ``>`` where one is
    missing. Long lines are folded, and the middle of long texts is left out.
    """
    left_lines, right_lines = _fold(left), _fold(right)
    rows = [(titles[0], " ", titles[1])]
    for kind, i, j, k, m in difflib.SequenceMatcher(None, left_lines, right_lines, autojunk=False).get_opcodes():
        for n in range(max(j - i, m - k)):
            left_line = left_lines[i + n] if i + n < j else None
            right_line = right_lines[k + n] if k + n < m else None
            mark = " " if kind == "equal" else "<" if right_line is None else ">" if left_line is None else "|"
            rows.append((left_line or "", mark, right_line or ""))
    if len(rows) > LINES:
        omitted = len(rows) - LINES
        rows = [*rows[: LINES // 2], (f"... {omitted} lines ...", " ", "..."), *rows[-LINES // 2 :]]
    return "\n".join(f"{left_line:<{COLUMN}} {mark} {right_line}".rstrip() for left_line, mark, right_line in rows)


def _fold(text: str) -> list[str]:
    return [
        line[i : i + COLUMN] for line in text.expandtabs(4).split("\n") for i in range(0, max(1, len(line)), COLUMN)
    ]


def _switches(model: Model) -> Iterator[Finding]:
    """Options that are set and never read, and switches of thinking that are left open."""
    options, switches = model.args.chat_template_kwargs, switches_of(model.processor)
    yield from shown(template_objections(model.processor, options, model.flag))
    unset = [name for name in switches if name not in options]
    if unset:
        yield yellow(
            f"template {model.name}",
            f"The chat template has the switch {', '.join(unset)}, which is left to its default.",
            f"Write out what you mean by --{model.flag}.chat_template_kwargs.{unset[0]}, alike for all models.",
        )
    elif switches:
        yield green(f"template {model.name}", ", ".join(f"{name}: {options[name]}" for name in switches) + ".")
