"""8-bit states: against torchao's own optimizer, resumed, counted, and sharded over two ranks."""

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from lit_uniopd import optimizers
from lit_uniopd.cli import main
from lit_uniopd.errors import UserError
from lit_uniopd.memory import optimizer_bytes

SCRIPT = Path(__file__).parent / "distributed" / "adamw_8bit.py"
pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torchao"),
]


def make(parameters: Any) -> torch.optim.Optimizer:
    return optimizers.AdamW8bit(parameters, lr=1e-2, betas=(0.9, 0.98), weight_decay=0.1)


def test_without_torchao_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(optimizers, "OptimState8bit", None)
    with pytest.raises(UserError, match=r"needs the package torchao; install it"):
        make([nn.Parameter(torch.zeros(1))])


def test_states_are_counted_to_the_byte():
    """A byte for each number and a float32 for each block of 128, twice, and two tables of 256 float32 numbers."""
    pytest.importorskip("torchao")
    weight, odd, bias = (nn.Parameter(torch.zeros(shape)) for shape in ((64, 256), (64, 100), (64,)))
    eight = 2 * (64 * 256 + 64 * 256 // 128 * 4 + 256 * 4)
    assert optimizer_bytes(make, [weight]) == (eight + 4, True)
    assert optimizer_bytes(make, [weight, odd, bias]) == (eight + 2 * 4 * (64 * 100 + 64) + 3 * 4, True)


@pytest.mark.slow
def test_steps_are_torchaos_and_go_on_where_they_stopped():
    ao = pytest.importorskip("torchao.optim")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 64), nn.Tanh(), nn.Linear(64, 100))
    theirs, resumed = copy.deepcopy(model), copy.deepcopy(model)
    mine = make(model.parameters())
    reference = ao.AdamW8bit(theirs.parameters(), lr=1e-2, betas=(0.9, 0.98), weight_decay=0.1, block_size=128)

    def steps(model: nn.Module, optimizer: Any, numbers: range) -> None:
        for number in numbers:
            optimizer.zero_grad()
            inputs = torch.randn(8, 256, generator=torch.Generator().manual_seed(number))
            model(inputs).pow(2).mean().backward()
            optimizer.step()

    def first_layer(model: nn.Module) -> torch.Tensor:
        return next(model.parameters()).detach()

    # The second matrix has rows of 64, so that its states are float32 here and 8-bit there.
    steps(model[0], mine, range(3))
    steps(theirs[0], reference, range(3))
    assert first_layer(model).equal(first_layer(theirs))
    stored = copy.deepcopy(mine.state_dict())
    assert {key: value.dtype for key, value in stored["state"][0].items() if value.ndim} == {
        "exp_avg_codes": torch.uint8,
        "exp_avg_scale": torch.float32,
        "exp_avg_sq_codes": torch.uint8,
        "exp_avg_sq_scale": torch.float32,
    }
    resumed.load_state_dict(model.state_dict())
    again = make(resumed.parameters())
    again.load_state_dict(stored)
    steps(model[0], mine, range(3, 6))
    steps(resumed[0], again, range(3, 6))
    assert all(a.equal(b) for a, b in zip(model.parameters(), resumed.parameters(), strict=True))


def launch(ranks: int, root: Path, *jobs: str) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    command = [*(command if ranks > 1 else [sys.executable]), str(SCRIPT), str(root), *jobs]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, env=environment)
    assert done.returncode == 0, done.stderr[-5000:]


@pytest.mark.slow
def test_sharded_states_resume_on_as_many_ranks_bit_by_bit_and_on_one(tmp_path):
    pytest.importorskip("torchao")
    from distributed.scaling import Files

    Files(tmp_path).write()
    checkpoint = tmp_path / "fsdp-2" / "eight.ckpt"
    launch(2, tmp_path, "fsdp:eight", f"fsdp:eight@{checkpoint}")
    launch(1, tmp_path, f"one:eight@{checkpoint}")
    unbroken, resumed, alone = (
        torch.load(tmp_path / name)["weights"]
        for name in ("fsdp-2/eight.pt", "fsdp-2/eight-resumed.pt", "one-1/eight-resumed.pt")
    )
    for name, weight in unbroken.items():
        assert resumed[name].equal(weight)
        # Sums of gradients are rounded otherwise, and now and then a code with them.
        torch.testing.assert_close(alone[name], weight, atol=1e-4, rtol=0)


def test_the_config_is_accepted_also_without_torchao(monkeypatch, capsys):
    monkeypatch.chdir(Path(__file__).parents[1])
    files = ("uni_opd/multi_teacher.yaml", "trainer/fsdp.yaml", "optimizer/adamw_8bit_fsdp.yaml")
    with pytest.raises(SystemExit) as stopped:
        main(["fit", *(word for file in files for word in ("-c", f"configs/{file}")), "--print_config"])
    assert not stopped.value.code
    printed = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]["optimizer"]
    assert printed["class_path"] == "lit_uniopd.optimizers.AdamW8bit"
    # Written out in full, since keys that are left out would keep the default optimizer's values.
    assert set(printed["init_args"]) == {"lr", "betas", "eps", "weight_decay", "block_size"}
