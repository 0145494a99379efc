"""What a run says where nobody watches a bar: the real command without a terminal and with one, and every objective."""

import json
import os
import pty
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from tiny import Prompts, adam, module, prompts, trainer

from datamodules import PairSourceArgs, PreferenceDataModule, PromptDataModule, SourceArgs
from lit_uniopd.cli.app import run as run_command_line
from lit_uniopd.doctor.unstarted_run import UnstartedRun
from lit_uniopd.modules import DPO, SFT
from lit_uniopd.modules.progress_lines import ProgressLines
from lit_uniopd.policy import PolicyArgs
from lit_uniopd.sampling import engine_loop
from lit_uniopd.utils import progress

ROOT = Path(__file__).parents[1]
LINE = re.compile(r"^\d\d:\d\d:\d\d (.*)$", re.MULTILINE)
NUMBER = r"-?[\d.e+-]+"


@pytest.fixture
def command(model_dirs: dict[str, str], tmp_path: Path) -> list[str]:
    """Three rollouts of four prompts, two optimizer steps each."""
    rows = [{"prompt": f"{i}+{i}=", "answer": str(2 * i), "domain": ["math", "code"][i % 2]} for i in range(8)]
    for name in ("train", "heldout"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [
        *(sys.executable, "-m", "lit_uniopd", "fit", "-c", str(ROOT / "configs/uni_opd/multi_teacher.yaml")),
        *("-c", str(ROOT / "configs/trainer/cpu.yaml"), f"--model.student.path={model_dirs['student']}"),
        f"--model.teachers.math.path={model_dirs['math']}",
        f"--model.teachers.code.path={model_dirs['code']}",
        *("--data.train.path=train.jsonl", "--data.val.path=heldout.jsonl", "--data.global_batch_size=4"),
        *("--model.sampling.n=2", "--model.sampling.max_new_tokens=5", "--model.updates_per_rollout=2"),
        *("--trainer.max_steps=6", "--trainer.val_check_interval=2", "--model.grader_workers=1"),
        "--trainer.callbacks+=lit_uniopd.modules.progress_lines.ProgressLines",
        "--trainer.callbacks.every_s=0",
    ]


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


@pytest.mark.slow
def test_a_log_has_lines_and_no_bars(command, tmp_path):
    done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    output = done.stderr + done.stdout
    assert "\r" not in output
    assert not re.search(r"\d+%\||Epoch 0|it/s", output)
    lines = LINE.findall(done.stderr)
    assert lines[0].startswith("fit begins · UniOPD · ")
    assert "training begins · rollout 0/3 · step 0/6" in lines
    assert "student answers math · 4 rows" in lines  # before the first step
    steps = [line for line in lines if line.startswith("rollout ")]
    for number, line in enumerate(steps, start=1):
        values = rf"train/loss {NUMBER} · KL {NUMBER} · reward {NUMBER} · correct {NUMBER} · length {NUMBER} · {NUMBER} tok/s"
        left = "" if number == 3 else r" · \d+ s left"
        where = f"rollout {number}/3 · step {2 * number}/6 · prompts {4 * number}"
        assert re.fullmatch(f"{where} · {values}{left}", line), line
    assert len(steps) == 3
    validations = [line for line in lines if line.startswith("validation")]
    assert validations[0] == "validation begins · 8 rows"
    assert re.fullmatch(rf"validation 8/8 rows · {NUMBER} rows/s · val/accuracy {NUMBER}", validations[-1])
    # What is told once is told once.
    notices = [
        line for line in done.stderr.splitlines() if line.strip() and not LINE.match(line) and not line.startswith("|")
    ]
    assert [line for line in notices if notices.count(line) > 1] == []


@pytest.mark.exhaustive
def test_a_terminal_has_a_bar_and_no_lines(command, tmp_path):
    controller, terminal = pty.openpty()
    environment = {**ENVIRONMENT, "TERM": "xterm", "COLUMNS": "160"}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=terminal, stderr=terminal)
    os.close(terminal)
    chunks = []
    try:
        while chunk := os.read(controller, 65536):
            chunks.append(chunk)
    except OSError:  # the other side is closed
        pass
    assert process.wait() == 0, b"".join(chunks)[-3000:]
    output = b"".join(chunks).decode(errors="replace")
    assert "Epoch 0" in output
    assert not LINE.search(output.replace("\r", "\n"))


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is said in this process, without the time of day."""
    said: list[str] = []
    monkeypatch.setattr(progress.heartbeat, "write", lambda text: said.append(text.split(" ", 1)[1]))
    return said


def test_sft_counts_prompts_over_accumulated_batches_and_after_a_resume(model_dirs, tmp_path, lines):
    table = tmp_path / "rows.jsonl"
    table.write_text("".join(json.dumps({"prompt": f"{i}+1=", "answer": f"{i + 1}"}) + "\n" for i in range(8)))

    def fit(steps: int, **options: Any) -> Any:
        source = SourceArgs(path=str(table), grader="exact")
        data = PromptDataModule(train=source, val=source, batch_size=2, seed=1)
        settings = {"callbacks": [ProgressLines(every_s=0)], "accumulate_grad_batches": 2, "limit_val_batches": 1.0}
        run = trainer(tmp_path, max_epochs=-1, max_steps=steps, num_sanity_val_steps=0, **settings)
        run.fit(SFT(PolicyArgs(path=model_dirs["student"]), optimizer=adam, seed=1), data, **options)
        return run

    fit(3).save_checkpoint(tmp_path / "three.ckpt")
    steps = [line for line in lines if line.startswith("step ")]
    # Two rows a batch, two batches a step: a line at the end of each batch.
    positions = [" · ".join(line.split(" · ")[:2]) for line in steps]
    expected = [(0, 2), (1, 4), (1, 6), (2, 8), (2, 10), (3, 12)]
    assert positions == [f"step {step}/3 · prompts {rows}" for step, rows in expected]
    assert re.fullmatch(rf"step 3/3 · prompts 12 · train/loss {NUMBER} · {NUMBER} prompts/s", steps[-1])
    assert any(re.fullmatch(rf"validation 8/8 rows · {NUMBER} rows/s · val/loss {NUMBER}", line) for line in lines)

    lines.clear()
    fit(4, ckpt_path=tmp_path / "three.ckpt", weights_only=True)
    assert "training begins · step 3/4" in lines
    steps = [line for line in lines if line.startswith("step ")]
    assert [" · ".join(line.split(" · ")[:2]) for line in steps] == ["step 3/4 · prompts 14", "step 4/4 · prompts 16"]


def test_pairs_show_accuracy_and_margin_and_a_fast_run_its_first_and_last_step(model_dirs, tmp_path, lines):
    table = tmp_path / "pairs.jsonl"
    table.write_text(
        "".join(json.dumps({"prompt": f"{i}+1=", "chosen": f"{i + 1}", "rejected": "x"}) + "\n" for i in range(9))
    )
    data = PreferenceDataModule(train=PairSourceArgs(path=str(table)), batch_size=2, seed=1)
    run: Any = trainer(tmp_path, max_epochs=-1, max_steps=5)
    run.fit(DPO(PolicyArgs(path=model_dirs["student"]), optimizer=adam, seed=1), data)
    assert sum(isinstance(callback, ProgressLines) for callback in run.callbacks) == 1  # no command line, no YAML
    steps = [line for line in lines if line.startswith("step ")]
    values = rf"train/loss {NUMBER} · accuracy {NUMBER} · margin {NUMBER} · {NUMBER} prompts/s"
    assert re.fullmatch(rf"step 1/5 · prompts 2 · {values} · \d+ s left", steps[0])
    assert re.fullmatch(rf"step 5/5 · prompts 10 · {values}", steps[1])
    assert len(steps) == 2


def test_prediction_and_validation_count_rows(model_dirs, tmp_path, lines):
    model, data = module(model_dirs), Prompts(prompts(4))
    source = tmp_path / "rows.jsonl"
    source.write_text(
        "".join(json.dumps({"prompt": f"{i}=", "answer": "1", "domain": "math"}) + "\n" for i in range(5))
    )
    data = PromptDataModule(val=SourceArgs(path=str(source), grader="exact"), batch_size=2)
    run = trainer(tmp_path, callbacks=[ProgressLines(every_s=0)], limit_val_batches=1.0, limit_predict_batches=2)
    run.validate(model, data, verbose=False)
    assert lines[0].startswith("validate begins · UniOPD · ")
    rows = [re.sub(r" · .*", "", line) for line in lines if line.startswith("validation")]
    assert rows == ["validation begins", "validation 2/5 rows", "validation 4/5 rows", "validation 5/5 rows"]
    lines.clear()
    run.predict(model, data)
    rows = [re.sub(r" · .*", "", line) for line in lines if line.startswith("prediction")]
    assert rows == ["prediction begins", "prediction 2/4 rows", "prediction 4/4 rows"]


def test_a_step_that_blocks_is_told_of_with_its_place_and_tokens(model_dirs, tmp_path, monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(progress, "heartbeat", progress.Heartbeat(0.2, said.append))
    monkeypatch.setattr("lit_uniopd.modules.progress_lines.heartbeat", progress.heartbeat)
    sample_token = engine_loop.sample_token

    def slow(*arguments: Any) -> Any:
        time.sleep(0.3)
        return sample_token(*arguments)

    monkeypatch.setattr(engine_loop, "sample_token", slow)
    run = trainer(tmp_path, max_steps=2)
    run.fit(module(model_dirs), Prompts(prompts(8)))
    first = [line.split(" ", 1)[1] for line in said if " rollout 1/2 · step 0/2 · writing answers" in line]
    # 4 prompts, 3 answers to each: at most 12 tokens at each of the 6 places.
    tokens = [int(re.search(r"(\d+) tokens", line)[1]) for line in first if "tokens" in line]  # type: ignore[index]
    assert tokens == sorted(tokens)
    assert tokens[0] == 12
    assert 12 < tokens[-1] <= 72
    assert re.match(r"rollout 1/2 · step 0/2 · writing answers \d+/12 answers · \d+ tokens · ", first[-1])
    assert not progress.heartbeat.text()  # nothing is under way any more


def test_a_bar_of_ones_own_stays(model_dirs, tmp_path):
    bar = TQDMProgressBar()
    run = trainer(tmp_path, callbacks=[bar], enable_progress_bar=True, max_steps=1)
    run.fit(module(model_dirs), Prompts(prompts(4)))
    assert run.progress_bar_callback is bar
    assert bar.is_enabled


@pytest.mark.parametrize(
    ("arguments", "expected", "recorded"),
    [
        ([], None, None),
        (["--trainer.enable_progress_bar=true"], RichProgressBar, True),
        (["--trainer.enable_progress_bar=false"], None, False),
        (["--trainer.callbacks+=lightning.pytorch.callbacks.TQDMProgressBar"], TQDMProgressBar, None),
    ],
)
@pytest.mark.thinned(2)
def test_without_a_terminal_a_bar_is_drawn_only_where_it_is_asked_for(
    command, tmp_path, monkeypatch, arguments, expected, recorded
):
    monkeypatch.chdir(tmp_path)
    unstarted: Any = run_command_line([*command[3:], *arguments], UnstartedRun)
    assert type(unstarted.trainer.progress_bar_callback) is (expected or type(None))
    # The record of the run says what the user said: on a terminal the same file draws a bar.
    assert unstarted.config["fit"].trainer.enable_progress_bar is recorded
