"""Do token ids mean the same to all models, and do answers end?"""

from collections.abc import Iterator
from typing import Any

from lit_uniopd.doctor.dry_run import Case, Model
from lit_uniopd.doctor.findings import Finding, complaint, green, red, yellow
from lit_uniopd.errors import UserError
from lit_uniopd.policy.chat_template import answered_text
from lit_uniopd.teachers import foreign_ids
from lit_uniopd.types import Prompt

ANSWER = "An answer that ends here"


def check_tokenizers(case: Case) -> Iterator[Finding]:
    """Compare each teacher's token table with the student's, and each model's rows with its own tokenizer."""
    for model in case.models:
        yield from _rows(model)
    student = case.student
    for name, teacher in case.teachers.items():
        try:
            missing = foreign_ids(student.tokenizer, teacher.tokenizer, name)
        except UserError as error:
            yield complaint(f"tokens {name}", "red", str(error))
            continue
        rows = [model.config.get_text_config().vocab_size for model in (student, teacher)]
        padded = "" if rows[0] == rows[1] else f"; padded to {rows[0]:,} and {rows[1]:,} rows, which is harmless"
        if len(missing):
            example = student.tokenizer.convert_ids_to_tokens(int(missing[0]))
            yield yellow(
                f"tokens {name}",
                f"The teacher does not know {len(missing):,} of the student's tokens ({example!r} for one){padded}.",
                "Answers that hold them are not scored: choose a teacher of the same release, or keep such tokens out "
                "of the student's template.",
            )
        else:
            special = _special_differences(student, teacher)
            yield green(f"tokens {name}", f"The same table of {len(student.tokenizer):,} tokens{padded}{special}.")


def _special_differences(student: Model, teacher: Model) -> str:
    """Special tokens that differ; only the end of a sequence matters, and it has a finding of its own."""
    here, there = student.tokenizer.special_tokens_map, teacher.tokenizer.special_tokens_map
    roles = [role for role in ("bos_token", "eos_token", "pad_token") if here.get(role) != there.get(role)]
    return "".join(f"; {role} is {here.get(role)} here and {there.get(role)} there" for role in roles)


def _rows(model: Model) -> Iterator[Finding]:
    tokens, rows = len(model.tokenizer), model.config.get_text_config().vocab_size
    if tokens > rows:
        yield red(
            f"tokens {model.name}",
            f"The tokenizer has {tokens:,} tokens, and the model rows for {rows:,} only.",
            f"Resize the model's embeddings to its tokenizer, or name the tokenizer it was trained with by "
            f"--{model.flag}.tokenizer.",
        )


def check_ends(case: Case) -> Iterator[Finding]:
    """Is the token that ends a turn in the chat template one at which sampling stops?"""
    prompt = next(iter(case.prompts), Prompt(id="doctor", messages=({"role": "user", "content": "Hello"},)))
    student = case.student
    sources = ends_of(student)
    end_ids = frozenset().union(*sources.values())
    stops = ", ".join(f"{file} {_name_tokens(student, ids)}" for file, ids in sources.items() if ids)
    pad: Any = student.tokenizer.pad_token_id
    padding = "; padding is masked, though pad is an end token" if pad in end_ids else ""
    if not end_ids:
        yield red(
            "ends",
            f"No end-of-sequence token is known of {student.args.path}: every answer runs to max_new_tokens.",
            "Set eos_token_id in the model's generation_config.json.",
        )
        return
    turn, tail = turn_end(student, prompt)
    if turn is None and tail.strip():
        yield yellow(
            "ends",
            f"The chat template ends a turn with the plain text {tail[:20]!r}, where sampling does not stop ({stops}).",
            "Check that the student writes an end-of-sequence token of its own, or give it a template that does.",
        )
    elif turn is not None and turn not in end_ids:
        yield red(
            "ends",
            f"The chat template ends a turn with {_name_tokens(student, {turn})}, but sampling stops at {stops}: "
            "answers run on.",
            f"Add {turn} to eos_token_id in generation_config.json of --{student.flag}.path.",
        )
    else:
        last = f"the template's turns end with {_name_tokens(student, {turn})}, " if turn is not None else ""
        yield green("ends", f"{last[:1].upper()}{last[1:]}{'s' if last else 'S'}ampling stops at {stops}{padding}.")
    for name, teacher in case.teachers.items():
        yield from _teachers_end(case, name, teacher, prompt)


def _teachers_end(case: Case, name: str, teacher: Model, prompt: Prompt) -> Iterator[Finding]:
    """A teacher that ends its turns with another token finds the student's end unlikely, and answers grow longer."""
    student_end: Any = turn_end(case.student, prompt)[0] or case.student.tokenizer.eos_token_id
    teacher_end: Any = turn_end(teacher, prompt)[0] or teacher.tokenizer.eos_token_id
    if student_end is not None and teacher_end is not None and student_end != teacher_end:
        yield yellow(
            f"ends {name}",
            f"The student ends its turns with {_name_tokens(case.student, {student_end})}, this teacher with "
            f"{_name_tokens(teacher, {teacher_end})}: it will find the student's ends unlikely, and answers grow.",
            "Give student and teacher the same end of turn: a base model with a base teacher, an instruct model with "
            "an instruct one.",
        )


def ends_of(model: Model) -> dict[str, frozenset[int]]:
    """Each place that names end tokens -> their ids; sampling stops at all of them."""
    generation = model.generation_config
    return {
        "tokenizer": _ids(model.tokenizer.eos_token_id),
        "generation_config": _ids(None if generation is None else generation.eos_token_id),
        "config": _ids(model.config.get_text_config().eos_token_id),
    }


def _ids(value: Any) -> frozenset[int]:
    return frozenset() if value is None else frozenset([value] if isinstance(value, int) else value)


def turn_end(model: Model, prompt: Prompt) -> tuple[int | None, str]:
    """The special token that the chat template writes behind an answer, and all that it writes there.

    None: there is no template, or it writes nothing special.
    """
    tokenizer = model.tokenizer
    if tokenizer.chat_template is None and getattr(model.processor, "chat_template", None) is None:
        return None, ""
    text = answered_text(model.processor, prompt, ANSWER, model.args.chat_template_kwargs)
    tail = text.rpartition(ANSWER)[2] if ANSWER in text else ""
    ids = tokenizer(tail.lstrip(), add_special_tokens=False).input_ids
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special} | set(
        tokenizer.all_special_ids
    )
    return (ids[0] if ids and ids[0] in special else None), tail


def _name_tokens(model: Model, ids: Any) -> str:
    return " ".join(f"{model.tokenizer.convert_ids_to_tokens(i)} ({i})" for i in sorted(ids))
