"""Text benchmarks whose gold answers lie inside other text or in several columns."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lit_uniopd.benchmarks.adapters.base import Adapted, AdapterContext
from lit_uniopd.benchmarks.adapters.columns import columns, example_of, roles_of
from lit_uniopd.benchmarks.spec import BenchmarkSpec
from lit_uniopd.errors import UserError
from lit_uniopd.rewards.ifeval.arguments import read_instructions


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
