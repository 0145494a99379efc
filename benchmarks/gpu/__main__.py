"""Run the parts, each in its time, and write the page."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch

from benchmarks.gpu import engine, page, sharded, speed, variants
from benchmarks.gpu.setting import FULL, TINY, Row, Setting

Part = Callable[[Setting], Iterator[Row]]
PARTS: dict[str, tuple[Part, int]] = {
    "0.6B": (partial(speed.measure, shape="0.6B"), 75),
    "packing": (variants.packed, 45),
    "fsdp": (sharded.measure, 75),
    "cascade": (variants.cascade, 60),
    "qlora": (variants.qlora, 45),
    "4B": (partial(speed.measure, shape="4B"), 100),
    "vllm": (engine.measure, 150),
    "options": (variants.options, 100),
}
"""Name -> what is measured, and the seconds that it may take; the last are left out first."""
TOTAL = 470
"""Seconds of all parts together, which leaves some for the start."""


def run_part(name: str, tiny: bool) -> Iterator[Row]:
    """Rows of one part, in this process; what it cannot do is a row too."""
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    setting = Setting(name, TINY if tiny else FULL, device)
    try:
        yield from PARTS[name][0](setting)
    except ImportError as error:
        yield Row(name, "left out", "-", f"it needs a package that is not here ({_first_line(error)})")
    except Exception as error:
        yield Row(name, "failed", "-", f"{type(error).__name__}: {_first_line(error)}")


def run_apart(name: str, seconds: float) -> Iterator[Row]:
    """Rows of one part, in a process of its own that is ended when its time is over."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--part", name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            output = process.communicate(timeout=seconds)[0]
            ending = "" if process.returncode == 0 else f"its process ended with {process.returncode}"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # and what it has started
            output, ending = process.communicate()[0], f"not done in {seconds:.0f} s"
    yield from (Row(**json.loads(line)) for line in output.splitlines() if line.startswith('{"part"'))
    if ending:
        yield Row(name, "stopped", "-", ending)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, and without ``--tiny`` write docs/gpu.md."""
    parser = argparse.ArgumentParser(prog="benchmarks.gpu", description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="tiny models, in this process; nothing is written")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), help="parts")
    parser.add_argument("--out", type=Path, default=page.PAGE, help="the page to write")
    parser.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.part:
        for row in run_part(options.part, options.tiny):
            print(row.line(), flush=True)
        return
    if not options.tiny and not torch.cuda.is_available():
        sys.exit("There is no GPU here; --tiny runs the same code on a CPU.")
    start, rows = time.monotonic(), []
    for name in PARTS:
        left = TOTAL - (time.monotonic() - start)
        if name not in options.only:
            continue
        elif options.tiny:
            parts = run_part(name, tiny=True)
        elif left < 20:
            parts = iter([Row(name, "left out", "-", "no time was left")])
        else:
            parts = run_apart(name, min(PARTS[name][1], left))
        for row in parts:
            rows.append(row)
            print(row.line(), flush=True)
    if not options.tiny:
        arguments = [] if options.only == list(PARTS) else ["--only", *options.only]
        device = torch.cuda.get_device_name()
        page.write(page.section(rows, device, time.monotonic() - start, arguments), options.out)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


if __name__ == "__main__":
    main()
