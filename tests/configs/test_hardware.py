"""A command of the docs fits on the hardware that it names, by the memory plan at true sizes."""

import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks.hardware import COMMANDS, GPUS, MODELS, Command, fits, model_directory, setup_of, table
from lit_uniopd.memory import plan_memory
from lit_uniopd.memory.plan import GIB
from lit_uniopd.memory.suggestions import suggest_savings

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "configs").rglob("*.yaml"))]
BESIDE = ("uni_opd/presets/", "optimizer/")
"""Files behind a setting that choose no model."""


def commands_of(page: Path) -> list[list[str]]:
    """Words of every fit on GPUs that can be run as it stands; "..." stands for what a reader has before him."""
    text = page.read_text()
    if page.suffix == ".yaml":
        text = "\n".join(line.lstrip("# ") for line in text.splitlines() if line.startswith("#"))
    text = re.sub(r"\\\n\s*", " ", text)
    lines = [match[0] for match in re.finditer(r"uniopd fit [^\n`]*", text)]
    return [shlex.split(line) for line in lines if re.search(r"trainer/(gpu|fsdp)", line) and "..." not in line]


def known_model(path: str) -> str | None:
    """The model that a hub id names, if its sizes are known."""
    name = path.rpartition("/")[2].removesuffix("-Instruct")
    return name if name in MODELS else None


def stand_in(path: str) -> str:
    """A directory with the config of a hub id's model."""
    name = known_model(path)
    assert name is not None, f"benchmarks/hardware.yaml does not know the sizes of {path}"
    return model_directory(name)


DOCUMENTED = [
    pytest.param(words, id=f"{page.relative_to(ROOT)}-{number}")
    for page in PAGES
    for number, words in enumerate(commands_of(page))
]


@pytest.mark.parametrize("words", DOCUMENTED)
@pytest.mark.thinned(15)
def test_a_command_fits_on_80_gb(words):
    """On one GPU, or, where it says FSDP, on eight: docs/memory.md."""
    files = [
        words[i + 1].removeprefix("configs/").removesuffix(".yaml") for i, word in enumerate(words) if word == "-c"
    ]
    *files, trainer = files
    setting = [file for file in files if not file.startswith(BESIDE)]
    planned = next(
        command
        for command in COMMANDS.values()
        if [file for file in command.files if not file.startswith(BESIDE)] == setting
    )
    named = {
        flag.removeprefix("--").removesuffix(".path"): name
        for flag, path in pairwise(words)
        if re.fullmatch(r"--model\..*path", flag) and (name := known_model(path)) is not None
    }
    pairs = pairwise(words)
    flags = [word for pair in pairs if re.match(r"--(model|trainer\.strategy)\.(?!.*path$)", pair[0]) for word in pair]
    flags = [re.sub(r"(?<=path: )[\w./-]+", lambda path: stand_in(path[0]), word) for word in flags]
    models = {**planned.models, **named}
    setup = setup_of(Command(files, models, planned.flags), 1 if trainer == "trainer/gpu" else 8, GPUS["80 GB"], flags)
    assert fits(plan_memory(setup), GPUS["80 GB"])


def test_all_settings_are_documented():
    words = {word for page in PAGES for command in commands_of(page) for word in command}
    assert {"configs/uni_opd/strong_to_weak.yaml", "configs/omni_dpo/llama3_8b_instruct.yaml"} <= words
    assert len(DOCUMENTED) > 12


@pytest.mark.parametrize(
    ("name", "gpus", "gpu"),
    [
        ("llama3_8b_instruct", 1, "80 GB"),
        ("multi_teacher", 1, "80 GB"),
        ("multi_teacher", 8, "24 GB"),
        ("llava_1_5_13b", 1, "24 GB"),
        ("sft", 1, "24 GB"),
    ],
)
@pytest.mark.thinned(15)
def test_advice_that_is_followed_makes_it_fit(name, gpus, gpu):
    """The flags are given to the command, and not to the plan."""
    command, gib = COMMANDS[name], GPUS[gpu]
    setup = setup_of(command, gpus, gib)
    suggestions, remaining = suggest_savings(setup, int(gib * GIB), lambda plan: plan.total)
    flags = [word for suggestion in suggestions for word in shlex.split(suggestion.flags)]
    followed = plan_memory(setup_of(command, gpus, gib, flags))
    assert followed.total <= remaining <= gib * GIB < plan_memory(setup).total


@pytest.mark.parametrize("name", ["llama3_8b_instruct", "gemma2_9b", "sft"])
@pytest.mark.thinned(3)
def test_adapters_fit_on_one_gpu(name):
    flags = ["--model.policy.lora.rank", "64"]
    assert fits(plan_memory(setup_of(COMMANDS[name], 1, GPUS["80 GB"], flags)), GPUS["80 GB"])


@pytest.mark.slow
@pytest.mark.exhaustive
def test_the_table_of_the_docs_is_what_the_plan_says():
    assert table() in (ROOT / "docs" / "memory.md").read_text()
