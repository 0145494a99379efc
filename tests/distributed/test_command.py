"""`configs/trainer/fsdp.yaml` as its user meets it, on two processes that Lightning starts, with the CPU in place of GPUs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.slow
def test_a_sharded_run_from_the_command_line_and_its_export(model_dirs, tmp_path):
    rows = [{"prompt": f"{i}+{i}=", "answer": str(2 * i), "domain": ("math", "code")[i % 2]} for i in range(8)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    paths = [f"--model.teachers.{name}.path={model_dirs[name]}" for name in ("math", "code")]
    command = [sys.executable, "-m", "lit_uniopd", "fit", "-c", str(CONFIGS / "uni_opd/multi_teacher.yaml")]
    command += ["-c", str(CONFIGS / "trainer/fsdp.yaml"), f"--model.student.path={model_dirs['student']}", *paths]
    command += [
        "--data.train.path=prompts.jsonl",
        "--data.val=null",
        "--data.global_batch_size=4",
        "--trainer.max_steps=2",
    ]
    command += ["--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.val_check_interval=null"]
    command += ["--trainer.callbacks={class_path: lightning.pytorch.callbacks.ModelCheckpoint, init_args: "]
    command[-1] += "{every_n_train_steps: 2, save_last: true}}"
    command += ["--model.sampling.n=2", "--model.sampling.max_new_tokens=5", "--model.grader_workers=1"]
    root = Path(__file__).parents[2]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    export = [sys.executable, "-m", "lit_uniopd", "export", "runs/multi_teacher/version_0", "out"]
    for arguments in (command, export):
        done = subprocess.run(
            arguments, cwd=tmp_path, capture_output=True, text=True, timeout=400, env=environment, check=False
        )
        assert done.returncode == 0, done.stderr[-4000:]
    shares = (tmp_path / "runs/multi_teacher/version_0/checkpoints/last.ckpt").glob("*.safetensors")
    assert len(list(shares)) == 2
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")
