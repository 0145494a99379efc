"""One real prompt as student and teacher read it, and the switches of their chat templates."""

import difflib
import re
from collections.abc import Iterator
from typing import Any

from lit_uniopd.doctor.dry_run import Case, Model
from lit_uniopd.doctor.findings import Finding, green, yellow
from lit_uniopd.policy.chat_template import chat_text
from lit_uniopd.types import Prompt

SWITCH = re.compile(r"\b(?:enable_thinking|reasoning_effort|thinking_budget)\b|\bthinking\b(?=\s+is\s+)")
"""Options of the templates of Qwen3, GLM, gpt-oss, Seed-OSS and DeepSeek-V3.1."""
COLUMN = 46
"""Characters of each side."""
LINES = 30


def check_templates(case: Case) -> Iterator[Finding]:
    """Render the first prompt of each teacher for the student and for the teacher."""
    for model in case.models:
        yield from _switches(model)
    for name, teacher in case.teachers.items():
        prompt = next((p for p in case.train_prompts if case.teacher_of(p) == name), None)
        if prompt is not None:
            yield _compared(case.student, teacher, name, prompt)


def _compared(student: Model, teacher: Model, name: str, prompt: Prompt) -> Finding:
    ours, theirs = (chat_text(m.processor, prompt, m.args.chat_template_kwargs) for m in (student, teacher))
    if ours == theirs:
        return green(
            f"template {name}", f"Student and teacher read {prompt.id!r} as the same {len(ours):,} characters."
        )
    return yellow(
        f"template {name}",
        f"Student and teacher read {prompt.id!r} differently (see below).",
        "That is allowed, each reads prompts in its own template and only the answer is shared; make sure that system "
        "prompt and thinking switch are what you mean, by chat_template_kwargs.",
        details=side_by_side(ours, theirs, ("student", f"teacher {name}")),
    )


def side_by_side(left: str, right: str, titles: tuple[str, str]) -> str:
    """Two texts in two columns, line by line; ``|`` stands between lines that differ, ``<`` and ``>`` where one is
    missing. Long lines are folded, and the middle of long texts is left out.
    """
    a, b = (_folded(text) for text in (left, right))
    rows = [(titles[0], " ", titles[1])]
    for kind, i, j, k, m in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        for n in range(max(j - i, m - k)):
            one, other = (a[i + n] if i + n < j else None), (b[k + n] if k + n < m else None)
            mark = " " if kind == "equal" else "<" if other is None else ">" if one is None else "|"
            rows.append((one or "", mark, other or ""))
    if len(rows) > LINES:
        left_out = len(rows) - LINES
        rows = [*rows[: LINES // 2], (f"... {left_out} lines ...", " ", "..."), *rows[-LINES // 2 :]]
    return "\n".join(f"{one:<{COLUMN}} {mark} {other}".rstrip() for one, mark, other in rows)


def _folded(text: str) -> list[str]:
    return [
        line[i : i + COLUMN] for line in text.expandtabs(4).split("\n") for i in range(0, max(1, len(line)), COLUMN)
    ]


def _switches(model: Model) -> Iterator[Finding]:
    """Options that the template reads, against those that are set."""
    template: Any = model.tokenizer.chat_template or getattr(model.processor, "chat_template", None)
    given = model.args.chat_template_kwargs
    text = "" if template is None else str(template)
    unread = sorted(key for key in given if not re.search(rf"\b{re.escape(key)}\b", text))
    if unread:
        yield yellow(
            f"template {model.name}",
            f"The chat template never reads {', '.join(unread)}, which is set.",
            f"Correct or remove it in --{model.flag}.chat_template_kwargs.",
        )
    code = " ".join(re.findall(r"{[%{].*?[%}]}", text, flags=re.DOTALL))
    switches = sorted(set(SWITCH.findall(code)))
    unset = [name for name in switches if name not in given]
    if unset:
        yield yellow(
            f"template {model.name}",
            f"The chat template has the switch {', '.join(unset)}, which is left to its default.",
            f"Write out what you mean by --{model.flag}.chat_template_kwargs.{unset[0]}, alike for all models.",
        )
    elif switches:
        yield green(f"template {model.name}", ", ".join(f"{name}: {given[name]}" for name in switches) + ".")
