"""Which machine a config fits on, by the memory plan at the true sizes of its models: the table of docs/memory.md.

    python -m benchmarks.hardware

Nothing is loaded: a config is read as `uniopd fit` reads it, its module is made, and asked what a step of the longest
rows would hold. `benchmarks/hardware.yaml` has the models, the machines and the commands.
"""

import atexit
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch

from datamodules.global_batch import share_of_rank
from lit_uniopd.cli.app import UniOPDCLI, run
from lit_uniopd.memory import MemoryPlan, Setup, plan_memory
from lit_uniopd.memory.plan import GIB, padded
from lit_uniopd.sampling import engine_vllm_colocated
from lit_uniopd.types import EncodedPair, PreferencePair, Prompt
from lit_uniopd.utils.strict_yaml import read_yaml

CONFIGS = Path(__file__).parents[1] / "configs"


@dataclass(frozen=True)
class Command:
    """A command of the docs."""

    files: Sequence[str]
    """Of configs/, without their ending and without that of the trainer."""
    models: Mapping[str, str]
    """Option of a model -> its name in ``MODELS``."""
    flags: Sequence[str] = ()
    """Further arguments of the plan alone."""


_TABLES: dict[str, Any] = read_yaml(Path(__file__).with_suffix(".yaml"))
MODELS: dict[str, Any] = _TABLES["models"]
GPUS: dict[str, float] = _TABLES["gpus"]
COMMANDS = {name: Command(**command) for name, command in _TABLES["commands"].items()}
FREE = 0.95
"""Share of a GPU that a plan may take: the CUDA context and fragmentation are not counted."""


class Outline(UniOPDCLI):
    """A command that is parsed, and whose module is made; there is no trainer."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, run=False, **kwargs)

    def instantiate_trainer(self, **_: Any) -> Any:
        return None


@cache
def model_directory(model: str) -> str:
    """Of a model that has a config, and no weights yet; it is removed when Python ends."""
    directory = TemporaryDirectory()
    atexit.register(directory.cleanup)
    config = {"dtype": "bfloat16", **MODELS[model]}
    (Path(directory.name) / "config.json").write_text(json.dumps(config))
    return directory.name


def _strategy(strategy: Any, gpu: torch.device) -> Any:
    """That of a config on this GPU; none has started."""
    if isinstance(strategy, str):  # auto: one device
        return SimpleNamespace(root_device=gpu)
    strategy.parallel_devices = [gpu]
    return strategy


def setup_of(command: Command, gpus: int, gib: float, flags: Sequence[str] = ()) -> Setup:
    """What the memory plan of a command depends on, with prompts and answers as long as its config lets them be.

    Args:
        command: to plan.
        gpus: of the machine; several share the weights (FSDP).
        gib: memory of each.
        flags: further arguments.
    """
    files = [*command.files, "trainer/gpu" if gpus == 1 else "trainer/fsdp"]
    words = [word for file in files for word in ("-c", str(CONFIGS / f"{file}.yaml"))]
    for flag, name in command.models.items():
        words += [f"--{flag}.path", model_directory(name)]
    cli: Any = run([*words, *command.flags, *flags], Outline)
    module: Any = cli.model
    data, gpu = cli.config.data.init_args, torch.device("cuda", 0)
    limit, prompt = getattr(data, "max_length", None), data.max_prompt_tokens
    if limit is not None:  # half of it, where prompts have no limit of their own
        prompt = min(prompt or limit, limit // 2)
    answer = (0,) * (limit - prompt) if limit is not None else ()
    share = share_of_rank(data.global_batch_size, gpus, None if hasattr(module, "sampling") else data.batch_size)
    row = Prompt("0", (), domain=next(iter(getattr(module, "teachers", ())), "default"))
    module._trainer = SimpleNamespace(
        datamodule=SimpleNamespace(
            batch_size=share.rows,
            train_prompts=[row],
            train_pairs=[EncodedPair(PreferencePair(row, "", ""), (0,) * prompt, answer, answer)],
        ),
        strategy=_strategy(cli.config_init.trainer.strategy, gpu),
        callbacks=(),
        precision=cli.config.trainer.precision,
        world_size=gpus,
    )
    module.__dict__["_processor"] = None  # no teacher of these plans reads prompts of its own
    memory = SimpleNamespace(total_memory=int(gib * GIB))
    with (
        patch("torch.cuda.get_device_properties", return_value=memory),
        patch("torch.cuda.device_count", return_value=gpus),
        patch.object(engine_vllm_colocated, "is_installed", return_value=True),
        patch.object(type(module), "longest_prompt", return_value=prompt),
        patch.object(type(module), "longest_answer", return_value=getattr(module, "max_answer_tokens", 0), create=True),
    ):
        return module.memory_setup()


def table() -> str:
    """For each command, GiB at the peak on each GPU of each machine; in brackets where that is more than it has."""
    rows = []
    for name, command in COMMANDS.items():
        cells = []
        for gpus in (1, 8):
            setup = setup_of(command, gpus, 0.0)
            for gib in GPUS.values():
                plan = plan_memory(replace(setup, device_bytes=int(gib * GIB)))
                cells.append(f"{plan.total / GIB:.0f}" if fits(plan, gib) else f"({plan.total / GIB:.0f})")
        rows.append((name, *cells))
    return padded(("GiB at the peak", *(f"{gpus} x {gpu}" for gpus in (1, 8) for gpu in GPUS)), rows)


def fits(plan: MemoryPlan, gib: float) -> bool:
    """Whether a GPU has as much."""
    return plan.total <= FREE * gib * GIB


if __name__ == "__main__":
    print(table())
