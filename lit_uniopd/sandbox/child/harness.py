"""The child's side: take a job, confine yourself, load the program, answer calls.

The parent sends inputs, one call at a time, and gets values. Nothing in this process knows the right answer, so a
program that takes over the harness gains nothing: it can only return a value, as it may anyway. The harness does not
protect from being taken over: whether the entry point computed a value cannot be known.
"""

import builtins
import importlib
import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from lit_uniopd.sandbox.child.confinement import confine
from lit_uniopd.sandbox.child.encoding import NotPlainError, TooLargeError, decode, encode
from lit_uniopd.sandbox.child.pipe import NONCE_BYTES, Kind, answer, receive

MESSAGE_CHARACTERS = 300


def main(requests: int, answers: int) -> None:
    """Do the one job that arrives through the pipe."""
    first = receive(requests)
    if first is None:
        return
    job = decode(first[NONCE_BYTES:])
    confine(job)
    _prepare_interpreter(job["site"])
    answer(answers, first[:NONCE_BYTES], "ready", b"")
    if job["mode"] == "stdio":
        os.close(requests)
        os.close(answers)
        _run_as_main(job["program"])
    else:
        _serve(job, requests, answers)


def _prepare_interpreter(site_packages: list[str]) -> None:
    # The interpreter starts without `site`, which would run code that installed packages put there. Programs expect
    # the `exit` that it defines.
    site = importlib.import_module("site")
    site.setquit()
    site.sethelper()
    sys.path[:] = [*filter(None, sys.path), *site_packages]
    sys.argv[:] = ["program.py"]
    for name in [name for name in sys.modules if name.partition(".")[0] == "lit_uniopd"]:
        del sys.modules[name]


def _run_as_main(program: str) -> None:
    # Errors and exits are the interpreter's own business: traceback, flushing, exit code.
    module = _new_module("__main__")
    exec(compile(program, "program.py", "exec", dont_inherit=True), module.__dict__)


def _serve(job: dict[str, Any], requests: int, answers: int) -> None:
    # Bound here, before the program can replace them.
    receive_, answer_, decode_, encode_, reply_ = receive, answer, decode, encode, _reply
    entry: list[Any] = []

    def load(_: Any) -> Any:
        module = _new_module("program")
        exec(compile(job["program"], "program.py", "exec", dont_inherit=True), module.__dict__)
        if job["mode"] == "export":
            return {name: module.__dict__[name] for name in job["names"]}
        entry.append(_entry_point(module, job["entry_point"]))
        return None

    def call(arguments: Any) -> Any:
        return entry[0](*arguments)

    step: Callable[[Any], Any] = load
    while (request := receive_(requests)) is not None:
        nonce, body = request[:NONCE_BYTES], request[NONCE_BYTES:]
        answer_(answers, nonce, *reply_(step, decode_(body), encode_, job["max_bytes"], job["mode"] == "calls"))
        step = call
    os._exit(0)


def _reply(
    step: Callable[[Any], Any],
    argument: Any,
    encode_: Callable[[Any, int, bool], bytes],
    max_bytes: int,
    foreign: bool,
) -> tuple[Kind, bytes]:
    kind: Kind
    try:
        return "ok", encode_(step(argument), max_bytes, foreign)
    except NotPlainError as error:
        kind, message = "not_plain", str(error)
    except TooLargeError as error:
        kind, message = "output", str(error)
    except MemoryError:
        kind, message = "memory", "MemoryError"
    except SystemExit as error:
        kind, message = "exit", _describe(error)
    except BaseException as error:
        kind, message = "exception", _describe(error)
    return kind, encode_(message[:MESSAGE_CHARACTERS], max_bytes, False)


def _describe(error: BaseException) -> str:
    name = type(error).__name__
    try:
        return f"{name}: " + str(error)
    except BaseException:  # its __str__ is the program's code
        return f"{name}"


def _new_module(name: str) -> ModuleType:
    module = ModuleType(name)
    module.__dict__["__builtins__"] = builtins
    sys.modules[name] = module  # dataclasses and typing look modules up by name
    return module


def _entry_point(module: ModuleType, name: str) -> Any:
    if name in module.__dict__:
        return module.__dict__[name]
    if "Solution" in module.__dict__ and hasattr(module.__dict__["Solution"], name):
        return getattr(module.__dict__["Solution"](), name)
    raise NameError(f"the program defines no {name!r}")
