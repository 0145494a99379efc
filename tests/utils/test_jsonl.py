"""Files of JSON lines."""

import pytest

from lit_uniopd.utils.jsonl import append_lines, read_lines


@pytest.mark.parametrize("end", ["\u2028", "\u2029", "\u0085", "\x1e", "\r", "\r\n", "\x0c"])
def test_what_ends_a_line_for_unicode_ends_none_of_ours(tmp_path, end):
    rows = [{"text": f"before{end}behind"}, {"text": "next"}]
    append_lines(tmp_path / "rows.jsonl", rows)
    assert list(read_lines(tmp_path / "rows.jsonl")) == rows


def test_a_torn_line_is_left_out(tmp_path):
    append_lines(tmp_path / "rows.jsonl", [{"a": 1}])
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write('{"a": 2, "b"')
    append_lines(tmp_path / "rows.jsonl", [{"a": 3}])
    assert list(read_lines(tmp_path / "rows.jsonl")) == [{"a": 1}, {"a": 3}]
