"""Measure the bars, each group in a process of its own, and write the table."""

import argparse
import importlib
import json
import os
import subprocess
import sys
import warnings
from dataclasses import asdict
from pathlib import Path

from benchmarks.bars import GROUPS, __doc__
from benchmarks.bars.harness import Bar
from benchmarks.bars.table import write_table

MEASURED = Path("runs/bars")


def measure(group: str) -> None:
    """In this process; the results are saved bar by bar."""
    import torch
    from transformers.utils import logging

    torch.set_num_threads(1)
    logging.set_verbosity_error()
    warnings.filterwarnings("ignore")
    bars: list[dict] = []
    load = os.getloadavg()[0]
    for bar in importlib.import_module(f"benchmarks.bars.{group}").bars():
        bars.append(asdict(bar))
        verdict = "pass" if bar.passed else "MISS"
        print(
            f"{bar.number:>3} {bar.what}, {bar.measure}: {bar.value:.3g} (at most {bar.limit:g}) {verdict}", flush=True
        )
        record = {"bars": bars, "load": max(load, os.getloadavg()[0])}
        (MEASURED / f"{group}.json").write_text(json.dumps(record, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="*", metavar="group", help=f"of {', '.join(GROUPS)}; default: all")
    parser.add_argument("--table", action="store_true", help="only write the table of the last measurements")
    parser.add_argument("--measure", choices=GROUPS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    unknown = set(options.groups) - set(GROUPS)
    if unknown:
        parser.error(f"there is no group {', '.join(sorted(unknown))}; choose from {', '.join(GROUPS)}")
    MEASURED.mkdir(parents=True, exist_ok=True)
    if options.measure:
        return measure(options.measure)
    failed = []
    for group in () if options.table else options.groups or GROUPS:
        print(f"{group}: {GROUPS[group]}", flush=True)
        command = [sys.executable, "-m", "benchmarks.bars", "--measure", group]
        if subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}).returncode:
            failed.append(group)
    records = {g: json.loads(p.read_text()) for g in GROUPS if (p := MEASURED / f"{g}.json").exists()}
    bars = [Bar(**bar) for record in records.values() for bar in record["bars"]]
    load = max((record["load"] for record in records.values()), default=0.0)
    write_table(bars, load, MEASURED / "split.json")
    if failed:
        raise SystemExit(f"not measured to the end: {', '.join(failed)}")
    return None


if __name__ == "__main__":
    main()
