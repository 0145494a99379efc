"""The harness of `make bench`: ratios, peaks, and a table in which a miss stays a miss."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.bars import GROUPS, table
from benchmarks.bars.harness import Bar, cpu_seconds, spread, time_bar
from benchmarks.bars.steps import PARTS

ROOT = Path(__file__).parents[1]


def test_ratios_are_taken_round_by_round():
    seconds = {"ours": [1.0, 4.0, 3.0], "theirs": [2.0, 4.0, 4.0]}
    bar = time_bar("6", "a step", seconds, "ours", "theirs", 0.7)
    assert (bar.low, bar.value, bar.high, bar.passed) == (0.5, 0.75, 1.0, False)
    assert spread("20", "rest", "share", [0.01, 0.05, 0.2], 0.05).passed


def test_sides_take_turns_and_the_first_round_does_not_count():
    order: list[str] = []
    seconds = cpu_seconds({side: lambda side=side: order.append(side) for side in "ab"}, rounds=2)
    assert order == list("ababab")
    assert [len(values) for values in seconds.values()] == [2, 2]


PEAK = """
import torch
from benchmarks.bars.harness import peak_mib
def build(side, small):
    before = torch.ones(2**24)  # 64 MiB
    return lambda: torch.ones(2**14 if small else 2**25).add_(before[0])  # 128 MiB
print(peak_mib(build, "any"))
"""


def test_the_peak_is_that_of_the_step_alone():
    """In a process that has held nothing large, as the benchmark's: memory freed by other tests would be used again."""
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True, cwd=ROOT)
    assert float(done.stdout) == pytest.approx(128, abs=16)


def test_the_table_says_what_was_missed(tmp_path, monkeypatch, capsys):
    page, split = tmp_path / "performance.md", tmp_path / "split.json"
    page.write_text("before\n<!-- bars -->\nold\n<!-- end of bars -->\n<!-- split -->\n<!-- end of split -->\nafter\n")
    monkeypatch.setattr(table, "PAGE", page)
    split.write_text(json.dumps({"step": 0.5, "shares": dict.fromkeys([*PARTS, "encode"], 0.125)}))
    bars = [Bar("20", "rest", "share", 0.09, 0.08, 0.1, 0.05), Bar("6", "a step", "time", 0.48, 0.47, 0.5, 0.55)]
    table.write_table(bars, 7.0, split)
    text = page.read_text()
    assert "| 6 | a step | time | 0.48 (0.47 to 0.5) | 0.55 | pass |" in text
    assert "| 20 | rest | share | 0.09 (0.08 to 0.1) | 0.05 | **miss** |" in text
    assert "busy machine" in text
    assert "| wait: for the next batch | 12.5% |" in text
    assert "old" not in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert capsys.readouterr().out.startswith("1 of 2 measurements pass")


def test_every_group_can_be_measured():
    import importlib

    for group in GROUPS:
        assert callable(importlib.import_module(f"benchmarks.bars.{group}").bars)
