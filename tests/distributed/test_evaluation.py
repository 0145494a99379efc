"""Ranks do not change a score, and a killed evaluation goes on with another number of them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from distributed.evaluate import evaluate
from judged_runs import by_mark, judge_server

from lit_uniopd.benchmarks.judging.args import JudgeArgs
from lit_uniopd.benchmarks.report.summary import SUMMARY, run_records

NAMES = ["aime24", "gsm8k", "we_math", "pope", "mm_vet"]


def launch(kind: str, root: Path, model: str, judge: str, kill_after: int = 0) -> int:
    """Evaluate on two ranks."""
    script = Path(__file__).parent / "evaluate.py"
    arguments = [kind, "2", str(root), model, str(kill_after), *NAMES, judge]
    done = subprocess.run([sys.executable, str(script), *arguments], capture_output=True, text=True, timeout=300)
    if not kill_after:
        assert done.returncode == 0, done.stderr[-3000:]
    return done.returncode


def scores(run: Path) -> dict:
    summary = json.loads((run / SUMMARY).read_text())
    return {key: {**value["scores"], "answers": value["answers"]} for key, value in summary["benchmarks"].items()}


@pytest.mark.slow
def test_two_ranks_give_the_numbers_of_one_also_sharded_and_after_a_kill(tmp_path):
    model = "playground:tiny_vision"
    with judge_server(by_mark) as server:
        judge: dict[str, Any] = {"judge": "big", "url": server.url}
        evaluate("auto", 1, tmp_path / "one", model, NAMES, JudgeArgs(**judge))
        launch("fsdp", tmp_path / "two", model, json.dumps(judge))
        assert len(server.requests) == 4 + 4  # rank 0 alone asks, and each of the four answers once
        assert launch("ddp", tmp_path / "killed", model, json.dumps(judge), kill_after=3) != 0
        done_before = run_records(tmp_path / "killed/eval/version_0")
        evaluate("auto", 1, tmp_path / "killed", model, NAMES, JudgeArgs(**judge))
        assert len(server.requests) == 4 + 4 + 4
    single, two, killed = (
        scores(tmp_path / name) for name in ("one/eval/version_0", "two/eval/version_0", "killed/eval/version_1")
    )
    assert single == two == killed
    assert single["mm_vet@export"]["correctness"] >= 0
    assert sum(value["answers"] for value in single.values()) % 2 == 1  # uneven over two ranks
    finished = {record.key: record for record in run_records(tmp_path / "killed/eval/version_1")}
    assert done_before
    assert all(finished[record.key].time == record.time for record in done_before)  # taken over, not written again
