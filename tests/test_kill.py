"""A real process, killed by the kernel at whatever it is doing."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from lightning.pytorch.callbacks import ModelCheckpoint
from tiny import module, prompts, trainer, adam
from datamodules import PromptDataModule, SourceArgs
root, resume, *paths = sys.argv[1:]
data = PromptDataModule(train=SourceArgs(path=root + "/train.jsonl", grader="exact"), batch_size=4, seed=3)
saver = ModelCheckpoint(dirpath=root + "/ckpt", save_last=True, every_n_train_steps=1)
model = module(dict(zip(["student", "math", "code"], paths)), optimizer=adam)
trainer(root, enable_checkpointing=True, callbacks=[saver], max_steps=40, max_epochs=-1).fit(
    model, data, ckpt_path=resume or None, weights_only=True
)
"""


@pytest.mark.slow
def test_a_run_killed_by_the_kernel_resumes_to_the_same_weights(model_dirs, tmp_path):
    results = []
    for name in ("unbroken", "killed"):
        root = tmp_path / name
        root.mkdir()
        rows = [f'{{"prompt": "{i}=", "answer": "{i}", "domain": "{["math", "code"][i % 2]}"}}\n' for i in range(10)]
        (root / "train.jsonl").write_text("".join(rows))
        last = root / "ckpt/last.ckpt"
        if name == "killed":
            kill_when(last, start(root, "", model_dirs))
            step = torch.load(last, weights_only=True)["global_step"]
            assert 0 < step < 40
        done = start(root, str(last) if name == "killed" else "", model_dirs)
        assert done.wait(timeout=240) == 0
        results.append(torch.load(last, weights_only=True))
    unbroken, killed = results
    assert unbroken["global_step"] == killed["global_step"] == 40
    for key, tensor in unbroken["state_dict"].items():
        assert torch.equal(tensor, killed["state_dict"][key])


def start(root: Path, resume: str, paths: dict[str, str]) -> subprocess.Popen:
    code = SCRIPT.format(tests=str(Path(__file__).parent))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent.parent)}
    command = [sys.executable, "-W", "ignore", "-c", code, str(root), resume, *paths.values()]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)


def kill_when(checkpoint: Path, process: subprocess.Popen) -> None:
    """Kill a little after the first checkpoint is there."""
    deadline = time.monotonic() + 120
    while not checkpoint.exists():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.wait()
