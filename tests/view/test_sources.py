"""What is shown of the runs that are named."""

import json

import pytest
from view_data import main_status, pair

from lit_uniopd.errors import UserError
from lit_uniopd.utils.jsonl import append_lines
from lit_uniopd.view import PAIRS_FILE, write_page
from lit_uniopd.view.sources import newest_version, read_runs, read_scores


def add_run(directory, *numbers):
    append_lines(directory / PAIRS_FILE, [pair(number) for number in numbers])
    return directory


def test_the_newest_version_that_has_something_to_show_is_opened(tmp_path):
    for number in (0, 2, 10):
        add_run(tmp_path / f"name/version_{number}", number)
    (tmp_path / "name/version_11").mkdir()  # a run that has only just begun
    (tmp_path / "name/version_old").mkdir()
    assert newest_version(tmp_path / "name") == tmp_path / "name/version_10"
    assert newest_version(tmp_path / "name/version_2") == tmp_path / "name/version_2"
    assert main_status(["view", str(tmp_path / "name")]) == 0
    assert (tmp_path / "name/version_10/view.html").exists()
    assert not (tmp_path / "name/view.html").exists()


def test_of_a_folder_of_several_runs_the_message_names_them(tmp_path):
    add_run(tmp_path / "a/version_0", 1)
    add_run(tmp_path / "b/version_3", 1)
    (tmp_path / "playground").mkdir()
    with pytest.raises(UserError, match=rf"name another directory \({tmp_path}/a, {tmp_path}/b\)\."):
        write_page(tmp_path, tmp_path / "out.html")


def test_names_of_several_runs_tell_them_apart(tmp_path):
    same = [add_run(tmp_path / f"{where}/quickstart/version_0", 1) for where in "ab"]
    assert [run.name for run in read_runs(same)] == ["a/quickstart/version_0", "b/quickstart/version_0"]
    assert [run.name for run in read_runs(same[:1])] == [str(same[0])]
    other = add_run(tmp_path / "a/balanced/version_1", 1)
    assert [run.name for run in read_runs([same[0], other])] == ["quickstart/version_0", "balanced/version_1"]
    with pytest.raises(UserError, match="is named twice; give two runs, or one"):
        read_runs([same[0], same[0].parent])


def test_scores_before_and_after_are_those_that_the_run_wrote(tmp_path):
    assert read_scores(tmp_path) == []
    (tmp_path / "summary.json").write_text(
        json.dumps({"before": {"math": 0.25}, "after": {"math": 0.75, "code": 1.0}, "teachers": {"math": 0.875}})
    )
    assert read_scores(tmp_path) == [
        {"name": "math", "before": 0.25, "after": 0.75, "teacher": 0.875},
        {"name": "code", "before": None, "after": 1.0, "teacher": None},
    ]
    greedy = {"chair_i": 0.5, "chair_s": 0.75, "recall": 1.0, "words": 20.0}
    later = {**greedy, "chair_i": 0.125}
    (tmp_path / "hallucination.json").write_text(
        json.dumps({"step": 3, "before": {"greedy": greedy}, "after": {"greedy": later}})
    )
    rows = {row["name"]: (row["before"], row["after"]) for row in read_scores(tmp_path)[2:]}
    assert rows == {
        "hallucinated mentions (greedy)": (0.5, 0.125),
        "captions with one (greedy)": (0.75, 0.75),
        "objects named (greedy)": (1.0, 1.0),
    }
    (tmp_path / "summary.json").write_text('{"before": {"ma')  # a run that was killed while it wrote
    assert len(read_scores(tmp_path)) == 3
