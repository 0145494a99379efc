"""Sums for a real model: what is held out, and that it is nobody's to train on."""

from lit_uniopd.playground import locate
from lit_uniopd.playground.sums import make_sums
from lit_uniopd.rewards import GRADERS
from lit_uniopd.utils.jsonl import read_lines


def test_each_sum_is_on_one_side_in_both_orders():
    for seed in range(3):
        train, heldout = make_sums(seed)
        assert (len(train), len(heldout)) == (313, 48)
        numbers = {
            side: [tuple(map(int, row["id"].split("+"))) for row in rows]
            for side, rows in (("t", train), ("h", heldout))
        }
        assert sorted(numbers["t"] + numbers["h"]) == [(a, b) for a in range(2, 21) for b in range(2, 21)]
        assert not {frozenset(pair) for pair in numbers["t"]} & {frozenset(pair) for pair in numbers["h"]}
        for row in train + heldout:
            a, b = map(int, row["id"].split("+"))
            assert row["prompt"] == f"What is {a} + {b}?"
            assert GRADERS[row["grader"]](row["answer"], rf"So \boxed{{{a + b}}}.").correct
            assert not GRADERS[row["grader"]](row["answer"], f"{a + b}").correct
    assert make_sums(1) == make_sums(1) != make_sums(2)


def test_files_are_written_once_for_each_seed(tmp_path):
    for name, side in (("sums.jsonl", 0), ("heldout_sums.jsonl", 1)):
        path = locate(name, tmp_path, seed=4)
        assert path == tmp_path / "sums_seed4" / name
        assert list(read_lines(path)) == make_sums(4)[side]
        path.write_text("kept")
        assert locate(name, tmp_path, seed=4).read_text() == "kept"
