"""Commands that need no model start without the libraries that take seconds to import."""

import json
import subprocess
import sys

import pytest

from lit_uniopd.cli.commands import COMMANDS

HEAVY = ("lightning", "matplotlib", "torch", "transformers")
PROGRAM = f"""
import contextlib, importlib, io, json, sys
main = importlib.import_module(sys.argv[1]).main
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as output:
    main(sys.argv[2:])
print(json.dumps([output.getvalue(), [name for name in {HEAVY} if name in sys.modules]]))
"""


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["benchmarks"], "chartqa@lmms"),
        *(([name, "--help"], f"usage: uniopd {name}") for name in COMMANDS),
    ],
    ids=" ".join,
)
def test_no_heavy_library_is_imported(arguments, text):
    program = [sys.executable, "-c", PROGRAM, COMMANDS[arguments[0]].module, *arguments[1:]]
    finished = subprocess.run(program, capture_output=True, text=True, check=True)
    output, heavy_modules = json.loads(finished.stdout)
    assert text in output
    assert heavy_modules == []
