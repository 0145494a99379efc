"""Text benchmarks whose gold answers lie inside other text or in several columns."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lit_uniopd.benchmarks.adapters.base import Adapted, AdapterContext
from lit_uniopd.benchmarks.adapters.columns import columns, example_of, roles_of
from lit_uniopd.benchmarks.spec import BenchmarkSpec
from lit_uniopd.errors import UserError
from lit_uniopd.rewards.ifeval.arguments import read_instructions

_TURN = re.compile(r"[AQ]\d[:\uff1a]")
"""Before each turn of a conversation of SedarEval."""


def gsm8k(rows: Sequence[Mapping[str, Any]], spec: BenchmarkSpec, context: AdapterContext) -> Adapted:
    """GSM8K: the number behind ``####`` at the end of the written-out solution.

    Raises:
        UserError: if a solution has none.
    """
    examples = []
    for example in columns(rows, spec, context).examples:
        _, separator, number = str(example.gold).rpartition("####")
        if not separator:
            raise UserError(
                f"Benchmark {spec.key}: the answer of row {example.id} has no number behind '####'; mend the row."
            )
        examples.append(replace(example, gold=number.strip().replace(",", "")))
    return Adapted(examples)


def ifeval(rows: Sequence[Mapping[str, Any]], spec: BenchmarkSpec, context: AdapterContext) -> Adapted:
    """IFEval: the gold answer is the list of instructions and their arguments, those that are not null.

    Raises:
        UserError: if there is no check for an instruction, or its arguments are not those that the check takes.
    """
    examples = []
    for number, row in enumerate(rows):
        values = roles_of(row, spec)
        example = example_of(values, spec, number)
        names = list(values["instruction_id_list"])
        try:
            instructions = read_instructions(names, values["kwargs"])
        except ValueError as error:
            raise UserError(
                f"Benchmark {spec.key}: the instructions of row {example.id} cannot be read: {error}; mend the columns "
                "instruction_id_list and kwargs of the row, or leave it out."
            ) from None
        gold = {
            "instruction_id_list": names,
            "kwargs": [arguments for _, arguments in instructions],
            "prompt": values["question"],
        }
        examples.append(replace(example, gold=gold))
    return Adapted(examples)


def sedareval(rows: Sequence[Mapping[str, Any]], spec: BenchmarkSpec, context: AdapterContext) -> Adapted:
    """SedarEval: category, right answer and rubric lie in ``meta``; a row may bring the judge's prompt as well.

    What is not one question, or has neither rubric nor prompt, is left out.

    Raises:
        UserError: if a row has no category.
    """
    examples, left_out = [], Counter[str]()
    for number, row in enumerate(rows):
        values = roles_of(row, spec)
        meta, prompt = values["meta"], row.get("auto_prompt")
        if not meta.get("category"):
            raise UserError(
                f"Benchmark {spec.key}: meta of row {values['id']} has no 'category' (it has {', '.join(meta)}); take "
                "the rows of dataset/ in the authors' repository as they are."
            )
        rubric, own_prompt = _text(meta.get("score_standard")), _own_prompt(prompt)
        if (meta.get("is_complete") or 0) < 0:
            left_out["marked as incomplete by the authors"] += 1
        elif _TURN.search(values["question"]):
            left_out["a conversation of several turns"] += 1
        elif not rubric and not own_prompt:
            left_out["no rubric"] += 1
        else:
            counted = isinstance(prompt, Mapping) and bool(prompt.get("字数统计"))
            kept = {"kind": meta["category"][0], "rubric": rubric, "own_prompt": own_prompt, "counted": counted}
            example = example_of(values, spec, number)
            examples.append(replace(example, gold=_text(meta.get("reference")), row=kept | {"meta": meta}))
    return Adapted(examples, dict(left_out))


def _own_prompt(cell: Any) -> str:
    """The judge's prompt in a row, with ``{response}``; none where there are several, one for each turn."""
    cell = cell[0] if isinstance(cell, list) and len(cell) == 1 else cell
    text = _text(cell.get("prompt") if isinstance(cell, Mapping) else cell)
    return text if "{response}" in text else ""


def _text(cell: Any) -> str:
    """A cell, which may be NaN where it is empty."""
    return cell.strip() if isinstance(cell, str) else ""
