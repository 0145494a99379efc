"""`uniopd doctor` as its user meets it."""

import json
import re
import time
from pathlib import Path

import pytest

from lit_uniopd.cli import main
from lit_uniopd.doctor.all_checks import quiet
from lit_uniopd.doctor.unstarted_run import CheckLines

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def arguments(tmp_path, healthy, monkeypatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"{i}+{i}=", "answer": str(2 * i), "domain": ["math", "code"][i % 2]} for i in range(8)]
    Path("train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [
        "doctor",
        f"--config={ROOT / 'configs/uni_opd/multi_teacher.yaml'}",
        f"--config={ROOT / 'configs/trainer/cpu.yaml'}",
        f"--model.student.path={healthy['student']}",
        f"--model.teachers.math.path={healthy['math']}",
        f"--model.teachers.code.path={healthy['code']}",
        "--data.train.path=train.jsonl",
        "--data.train.grader=exact",
        "--data.val.path=train.jsonl",
        "--data.val.grader=exact",
        "--data.global_batch_size=4",
        "--model.sampling.n=2",
        "--model.sampling.max_new_tokens=5",
        "--model.grader_workers=1",
    ]


def ended(arguments: list[str]) -> object:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    return stop.value.code


def test_one_screen_of_100_columns(arguments, capsys):
    assert ended([*arguments, "--model.loss.gap_threshold=1000"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 100
    assert "As its own teacher the student learns nothing" in out
    assert "most disagreed tokens of teacher code" in out
    assert out.rstrip().endswith("0 red")
    assert not list(Path("runs").rglob("*"))  # nothing of a run was written


def test_exit_statuses(arguments, capsys):
    assert ended([*arguments, "--quick"]) == 0
    assert "self-test" not in capsys.readouterr().out
    Path("train.jsonl").write_text(json.dumps({"question": "1+1=", "answer": "2"}))
    assert ended([*arguments, "--quick"]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "train.jsonl has no column 'prompt'." in out
    assert "-> Choose --data.train.prompt_column from question, answer." in out
    assert ended([*arguments, "--model.student.pth=x"]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_a_long_check_is_told_of_where_there_is_no_terminal(capsys):
    lines = CheckLines()
    lines._heartbeat.silence_s = 0.05
    with lines, quiet():
        lines.name = "models"
        time.sleep(0.3)
    said = capsys.readouterr().err.splitlines()
    assert said
    assert all(re.fullmatch(r"\d\d:\d\d:\d\d doctor: models · for 0 s", line) for line in said)
