"""Sharded policies that compile and offload have the log-probs and gradients of one process that does neither."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from distributed.update_options import OPTIONS, gradients, loaded
from tiny import make_model

pytestmark = pytest.mark.exhaustive  # each option has its tests on one rank
SCRIPT = Path(__file__).parent / "update_options.py"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("update_options")
    make_model(root / "model")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(SCRIPT), str(root)], capture_output=True, text=True, timeout=500, env=environment
    )
    assert done.returncode == 0, done.stderr[-5000:]
    return root


@pytest.mark.parametrize("name", OPTIONS)
def test_log_probs_and_gradients(name, root):
    logps_BT, grads, graphs = torch.load(root / f"{name}.pt")
    expected_logps, expected = gradients(loaded(root, lora=OPTIONS[name].get("lora")))
    torch.testing.assert_close(logps_BT, expected_logps, atol=2e-5, rtol=1e-5)
    assert grads.keys() == expected.keys()
    for key, gradient in expected.items():
        torch.testing.assert_close(grads[key], gradient, atol=1e-5 * float(gradient.norm()) + 1e-8, rtol=1e-4)
    assert graphs > 0
