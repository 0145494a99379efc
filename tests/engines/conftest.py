"""The real vLLM, in an environment of its own: ``make test-engines``."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import make_model
from transformers import AutoModelForCausalLM

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without vLLM nothing here can be run; with it, its warnings are its own."""
    here = [item for item in items if HERE in item.path.parents]
    for item in here:
        item.add_marker(pytest.mark.filterwarnings("default"))
        if find_spec("vllm") is None:
            item.add_marker(pytest.mark.skip(reason="vLLM is not installed here; `make test-engines` runs these"))


@pytest.fixture(scope="session")
def tiny_dirs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A student and two teachers with heads of 32 numbers: vLLM's kernels for CPUs know no narrower ones."""
    root = tmp_path_factory.mktemp("wide")
    return {name: str(make_model(root / name, seed=i, width=128)) for i, name in enumerate(("student", "math", "code"))}


@pytest.fixture
def untied(tiny_dirs: dict[str, str], tmp_path: Path) -> Any:
    """The student with a head of its own."""
    model: Any = AutoModelForCausalLM.from_pretrained(
        tiny_dirs["student"], dtype=torch.float32, tie_word_embeddings=False
    )
    torch.nn.init.normal_(model.lm_head.weight, std=0.3, generator=torch.Generator().manual_seed(5))
    return model.eval()


@pytest.fixture(autouse=True)
def restored_process() -> None:
    """In place of the one above, which destroys process groups: engines live as long as the process, and have one."""
    torch.set_num_threads(1)
