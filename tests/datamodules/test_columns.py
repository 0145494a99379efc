"""Columns by their path."""

from typing import Any

import pytest

from datamodules.columns import lookup, nested_names

ROW = {
    "reward_model": {"ground_truth": "7", "style": None},
    "prompt": [{"role": "user", "content": "3 + 4?"}, {"role": "user", "content": "5?"}],
    "a.b": {"c": 1, "d.e": 2},
    "a": {"b": 3, "f": {"g": 4}},
    "label": ["x", "y"],
}


@pytest.mark.parametrize(
    ("path", "cell"),
    [
        ("reward_model.ground_truth", "7"),
        ("reward_model.style", None),
        ("reward_model.other", "missing"),
        ("reward_model.ground_truth.0", "missing"),
        ("prompt.0.content", "3 + 4?"),
        ("prompt.1.content", "5?"),
        ("prompt.2.content", "missing"),
        ("prompt.-1.content", "missing"),
        ("prompt.content", "missing"),
        ("label.1", "y"),
        ("label.2", "missing"),
        ("a.b", {"c": 1, "d.e": 2}),  # a name with dots itself goes first
        ("a.b.c", 1),
        ("a.b.d.e", 2),
        ("a.f.g", 4),
        ("", "missing"),
        (".", "missing"),
    ],
)
def test_a_cell_is_found_by_its_path(path: str, cell: Any):
    assert lookup(ROW, path, "missing") == cell


def test_every_listed_name_leads_to_its_cell():
    names = list(nested_names(ROW))
    assert names[:5] == ["reward_model", "reward_model.ground_truth", "reward_model.style", "prompt", "prompt.0.role"]
    assert "missing" not in [lookup(ROW, name, "missing") for name in names]
