"""Do token ids mean the same to all models, and do answers end?"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from lit_uniopd.doctor.dry_run import Case, Model
from lit_uniopd.doctor.findings import Finding, complaint, green, red, shown, yellow
from lit_uniopd.errors import UserError
from lit_uniopd.modules.opd.objections import unlike_ends
from lit_uniopd.policy.chat_template import AnswerEnd, answer_end
from lit_uniopd.teachers import TeacherArgs, foreign_ids
from lit_uniopd.teachers.answer_alignment import AnswerAligner
from lit_uniopd.types import Prompt

SAMPLES = 16
"""Texts by which tokenizers are compared."""
UNALIGNED = 0.05
"""Share of tokens without any of the teacher's that is worth a look."""


def check_tokenizers(case: Case) -> Iterator[Finding]:
    """Compare each teacher's token table with the student's, and each model's rows with its own tokenizer."""
    for model in case.models:
        yield from _rows(model)
    student = case.student
    for name, teacher in case.teachers.items():
        if _is_aligned(teacher):
            yield _alignment(case, name, teacher)
            continue
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


def _is_aligned(teacher: Model) -> bool:
    """Whether its texts are aligned, and not its tokens."""
    return isinstance(teacher.args, TeacherArgs) and teacher.args.cross_tokenizer


def _alignment(case: Case, name: str, teacher: Model) -> Finding:
    """How well tokens of another tokenizer go with the student's, on answers or questions of the run."""
    prompts = case.first_prompts(SAMPLES, lambda prompt: name in case.readings(prompt))
    try:
        aligner = AnswerAligner(
            case.student.tokenizer,
            teacher.processor,
            teacher.args.chat_template_kwargs,
            (case.student.flag, teacher.flag),
        )
    except UserError as error:
        return complaint(f"tokens {name}", "red", str(error))
    texts = {prompt.id: text for prompt in prompts if (text := _sample(prompt))}
    untyped: Any = case.student.tokenizer
    answers = [
        aligner(case.readings(prompt)[name], untyped(texts[prompt.id], add_special_tokens=False).input_ids, ended=False)
        for prompt in prompts
        if prompt.id in texts
    ]
    counts = sum((answer.counts for answer in answers), Counter())
    sizes = f"{len(teacher.tokenizer):,} tokens, the student {len(case.student.tokenizer):,}"
    if not counts["tokens"]:
        return green(f"tokens {name}", f"Another tokenizer ({sizes}), aligned by the bytes of answers.")
    unaligned_share = counts["unaligned"] / counts["tokens"]
    numbers = (
        f"Another tokenizer ({sizes}), aligned by bytes: in {len(answers)} texts of the data "
        f"{counts['one_to_one'] / counts['tokens']:.0%} of the student's tokens stand alone with one of the teacher's, "
        f"{unaligned_share:.1%} with none; {counts['chunks'] / len(answers):.0f} chunks and "
        f"{counts['tokens'] / len(answers):.0f} tokens each."
    )
    if unaligned_share > UNALIGNED:
        remedy = "What is not aligned trains nothing; see whether the teacher's tokenizer rewrites these texts."
        return yellow(f"tokens {name}", numbers, remedy)
    return green(f"tokens {name}", numbers)


def _sample(prompt: Prompt) -> str:
    """A text like an answer to a prompt: its gold one, if that is some words, else its question."""
    gold = prompt.gold if isinstance(prompt.gold, str) and " " in prompt.gold else ""
    return gold or next((m["content"] for m in prompt.messages[::-1] if isinstance(m["content"], str)), "")


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
    student = case.student
    sources = ends_of(student)
    end_ids = frozenset().union(*sources.values())
    stops = ", ".join(f"{file} {_name_tokens(student, ids)}" for file, ids in sources.items() if ids)
    pad: Any = student.tokenizer.pad_token_id
    padding = "; padding is masked, though pad is an end token" if pad in end_ids else ""
    end = _end_of(student)
    if end.token is None and not end_ids:
        yield red(
            "ends",
            f"No end-of-sequence token is known of {student.args.path}: every answer runs to max_new_tokens.",
            "Set eos_token_id in the model's generation_config.json.",
        )
        return
    turn = end.token if end.written else None
    plain = end.text.removesuffix(end.marks[0]) if end.marks and not end.written else ""
    if plain:
        yield yellow(
            "ends",
            f"The chat template ends a turn with the plain text {plain[:20]!r}, where sampling does not stop "
            f"({stops}).",
            "Check that the student writes an end-of-sequence token of its own, or give it a template that does.",
        )
    elif turn is not None and turn not in end_ids:
        yield yellow(
            "ends",
            f"The chat template ends a turn with {_name_tokens(student, {turn})}, where answers end here; the model's "
            f"files say {stops or 'nothing'}: in other programs its answers run on.",
            f"Add {turn} to eos_token_id in generation_config.json of --{student.flag}.path.",
        )
    else:
        last = f"the template's turns end with {_name_tokens(student, {turn})}, " if turn is not None else ""
        yield green("ends", f"{last[:1].upper()}{last[1:]}{'s' if last else 'S'}ampling stops at {stops}{padding}.")
    for name, teacher in case.teachers.items():
        if _is_aligned(teacher):
            continue  # whatever ends an answer there is aligned with what ends it here
        yield from shown(unlike_ends(name, end, _end_of(teacher)))


def ends_of(model: Model) -> dict[str, frozenset[int]]:
    """Where the model's files name an end token -> which; sampling stops at all of them, and at `answer_end`."""
    generation = model.generation_config
    return {
        "tokenizer": _ids(model.tokenizer.eos_token_id),
        "generation_config": _ids(None if generation is None else generation.eos_token_id),
        "config": _ids(model.config.get_text_config().eos_token_id),
    }


def _ids(value: Any) -> frozenset[int]:
    return frozenset() if value is None else frozenset([value] if isinstance(value, int) else value)


def _end_of(model: Model) -> AnswerEnd:
    return answer_end(model.processor, model.args.chat_template_kwargs)


def _name_tokens(model: Model, ids: Any) -> str:
    return " ".join(f"{model.tokenizer.convert_ids_to_tokens(i)} ({i})" for i in sorted(ids))
