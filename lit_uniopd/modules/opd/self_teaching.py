"""What speaks against a teacher that is the student: it has nothing to say, or its average cannot move."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from lit_uniopd.utils.objections import Objection

READ = 4
"""Prompts of a teacher that are looked at."""


def self_teaching_objections(module: Any) -> Iterator[Objection]:
    """Of the teachers with the student's weights.

    Args:
        module: ``UniOPD`` with its trainer; nothing is loaded.
    """
    prompts = module.trainer_data.prompts("train")
    for name, args in module.teachers.args.items():
        if not args.is_student:
            continue
        flag = f"--model.teachers.{name}"
        # Against what moves the student elsewhere, its start or its average is something to be held to.
        anchors = args.weights != "student" and bool(module.advantage.outcome_weight)
        routed = list(islice((prompt for prompt in prompts if module.teachers.route(prompt) == name), READ))
        options = module.policy_args.chat_template_kwargs
        alike = options | args.chat_template_kwargs == options
        alike = alike and name not in module.teachers.showing_best
        alike = alike and all(module.teachers.reading(prompt) is prompt for prompt in routed)
        if routed and alike and not anchors:
            yield Objection(
                "teachers",
                f"Teacher {name} is the student itself ({flag}.weights {args.weights}) and reads the same prompts, so "
                f"there is nothing to learn from it; let it read something else by {flag}.reads, or name another model "
                f"by {flag}.path and weights path.",
            )
        if args.weights == "student_average" and args.decay > 0 and (held := _sixteen_bits(module)):
            yield Objection(
                "settings",
                f"{flag}.weights student_average is held as the weights it follows are, and {held} holds those in 16 "
                "bits, where so small steps round to nothing; set that to 32 bits, or train adapters by "
                "--model.student.lora with --trainer.precision bf16-mixed.",
                refused=True,
            )


def _sixteen_bits(module: Any) -> str:
    """The option by which trained weights are of 16 bits; empty: they are not."""
    precision, args = str(module.trainer.precision), module.policy_args
    if precision in ("bf16-true", "16-true"):
        return f"--trainer.precision {precision}"
    held = args.lora is None and args.dtype in ("bfloat16", "float16")
    return f"--model.student.dtype {args.dtype}" if held else ""
