"""What the quickstart's student learns, over seeds.

    python benchmarks/quickstart.py --seeds 0 1 2
    python benchmarks/quickstart.py --also configs/playground/multimodal.yaml

Runs `uniopd fit -c configs/quickstart.yaml` (and `--also`) for each seed in a directory of its own, so that models are
built anew. Prints accuracy on held-out prompts and the wall time, playground included, as a Markdown table with mean
and spread.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent


def run(seed: int, also: list[str], directory: Path) -> dict:
    """One quickstart; its summary."""
    command = [sys.executable, "-m", "lit_uniopd", "fit", "-c", str(ROOT / "configs/quickstart.yaml")]
    for config in also:
        command += ["-c", str(Path(config).resolve())]
    log = directory / "log.txt"
    with log.open("w") as out:
        completed = subprocess.run([*command, f"--seed_everything={seed}"], cwd=directory, stdout=out, stderr=out)
    if completed.returncode:
        raise SystemExit(f"seed {seed} failed:\n{log.read_text()[-3000:]}")
    (summary,) = directory.glob("runs/*/version_0/summary.json")
    return json.loads(summary.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--also", nargs="*", default=[], help="configs behind the quickstart's")
    options = parser.parse_args()
    rows = []
    for seed in options.seeds:
        with tempfile.TemporaryDirectory() as directory:
            summary = run(seed, options.also, Path(directory))
        columns = [(model, domain) for model in ("before", "after", "teachers") for domain in summary["before"]]
        if not rows:
            print("| seed | " + " | ".join(map(" ".join, columns)) + " | seconds |")
            print("|---|" + "---:|" * (len(columns) + 1))
        rows.append([summary[model][domain] for model, domain in columns])
        rows[-1].append(summary["seconds"])
        print(f"| {seed} | " + " | ".join(f"{x:.3f}" for x in rows[-1][:-1]) + f" | {rows[-1][-1]:.0f} |", flush=True)
    if len(rows) > 1:
        for name, statistic in (("mean", statistics.mean), ("sd", statistics.stdev)):
            values = [statistic(column) for column in zip(*rows, strict=True)]
            print(f"| {name} | " + " | ".join(f"{x:.3f}" for x in values[:-1]) + f" | {values[-1]:.0f} |")


if __name__ == "__main__":
    main()
