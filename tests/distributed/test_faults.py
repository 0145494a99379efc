"""Two ranks of `uniopd fit` that are stopped, killed and resumed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

CONFIG = """
trainer:
  accelerator: cpu
  devices: 2
  strategy: ddp
  max_steps: 8
  max_epochs: -1
  log_every_n_steps: 1
  use_distributed_sampler: false
  enable_progress_bar: false
  enable_model_summary: false
  logger: {{class_path: lightning.pytorch.loggers.TensorBoardLogger, init_args: {{save_dir: {root}, name: run}}}}
  callbacks:
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint
      init_args: {{every_n_train_steps: 2, save_last: true}}
model:
  class_path: lit_uniopd.modules.UniOPD
  init_args:
    student: {{path: {student}, lora: {{rank: 2, alpha: 4, dropout: 0.1}}}}
    teachers: {{math: {{path: {math}}}, code: {{path: {code}}}}}
    sampling: {{n: 2, max_new_tokens: 24}}
    updates_per_rollout: 2
    grader_workers: 1
    optimizer: {{class_path: torch.optim.AdamW, init_args: {{lr: 0.001}}}}
data:
  class_path: datamodules.PromptDataModule
  init_args:
    train: {{path: {root}/train.jsonl, grader: exact}}
    batch_size: 2
    shuffle: false
"""


class Run:
    """One launch; its ranks are found by the files that they write."""

    def __init__(self, root: Path, *arguments: str, hold: str = "") -> None:
        self.places = root / f"places{len(list(root.glob('places*')))}"
        self.places.mkdir()
        script = Path(__file__).parent / "stoppable.py"
        command = [sys.executable, "-W", "ignore", str(script), "fit", f"--config={root}/run.yaml", *arguments]
        environment = {**os.environ, "PLACES": str(self.places), "OMP_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = str(Path(__file__).parents[2])
        if hold:
            environment["HOLD"] = hold
        with (self.places / "log").open("w") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def send(self, signum: int, *ranks: int) -> None:
        """Wait until a rank is held up, a little longer, and signal."""
        deadline = time.monotonic() + 200
        while not (self.places / "held").exists():
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.05)
        time.sleep(1.5)
        for rank in ranks:
            os.kill(int((self.places / f"pid.{rank}").read_text()), signum)

    def wait(self, seconds: float = 200) -> int:
        try:
            status = self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"still running after {seconds} s: {self.output}") from None
        # The rank that Lightning launched may end a moment later.
        pid = self.places / "pid.1"
        for _ in range(200):
            if not pid.exists() or not alive(int(pid.read_text())):
                return status
            time.sleep(0.1)
        raise AssertionError(f"rank 1 is left behind: {self.output}")

    @property
    def output(self) -> str:
        return (self.places / "log").read_text()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def prepare(root: Path, model_dirs: dict[str, str]) -> None:
    root.mkdir()
    # Rank 0 gets the long prompts, and hands some on.
    rows = [
        {"prompt": "1+" * (12 * (i % 2 == 0)) + f"{i}=", "answer": str(i), "domain": ["math", "code"][i % 2]}
        for i in range(10)
    ]
    (root / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "run.yaml").write_text(CONFIG.format(root=root, **model_dirs))


def last(root: Path, version: int) -> dict:
    return torch.load(root / f"run/version_{version}/checkpoints/last.ckpt", weights_only=True)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds ranks in /proc")
def test_two_ranks_stop_together_survive_a_kill_and_end_where_an_unbroken_run_does(model_dirs, tmp_path):
    reference, broken = tmp_path / "whole", tmp_path / "broken"
    for root in (reference, broken):
        prepare(root, model_dirs)
    unbroken = Run(reference)

    # Rank 0 samples slowly, rank 1 waits for it in a collective call, where no Python handler runs; only it is told.
    first = Run(broken, hold="sample_token 2 0 4")
    first.send(signal.SIGTERM, 1)
    assert first.wait(60) == 143, first.output
    assert f"Stopped by SIGTERM at step 2; saved {broken}/run/version_0/checkpoints/last.ckpt" in first.output
    assert "Traceback" not in first.output
    assert last(broken, 0)["global_step"] == 2
    assert unbroken.wait() == 0, unbroken.output

    # All are told, between two updates of a rollout: each rank's answers are in the one checkpoint.
    second = Run(broken, "--ckpt_path=last", hold="clip 2 1 6")
    second.send(signal.SIGTERM, 0, 1)
    assert second.wait(60) == 143, second.output
    assert "at step 3 (1 of 2 updates of its rollout made); saved" in second.output
    checkpoint = last(broken, 1)
    assert checkpoint["global_step"] == 3
    assert [state["done"] for state in checkpoint["rollouts"]] == [1, 1]
    trained = [state["rollouts"]["group_B"].tolist() for state in checkpoint["rollouts"]]
    assert any(group % 2 != rank for rank, groups in enumerate(trained) for group in groups)  # some have moved

    # One dies without a word in the middle of a step.
    third = Run(broken, "--ckpt_path=last", hold="clip 6 1 60")
    third.send(signal.SIGKILL, 1)
    assert third.wait(60) != 0
    assert "error: Another process of this run has died or did not answer in time" in third.output
    assert last(broken, 2)["global_step"] == 6

    last_run = Run(broken, "--ckpt_path=last")
    assert last_run.wait() == 0, last_run.output
    expected, actual = last(reference, 0), last(broken, 3)
    assert expected["global_step"] == actual["global_step"] == 8
    for name, value in expected["state_dict"].items():
        assert torch.equal(value, actual["state_dict"][name]), name
