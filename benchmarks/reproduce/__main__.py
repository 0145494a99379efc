"""Rows of a published run, and how a run of ours compares with it.

    python -m benchmarks.reproduce rows trl_dpo                                  # from the hub, before the run
    python -m benchmarks.reproduce check trl_dpo runs/reproduce_trl_dpo/version_0

`check` ends with 1 if a number is further away than expected.yaml allows, or is missing.
"""

import argparse
import sys
from pathlib import Path

from benchmarks.reproduce.compare import Expected, compare, table
from benchmarks.reproduce.rows import WRITERS


def main() -> None:
    """Write rows, or compare."""
    expected = Expected.read()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    rows = commands.add_parser("rows", help="write what the run reads, from the hub")
    rows.add_argument("name", choices=sorted(WRITERS))
    rows.add_argument("--out", type=Path, default=Path("runs/reproduce"), help="folder of the rows' folder")
    check = commands.add_parser("check", help="expected against measured")
    check.add_argument("name", choices=sorted(expected))
    check.add_argument("run", type=Path, help="directory of the run")
    options = parser.parse_args()
    if options.command == "rows":
        for path in WRITERS[options.name](options.out / options.name):
            print(path)
        return
    results = compare(expected[options.name], options.run)
    print(f"{options.run} against {expected[options.name].source}\n\n{table(results)}")
    sys.exit(0 if all(result.holds for result in results) else 1)


if __name__ == "__main__":
    main()
