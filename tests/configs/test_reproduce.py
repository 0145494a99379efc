"""The configs of published runs fit on the machines that docs/reproduce.md names, by the memory plan at true sizes."""

import re
from pathlib import Path

import pytest

from benchmarks.hardware import COMMANDS, fits, setup_of
from lit_uniopd.memory import plan_memory
from lit_uniopd.utils.strict_yaml import read_yaml

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("name", "gpus", "gib", "flags"),
    [
        ("trl_dpo", 1, 23.6, ["--trainer.precision", "32-true"]),
        ("tuft_self_teacher", 1, 39.4, []),
        ("open_mopd", 8, 79.1, []),
    ],
)
@pytest.mark.thinned(3)
def test_it_fits(name, gpus, gib, flags):
    assert fits(plan_memory(setup_of(COMMANDS[f"reproduce/{name}"], gpus, gib, flags)), gib)


def test_numbers_are_those_of_the_sources():
    dpo, tuft = (read_yaml(ROOT / f"configs/reproduce/{name}.yaml") for name in ("trl_dpo", "tuft_self_teacher"))
    policy, data = dpo["model"]["init_args"]["policy"], dpo["data"]["init_args"]
    assert (policy["path"], policy["dtype"], policy["attn_implementation"]) == (
        "Qwen/Qwen2.5-0.5B-Instruct",
        "float32",
        "eager",
    )
    assert (dpo["trainer"]["max_steps"], data["max_length"], dpo["seed_everything"], data["shuffle"]) == (
        50,
        512,
        42,
        False,
    )
    module, data = tuft["model"]["init_args"], tuft["data"]["init_args"]
    assert (module["student"]["path"], module["student"]["lora"]["rank"]) == ("Qwen/Qwen3-1.7B", 16)
    assert (tuft["trainer"]["max_steps"], data["global_batch_size"], module["sampling"]["n"]) == (16, 8, 4)
    assert (module["optimizer"]["init_args"]["lr"], module["sampling"]["max_new_tokens"]) == (1e-4, 256)
    assert module["student"]["chat_template_kwargs"] == {"enable_thinking": False}


def test_the_checklist_has_the_commands_of_the_configs():
    page = (ROOT / "docs/reproduce.md").read_text()
    for path in (ROOT / "configs/reproduce").glob("*.yaml"):
        head = [line[1:].strip() for line in path.read_text().splitlines() if line.startswith("#")]
        commands = [line for line in head if re.match(r"uniopd |python ", line)]
        assert len(commands) >= 3
        assert all(command in page for command in commands)
