"""The script of docs/gpu.md, on tiny models: its rows, and what becomes of parts that fail."""

import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

import benchmarks.gpu.__main__ as gpu
from benchmarks.gpu import page
from benchmarks.gpu.setting import FULL, TINY, Row, Setting

ROOT = Path(__file__).parents[1]


def rows_of(text: str) -> list[Row]:
    return [Row(**json.loads(line)) for line in text.splitlines() if line.startswith('{"part"')]


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"\d+\.\d+", text)]


def test_rows_of_tiny_models(capsys):
    gpu.main(["--tiny", "--only", "0.6B", "packing", "cascade", "vllm"])
    rows = {(row.part, row.what): row for row in rows_of(capsys.readouterr().out)}
    # Embedding; per layer q and o, k and v, three of the MLP, two norms, q and k norm; the last norm.
    layer = 2 * 128 * 128 + 2 * 128 * 64 + 3 * 128 * 128 + 2 * 128 + 2 * 32
    assert rows["0.6B", "parameters"].value == f"{64 * 128 + 2 * layer + 128:,}"
    for what in ("rollout, loop", "scoring", "update"):
        assert re.fullmatch(r"[\d,]+ tokens/s", rows["0.6B", what].value)
    packed, padded = numbers(rows["packing", "update, packed / padded"].note)
    assert packed == pytest.approx(padded, rel=1e-2)
    assert ("cascade", "decoding, one cache / one a row") in rows
    assert ("vllm", "left out") in rows or ("vllm", "vLLM, rollout alone") in rows
    assert not [row for row in rows.values() if row.what == "failed"]


@pytest.mark.slow
@pytest.mark.exhaustive
def test_every_part_in_a_process_of_its_own():
    command = [sys.executable, "-m", "benchmarks.gpu", "--tiny"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = rows_of(done.stdout)
    assert {row.part for row in rows} == set(gpu.PARTS)
    assert not [row for row in rows if row.what in ("failed", "stopped")]
    norms = [numbers(row.note)[0] for row in rows if row.part == "options"]
    assert norms == pytest.approx([norms[0]] * 3, rel=1e-2)


def test_a_part_that_fails_or_takes_too_long_is_a_row(monkeypatch, capsys):
    def broken(setting: Setting):
        yield setting.row("first", "1")
        raise RuntimeError("no memory\nmore of it")

    monkeypatch.setitem(gpu.PARTS, "packing", (broken, 1))
    gpu.main(["--tiny", "--only", "packing"])
    first, failed = rows_of(capsys.readouterr().out)
    assert (first.what, first.value) == ("first", "1")
    assert (failed.what, failed.note) == ("failed", "RuntimeError: no memory")
    (stopped,) = gpu.run_apart("vllm", 0.01)
    assert (stopped.what, stopped.note) == ("stopped", "not done in 0 s")


def test_parts_fit_into_eight_minutes():
    assert gpu.TOTAL < 480
    assert sum(seconds for name, (_, seconds) in gpu.PARTS.items() if name not in ("vllm", "options")) < gpu.TOTAL


def test_without_a_gpu_it_says_what_to_run(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="--tiny"):
        gpu.main([])


def test_the_page(tmp_path):
    text = page.PAGE.read_text()
    copy = tmp_path / "gpu.md"
    copy.write_text(text)
    rows = [Row("a", "b", "1 | 2", "note")]
    page.write(page.section(rows, "NVIDIA H200", 61.4, ["--only", "fsdp"]), copy)
    written = copy.read_text()
    assert "`python -m benchmarks.gpu --only fsdp` on NVIDIA H200: 61 s in all." in written
    assert f"torch {metadata.version('torch')}" in written
    assert "| a    | b    | 1 / 2 | note |" in written
    before, after = text.split(page.BEGIN)[0], text.split(page.END)[1]
    assert written.startswith(before)
    assert written.endswith(after)


def test_the_page_says_what_was_run():
    marked = page.PAGE.read_text().split(page.BEGIN)[1].split(page.END)[0].strip()
    assert marked == "Not yet run on a GPU." or marked.startswith("`python -m benchmarks.gpu")


def test_shapes_are_those_of_the_plan_by_hand():
    from lit_uniopd.memory import build_meta_model, model_size
    from lit_uniopd.policy import PolicyArgs

    counts = {
        name: model_size(build_meta_model(PolicyArgs(config=dict(shape)), trainable=False, flag="policy")).parameters
        for name, shape in FULL.shapes.items()
    }
    assert counts == {"0.6B": 596_049_920, "4B": 4_022_468_096}  # of the published models
    assert TINY.micro_batch_tokens < TINY.prompts * TINY.n * (TINY.prompt_tokens + TINY.new_tokens)
