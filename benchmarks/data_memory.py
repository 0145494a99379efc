"""Memory and time that reading prompts takes, at several numbers of rows, each in a process of its own.

python -m benchmarks.data_memory --rows 10000 1000000 --kinds jsonl parquet
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CONVERT = "import sys, pyarrow.json as j, pyarrow.parquet as p; p.write_table(j.read_json(sys.argv[1]), sys.argv[2])"
HEAD = "| rows | file | peak memory, MiB | of it Python's own, MiB | imported, MiB | CPU seconds |"
ROW = (
    "What is {0} plus {1}? Think step by step, and put the answer into a box. " + "Some more words of a problem. " * 10
)


def write(path: Path, rows: int) -> None:
    """Made rows of about 600 bytes."""
    with path.open("w") as file:
        for i in range(rows):
            row = {"id": f"row-{i}", "prompt": ROW.format(i, i + 1), "answer": str(2 * i + 1), "domain": "math"}
            file.write(json.dumps({**row, "extra_info": {"index": i, "split": "train"}}) + "\n")


def measure(path: str) -> dict[str, float]:
    """Read a table as a run does and take a hundred batches."""
    from datamodules import PromptDataModule, SourceArgs

    imported = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    data = PromptDataModule(SourceArgs(path, grader="math"), batch_size=8, seed=0)
    data.prepare_data()
    data.setup("fit")
    seconds = time.process_time() - began
    batches = iter(data.train_dataloader())
    for _ in range(100):
        next(batches)
    status = Path("/proc/self/status").read_text()
    anonymous = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"imported": imported / 1024, "peak": peak / 1024, "own": anonymous / 1024, "seconds": seconds}


def main() -> None:
    """Print a row of a table for each number and kind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--kinds", nargs="+", default=["jsonl", "parquet"], choices=["jsonl", "parquet"])
    parser.add_argument("--measure", help="of this file, in this process")
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure)))
        return
    print(HEAD + "\n" + "|---:" * 6 + "|")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HF_DATASETS_CACHE"] = f"{folder}/cache"
        for rows in options.rows:
            lines = Path(folder) / f"{rows}.jsonl"
            write(lines, rows)
            if "parquet" in options.kinds:
                subprocess.run([sys.executable, "-c", CONVERT, lines, lines.with_suffix(".parquet")], check=True)
            for kind in options.kinds:
                path = str(lines.with_suffix(f".{kind}"))
                command = [sys.executable, "-m", "benchmarks.data_memory", "--measure", path]
                # Twice: the first reading converts the file for the cache of `datasets`.
                if kind == "parquet":
                    subprocess.run(command, capture_output=True, check=True)
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                result = json.loads(done.stdout.splitlines()[-1])
                numbers = [f"{result[name]:.0f}" for name in ("peak", "own", "imported", "seconds")]
                print(f"| {rows:,} | {kind} | {' | '.join(numbers)} |", flush=True)


if __name__ == "__main__":
    main()
