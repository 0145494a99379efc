"""System messages of lmms-eval's tasks, for our benchmarks that go by its names; without importing it.

The messages are its authors'. Scores move with them, so a benchmark that goes by an lmms-eval protocol is asked with no
other: that of the installed package, or one that the user gives, and both have to be the one of the version whose rules
we follow. The bundled rows, whose scores nobody compares, are asked in our words.
"""

import ast
import hashlib
import importlib.util
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from lit_uniopd.benchmarks.harness.args import HarnessArgs
from lit_uniopd.benchmarks.harness.lmms_task import TRIED
from lit_uniopd.benchmarks.spec import BenchmarkSpec, Wording
from lit_uniopd.errors import UserError


def given_words(spec: BenchmarkSpec, args: HarnessArgs) -> BenchmarkSpec:
    """A spec with the user's system message, if it is one that asks in lmms-eval's words."""
    if spec.prompt.wording is None:
        return spec
    wording = replace(spec.prompt.wording, given=args.system_instruction)
    return replace(spec, prompt=replace(spec.prompt, wording=wording))


def official_words(wording: Wording, benchmark: str) -> str:
    """The system message, of the installed lmms-eval or else the user's.

    Args:
        wording: where it stands.
        benchmark: for messages.

    Raises:
        UserError: if there is none, or another one than that of the version whose rules we follow.
    """
    package = importlib.util.find_spec("lmms_eval")
    origin = None if package is None else package.origin
    if origin is None and wording.given is None:
        raise UserError(
            f"Benchmark {benchmark} is asked with lmms-eval's system message, and lmms-eval is not installed; install "
            f"it by `pip install --no-deps lmms-eval=={TRIED}`, or give the message by `harness.system_instruction`."
        )
    if origin is not None:
        text = _constant(Path(origin).parent / "tasks" / wording.file, wording.name)
        source = f"that of the installed lmms-eval {version('lmms_eval')}"
    else:
        text, source = wording.given, "`harness.system_instruction`"
    if text is None or hashlib.sha256(text.encode()).hexdigest() != wording.sha256:
        raise UserError(
            f"Benchmark {benchmark} is asked with the system message of lmms-eval {TRIED}, and {source} is another; "
            f"install it by `pip install --no-deps lmms-eval=={TRIED}`, or give a `protocol` of its own to a YAML file "
            f"that inherits {benchmark.partition('@')[0]} and has your `prompt: {{system: ...}}`."
        )
    return text


def _constant(path: Path, name: str) -> str | None:
    """The text that a file of Python assigns to a name; the file is not run."""
    if not path.is_file():
        return None
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and [ast.unparse(target) for target in statement.targets] == [name]:
            return str(ast.literal_eval(statement.value))
    return None
