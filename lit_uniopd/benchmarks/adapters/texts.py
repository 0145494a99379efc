"""Text benchmarks whose gold answers lie inside other text or in several columns."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lit_uniopd.benchmarks.adapters.base import Adapted, AdapterContext
from lit_uniopd.benchmarks.adapters.columns import columns, example_of, roles_of
from lit_uniopd.benchmarks.spec import BenchmarkSpec
from lit_uniopd.errors import UserError


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
    """IFEval: the gold answer is the list of instructions and their arguments, those that are not null."""
    examples = []
    for number, row in enumerate(rows):
        values = roles_of(row, spec)
        gold = {
            "instruction_id_list": list(values["instruction_id_list"]),
            "kwargs": [{k: v for k, v in arguments.items() if v is not None} for arguments in values["kwargs"]],
            "prompt": values["question"],
        }
        examples.append(replace(example_of(values, spec, number), gold=gold))
    return Adapted(examples)
