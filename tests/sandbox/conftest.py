"""A sandbox for every backend that works on this machine."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lit_uniopd.sandbox import Sandbox, SandboxArgs, backends

WORKING = [name for name in backends.SAFE if backends.probe(name) is None]


@pytest.fixture(params=backends.SAFE, scope="session")
def sandbox(request: pytest.FixtureRequest) -> Sandbox:
    if request.param not in WORKING:
        pytest.skip(f"{request.param} does not work on this machine")
    chosen = Sandbox(SandboxArgs(backend=request.param))
    assert chosen.backend == request.param, "proved now, and not first in a test that breaks what it is made of"
    return chosen


@pytest.fixture
def wait_until() -> Callable[..., bool]:
    """Whether a condition comes true within ten seconds."""

    def wait(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
        end = time.monotonic() + seconds
        while not condition() and time.monotonic() < end:
            time.sleep(0.02)
        return condition()

    return wait


@pytest.fixture
def running() -> Callable[..., bool]:
    """Whether a process has this name (at most 15 characters)."""

    def is_running(name: str, or_zombie: bool = False) -> bool:
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                text = stat.read_text()
            except OSError:
                continue
            if f"({name})" in text and (or_zombie or text.rpartition(")")[2].split()[0] != "Z"):
                return True
        return False

    return is_running
