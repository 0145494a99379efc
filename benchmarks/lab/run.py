"""Run every cell of the grid that has no result yet, a few at a time.

    python -m benchmarks.lab.run                       # all settings, or: --settings unreliable --workers 2
    python -m benchmarks.lab.run --questions           # the primary questions, on seeds of their own (questions.py)

Each run's result is a line in runs/lab/results.jsonl as soon as the run is done; a killed laboratory goes on from
there.
"""

import argparse
import contextlib
import json
import multiprocessing
import re
import shutil
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.lab.grid import CONFIGS, FAMILIES, GRIDS, MATCH, Cell, Grid, Made, fill_in

ROOT = Path("runs/lab")
CURVES = (
    "val/accuracy",
    "order/consistent_before",
    "order/inversions_before",
    "order/margin_before",
    "order/margin_after",
    "order/mixed",
    "order/return_correct_before",
    "order/return_incorrect_before",
    "calibration/shift",
    "calibration/violated",
    "rollout/distinct",
    "rollout/length",
    "train/entropy",
)
"""Tags of the curves that a result keeps."""


def main() -> None:
    """Run the cells that have no result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", nargs="*", help="only these settings of the grid")
    parser.add_argument("--workers", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--seeds", nargs="*", type=int, help="instead of the grid's")
    parser.add_argument("--grid", default="grid.yaml", choices=GRIDS, help="file of configs/lab")
    parser.add_argument(
        "--questions", nargs="?", const="questions", choices=FAMILIES, help="the runs of these questions instead"
    )
    options = parser.parse_args()
    grid = Grid.read(CONFIGS / options.grid)
    if options.seeds:
        grid = replace(grid, seeds=options.seeds)
    cells = [cell for setting in options.settings or grid.settings for cell in grid.cells(setting)]
    if options.questions:
        from benchmarks.lab.questions import Family

        family = Family.read(options.questions)
        if not isinstance(family.grid, Grid):
            parser.error(f"--questions {options.questions} are of `python -m benchmarks.lab.pairs --questions`")
        grid, cells = family.grid, family.cells()
    results = read_results()
    waiting = [cell for cell in cells if cell.key not in results]
    print(f"{len(cells)} runs, {len(cells) - len(waiting)} of them done", flush=True)
    start, done = time.monotonic(), 0
    with ProcessPoolExecutor(options.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for seed in pool.map(prepare, groups_of(waiting, grid)):
            print(f"seed {seed}: models, prompts and pass counts are there", flush=True)
        running: dict[Future, Cell] = {}
        while waiting or running:
            while waiting and len(running) < options.workers:
                cell = next((c for c in waiting if c.needs is None or _matched(c, cells, results) is not None), None)
                if cell is None:
                    break
                waiting.remove(cell)
                counts = _difficulty(cell.seed, grid.student(cell.setting)[0])
                running[pool.submit(run_cell, cell, counts, _matched(cell, cells, results))] = cell
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                cell = running.pop(future)
                result = future.result()
                results[cell.key] = result
                with (ROOT / "results.jsonl").open("a") as out:
                    out.write(json.dumps(result) + "\n")
                done += 1
                minutes = (time.monotonic() - start) / 60
                print(
                    f"{done} done, {len(waiting)} left, {minutes:.1f} min: {cell.setting} {cell.arm} {cell.seed} "
                    f"-> {result['final']:.3f}",
                    flush=True,
                )


def read_results(root: Path | None = None) -> dict[str, dict[str, Any]]:
    """Key of the run -> its result; a line that a killed run left half written is dropped."""
    path, results = (root or ROOT) / "results.jsonl", {}
    for line in path.read_text().splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError):
            result = json.loads(line)
            results[result["key"]] = result
    return results


def _matched(cell: Cell, cells: Sequence[Cell], results: dict[str, dict[str, Any]]) -> float | None:
    """How far the arm that the cell is matched to moved margins, once it is done."""
    for match in cells:
        if (match.setting, match.arm, match.seed) == (cell.setting, cell.needs, cell.seed) and match.key in results:
            return results[match.key]["moved"]
    return None


@dataclass(frozen=True, slots=True)
class Preparation:
    """What the cells of a seed and a student need before they run."""

    seed: int
    student: str
    models: tuple[str, ...]
    """Of the playground."""
    counted: tuple[str, ...]
    """Splits on which the student's pass counts are measured, if a cell takes them."""
    made: tuple[Made, ...]


def groups_of(cells: Sequence[Cell], grid: Grid) -> list[Preparation]:
    """One preparation for each seed and student."""
    groups: dict[tuple[int, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.seed, grid.student(cell.setting)[0]), []).append(cell)
    preparations = []
    for (seed, student), members in sorted(groups.items()):
        models = sorted(set[str]().union(*(cell.models for cell in members)))
        counted = {s for c in members if "{difficulty}" in c.args for s in grid.student(c.setting)[1]}
        preparations.append(Preparation(seed, student, tuple(models), tuple(sorted(counted)), members[0].made))
    return preparations


def prepare(group: Preparation) -> int:
    """Build models and measure the student's pass counts, before runs need them; the seed."""
    seed, student = group.seed, group.student
    from lit_uniopd.cli import main as uniopd
    from lit_uniopd.playground.locate import locate

    for made in group.made:
        if not made.directory.exists():
            unfinished = made.directory.with_suffix(".unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)  # of a killed laboratory
            with quiet(unfinished / "log.txt"):
                uniopd([*fill_in(made.args, {"here": unfinished}), "--seed_everything", str(seed)])
            unfinished.rename(made.directory)
    with quiet(ROOT / f"prepare-{student}-seed{seed}.log"):
        for name in group.models:
            locate(name, seed=seed)
        for split in group.counted:
            uniopd(
                [
                    *("predict", "-c", "configs/uni_opd/difficulty.yaml", "-c", "configs/trainer/cpu.yaml"),
                    *("--seed_everything", str(seed), "--trainer.callbacks.path", str(_difficulty(seed, student))),
                    *("--trainer.enable_progress_bar", "false", "--model.policy.path", f"playground:{student}"),
                    *("--model.policy.chat_template_kwargs", "{}", "--model.val_sampling.max_new_tokens", "40"),
                    *("--data.predict.path", f"playground:{split}", "--data.batch_size", "64"),
                ]
            )
    return seed


def _difficulty(seed: int, student: str) -> Path:
    return ROOT / f"difficulty-{student}-seed{seed}.jsonl"


def run_cell(cell: Cell, counts: Path, matched: float | None) -> dict[str, Any]:
    """Train, and read the result from TensorBoard's file.

    Args:
        cell: what to run.
        counts: file of the student's pass counts.
        matched: the weight that replaces ``{match:...}``.
    """
    from lit_uniopd.cli import main as uniopd

    directory = ROOT / cell.setting / cell.arm / f"seed{cell.seed}"
    shutil.rmtree(directory, ignore_errors=True)  # of a killed run
    directory.mkdir(parents=True)
    fill = {"difficulty": counts, "seed": cell.seed}
    args = [str(matched) if MATCH.match(arg) else arg for arg in fill_in(cell.args, fill)]
    start = time.monotonic()
    with quiet(directory / "log.txt"):
        uniopd(
            [
                *("fit", "-c", cell.base, *args, "-c", "configs/lab/diagnostics.yaml"),
                *("--seed_everything", str(cell.seed), "--trainer.logger.init_args.save_dir", str(directory)),
            ]
        )
    (run,) = directory.rglob("run")  # some settings name their logger
    curves = _curves(run)
    accuracy = curves["val/accuracy"]
    return {
        "key": cell.key,
        "setting": cell.setting,
        "arm": cell.arm,
        "seed": cell.seed,
        "matched": matched,
        "final": accuracy[-1],
        "curve": statistics.fmean(accuracy),
        "domains": {tag.split("/")[1]: v[-1] for tag, v in curves.items() if re.fullmatch(r"val/\w+/accuracy", tag)},
        "curves": {name: [round(value, 4) for value in values] for name, values in curves.items() if name in CURVES},
        "moved": _moved(curves),
        "seconds": round(time.monotonic() - start, 1),
    }


def _moved(curves: dict[str, list[float]]) -> float:
    """Mean distance that calibration moved the margins of mixed groups; 0 without calibration."""
    before, after = curves.get("calibration/margin_before"), curves.get("calibration/margin_after")
    return 0.0 if not before or not after else statistics.fmean(after) - statistics.fmean(before)


def _curves(directory: Path) -> dict[str, list[float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(directory), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


@contextlib.contextmanager
def quiet(log: Path):
    """Write to a log what a run prints."""
    import torch

    torch.set_num_threads(1)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as out, contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        yield


if __name__ == "__main__":
    main()
