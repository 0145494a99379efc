"""What the tests of attacks share."""

import textwrap
import uuid
from pathlib import Path

from lit_uniopd.sandbox import Limits, Sandbox

REPOSITORY = Path(__file__).parents[2]
SMALL = Limits(memory_bytes=1 << 30, output_bytes=1 << 20)
ATTEMPT = """
managed = []
def attempt(name, action):
    try:
        if action() not in (None, False, [], b"", ""):
            managed.append(name)
    except BaseException as error:
        assert type(error) is not NameError, error
"""
"""Runs an action that must fail, and notes if it does not."""


def first(sandbox: Sandbox, program: str, *arguments, timeout: float = 20.0):
    return next(iter(sandbox.calls(textwrap.dedent(program), "f", [arguments], timeout=timeout)))


def attempts(sandbox: Sandbox, program: str, *arguments) -> list[str]:
    """What of the things it attempts a program reports to have managed."""
    result = first(sandbox, ATTEMPT + textwrap.dedent(program), *arguments)
    assert result.status == "ok", result
    return result.value


def small(sandbox: Sandbox) -> Sandbox:
    return Sandbox(sandbox.args, SMALL)


def marker() -> str:
    return "sb" + uuid.uuid4().hex[:12]  # a process name has 15 characters
