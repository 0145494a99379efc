"""A key written twice in any YAML that we read, and what YAML 1.1 takes for something else."""

import json
from pathlib import Path

import pytest
import yaml

from lit_uniopd.errors import UserError
from lit_uniopd.utils.strict_yaml import parse_yaml, read_yaml

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("text", "key", "lines"),
    [
        ("a: 1\na: 2\n", "a", (1, 2)),
        ("{a: 1, b: 2, a: 1}", "a", (1, 1)),
        ("model:\n  loss:\n    kind: jsd\n  lr: 1\n  loss: {}\n", "model.loss", (2, 5)),
        ("callbacks:\n- path: a\n- path: b\n  limit: 1\n  limit: 2\n", "callbacks.1.limit", (4, 5)),
        ("1: a\n1: b\n", "1", (1, 2)),
        ('a: 1\n"a": 2\n', "a", (1, 2)),
        ("base: &base {x: 1, x: 2}\nnew:\n  <<: *base\n", "base.x", (1, 1)),
        ("new:\n  <<: {x: 1}\n  y: 1\n  y: 2\n", "new.y", (3, 4)),
    ],
)
def test_a_key_written_twice_is_refused(text, key, lines, tmp_path):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(UserError) as raised:
        read_yaml(tmp_path / "a.yaml", "--config")
    place = f"at line {lines[0]} and again at line {lines[1]}; keep one of them."
    assert str(raised.value) == f"--config {tmp_path / 'a.yaml'} has the key {key!r} {place}"


@pytest.mark.parametrize(
    "text",
    [
        "base: &base {x: 1, y: 2}\nnew:\n  <<: *base\n  x: 3\n",
        "lib: {base: &b {<<: &a {x: 0}, x: 1}}\nnew: {<<: *b, x: 2}\n",  # merged twice before it is read
        "a: &a {x: 1}\nb: &b {y: 1}\nboth: {<<: [*a, *b], z: 1}\n",
        "rows: [{a: 1}, {a: 2}]\n",
        "a: &a [1, 2]\nb: *a\n",
    ],
)
def test_merge_keys_anchors_and_rows_mean_what_they_meant(text):
    assert parse_yaml(text, "x") == yaml.safe_load(text)


def test_numbers_are_those_of_yaml_1_2():
    text = "[1e-5, 1E5, 1.0, .5, -3, 0x10, 1_000, 010, 12:30:00, 2026-01-31, 1e, yes, ~, .inf, -1.5e+3]"
    read = [1e-5, 1e5, 1.0, 0.5, -3, 16, 1000, "010", "12:30:00", "2026-01-31", "1e", True, None, float("inf"), -1500.0]
    assert parse_yaml(text, "x") == read
    assert [type(value) for value in parse_yaml(text, "x")] == [type(value) for value in read]


@pytest.mark.parametrize("content", [b"a: [1\nb: 2\n", b"\xff\xfe\x00", b"a: \x01\n", b"a: 1\n---\nb: 2\n"])
def test_what_is_no_yaml_is_refused(content, tmp_path):
    (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.yaml is not YAML.*; mend it\.$"):
        read_yaml(tmp_path / "a.yaml")


def test_every_yaml_of_ours_reads_as_before():
    files = [file for folder in ("configs", "lit_uniopd", "docs") for file in (ROOT / folder).rglob("*.yaml")]
    assert len(files) > 90
    for file in files:
        assert json.dumps(read_yaml(file)) == json.dumps(yaml.safe_load(file.read_text())), file


def test_there_is_one_reader():
    sources = [
        file
        for folder in ("lit_uniopd", "callbacks", "datamodules", "benchmarks")
        for file in (ROOT / folder).rglob("*.py")
    ]
    readers = [
        file.name for file in sources if "yaml.safe_load" in file.read_text() or "yaml.load(" in file.read_text()
    ]
    assert readers == []
