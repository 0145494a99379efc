"""Each rank has an engine, and each engine the weights of all ranks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("strategy", ["fsdp_lora", "fsdp", "ddp"])
@pytest.mark.thinned(3)
def test_two_ranks_sample_from_the_student_of_every_step(tiny_dirs, tmp_path, strategy):
    models = Path(tiny_dirs["student"]).parent
    command = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        str(Path(__file__).with_name("ranks.py")),
    ]
    done = subprocess.run(
        [sys.executable, *command, str(tmp_path), strategy, str(models)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-5000:]
    first, second = (json.loads((tmp_path / f"{strategy}-{rank}.json").read_text()) for rank in range(2))
    for rank in (first, second):
        assert len(rank["drifts"]) == 3
        assert max(rank["drifts"]) < 1e-4
        assert rank["whole_layers"] == (2 if strategy == "ddp" else 1)
    assert first["weights"] == second["weights"]
    assert first["answers"] != second["answers"]
