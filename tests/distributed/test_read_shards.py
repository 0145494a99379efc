"""Ranks that read their own shards hold, bit by bit, what one process loads; and never a whole model."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from distributed.read_shards import CASES, write_models

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).parent / "read_shards.py"


def launch(root: Path, ranks: int, names: list[str]) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    # What is freed goes back to the system, so that the limit counts what is held and not what fragments.
    allocation = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **allocation}
    done = subprocess.run(
        [*command, str(SCRIPT), str(root), *names], capture_output=True, text=True, timeout=300, env=environment
    )
    assert done.returncode == 0, done.stderr[-5000:]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    write_models(root)
    launch(root, 2, [*CASES, "limited"])
    return root


def result(root: Path, name: str) -> dict[str, Any]:
    return json.loads((root / f"{name}.json").read_text())


@pytest.mark.parametrize("name", CASES)
def test_shards_are_those_of_the_model_that_one_process_loads(name, root):
    """Weights, types, buffers that no file has, adapters, ties, packing, generation config and log-probs."""
    assert result(root, name) == {"different": [], "read_whole": name == "few_experts"}


def test_a_model_is_loaded_that_no_rank_could_hold(root):
    outcome = result(root, "limited")
    assert outcome["read"] == pytest.approx(outcome["weights"] / 2, rel=0.01)
    assert "memory" in outcome["whole"]
