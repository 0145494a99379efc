from pathlib import Path

import pytest

from lit_uniopd.benchmarks.adapters import ADAPTERS, AdapterContext
from lit_uniopd.benchmarks.registry import find_spec
from lit_uniopd.errors import UserError


def ifeval_examples(*rows):
    return ADAPTERS["ifeval"](rows, find_spec("ifeval"), AdapterContext("paper", False, Path())).examples


def row(*kwargs, names=("length_constraints:number_words",)):
    return {"key": 7, "prompt": "Describe rain.", "instruction_id_list": list(names), "kwargs": list(kwargs)}


def test_null_arguments_of_ifeval_are_left_out():
    (example,) = ifeval_examples(row({"num_words": 30, "relation": "at least", "keywords": None}))
    assert example.id == "7"
    assert example.gold["kwargs"] == [{"num_words": 30, "relation": "at least"}]


def test_arguments_of_ifeval_are_read_before_anything_is_generated():
    with pytest.raises(UserError, match=r"row 7 .* 'relation' .* less than, at least; mend the columns"):
        ifeval_examples(row({"num_words": 30, "relation": "at most"}))
    with pytest.raises(UserError, match=r"row 7 .* no check for the instruction 'new:thing'"):
        ifeval_examples(row({}, names=["new:thing"]))
