"""The real vLLM, in an environment of its own: ``make test-engines``."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import torch
from tiny import make_model
from transformers import AutoModelForCausalLM, AutoTokenizer

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
def untied(tiny_dirs: dict[str, str]) -> Any:
    """The student with a head of its own."""
    return untie(tiny_dirs)


def untie(tiny_dirs: dict[str, str]) -> Any:
    model: Any = AutoModelForCausalLM.from_pretrained(
        tiny_dirs["student"], dtype=torch.float32, tie_word_embeddings=False
    )
    torch.nn.init.normal_(model.lm_head.weight, std=0.3, generator=torch.Generator().manual_seed(5))
    return model.eval()


class RealServer:
    """``vllm serve`` of a model, as a user would start it for a student.

    Args:
        directory: of the model.
        log: a file for what it says.
        options: more of its options.
    """

    def __init__(self, directory: str, log: Path, *options: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url, self.log = f"http://127.0.0.1:{self.port}", log
        # The command `vllm` asks for a distribution of that name, and the one for CPUs has another.
        command = ["-m", "vllm.entrypoints.openai.api_server", "--model", directory, "--served-model-name", "student"]
        command += ["--host", "127.0.0.1", "--port", str(self.port), "--dtype", "float32", "--max-model-len", "128"]
        command += ["--enforce-eager", "--kv-cache-memory-bytes", "50000000", *options]
        self.command = [sys.executable, *command]
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        environment = {
            **os.environ,
            "VLLM_TARGET_DEVICE": "cpu",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_SERVER_DEV_MODE": "1",
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
            "OMP_NUM_THREADS": "1",
        }
        with self.log.open("a") as file:
            self.process = subprocess.Popen(
                self.command, stdout=file, stderr=file, env=environment, start_new_session=True
            )
        for _ in range(300):
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            try:
                with urlopen(f"{self.url}/health", timeout=5):
                    return
            except OSError:
                time.sleep(1)
        raise AssertionError(self.log.read_text()[-3000:])

    def kill(self) -> None:
        """End it and its engine, as a crash would."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="session")
def untied_dir(tiny_dirs: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = str(tmp_path_factory.mktemp("untied") / "student")
    untie(tiny_dirs).save_pretrained(directory)
    AutoTokenizer.from_pretrained(tiny_dirs["student"]).save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def real_server(untied_dir: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    """A server of the untied student that takes weights and adapters."""
    options = ("--logprobs-mode", "processed_logprobs", "--enable-lora", "--max-lora-rank", "8")
    server = RealServer(untied_dir, tmp_path_factory.mktemp("server") / "log", *options)
    yield server
    server.kill()


@pytest.fixture(scope="session")
def teacher_server(untied_dir: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    """A server of a teacher, whose log-probs are those before temperature and cuts."""
    server = RealServer(untied_dir, tmp_path_factory.mktemp("teacher") / "log")
    yield server
    server.kill()


@pytest.fixture(autouse=True)
def restored_process() -> None:
    """In place of the one above, which destroys process groups: engines live as long as the process, and have one."""
    torch.set_num_threads(1)
