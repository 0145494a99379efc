"""The laboratory's grid is valid, its results are taken up again, and its statistics are right."""

import dataclasses
import json
import math
from pathlib import Path

import pytest

from benchmarks.lab import paired_tests, report, run
from benchmarks.lab.grid import CONFIGS, GRIDS, Cell, Grid, fill_in
from lit_uniopd.cli import main

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(("file", "arm"), [(file, arm) for file in GRIDS for arm in Grid.read(CONFIGS / file).arms])
@pytest.mark.thinned(7)
def test_every_arm_is_understood(file, arm, capsys):
    grid = Grid.read(CONFIGS / file)
    setting = next(name for name, chosen in grid.settings.items() if arm in chosen["arms"])
    (cell, *_) = [cell for cell in grid.cells(setting) if cell.arm == arm]
    fill = {"{difficulty}": "counts.jsonl"}
    args = ["0.1" if arg.startswith("{match:") else fill.get(arg, arg) for arg in cell.args]
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "-c", cell.base, *args, "-c", "configs/lab/diagnostics.yaml", "--print_config"])
    assert stopped.value.code == 0, capsys.readouterr().err


@pytest.mark.parametrize("name", Grid.read(CONFIGS / "real_grid.yaml").made)
def test_every_command_that_makes_what_runs_share_is_understood(name, capsys):
    made = Grid.read(CONFIGS / "real_grid.yaml").made_for(3)[name]
    with pytest.raises(SystemExit) as stopped:
        main([*fill_in(made.args, {"here": "nowhere"}), "--seed_everything", "3", "--print_config"])
    assert stopped.value.code == 0, capsys.readouterr().err
    assert not any("{student}" in arg for arg in made.args)


def a_grid(recipe: str) -> Grid:
    made = {"model": [recipe, "{here}"], "counts": ["count", "{model}", "{here}"]}
    return Grid([1, 2], {"opd": ["--path", "{model}/policy"]}, {"s": {"args": [], "arms": ["opd"]}}, made=made)


def test_what_is_made_is_named_by_all_that_it_is_made_of():
    first, other = (cell.made for cell in a_grid("make").cells("s"))
    assert len({made.directory for made in first + other}) == 4  # of two seeds
    again, _ = a_grid("make").cells("s")
    (changed, _) = a_grid("make_better").cells("s")
    assert again.made == first
    assert not {made.directory for made in changed.made} & {made.directory for made in first}  # the counts, too
    assert again.args == ("--path", f"{first[0].directory}/policy")
    assert first[1].args == ("count", str(first[0].directory), "{here}")


def test_what_is_made_is_whole_or_made_again(tmp_path, monkeypatch):
    (preparation,) = run.groups_of(a_grid("make").cells("s")[:1], a_grid("make"))
    preparation = dataclasses.replace(preparation, models=())
    monkeypatch.chdir(tmp_path)
    (model, counts), commands = preparation.made, []

    def uniopd(args: list[str]) -> None:
        command, *_, here, _, seed = args
        commands.append(command)
        assert (seed, list(Path(here).iterdir())) == ("1", [Path(here) / "log.txt"])
        (Path(here) / "result").write_text(command)
        if len(commands) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("lit_uniopd.cli.main", uniopd)
    with pytest.raises(KeyboardInterrupt):
        run.prepare(preparation)
    assert model.directory.is_dir()
    assert not counts.directory.exists()
    for _ in range(2):
        run.prepare(preparation)
    assert commands == ["make", "count", "count"]
    assert (counts.directory / "result").read_text() == "count"


@pytest.mark.parametrize("file", GRIDS)
def test_arms_that_are_matched_come_last_and_have_their_partner(file):
    grid = Grid.read(CONFIGS / file)
    for setting in grid.settings:
        cells = grid.cells(setting)
        needy = [cell.needs is not None for cell in cells]
        assert needy == sorted(needy)
        assert {cell.needs for cell in cells if cell.needs} <= {cell.arm for cell in cells}
        assert len({cell.key for cell in cells}) == len(cells)


def test_a_result_of_another_config_is_not_taken(tmp_path, monkeypatch):
    first = Cell("multi_teacher", "opd", 1, ())
    assert first.key != Cell("multi_teacher", "opd", 2, ()).key
    assert first.key != Cell("multi_teacher", "opd", 1, ("--data.batch_size", "3")).key
    monkeypatch.setattr(run, "ROOT", tmp_path)
    line = json.dumps({"key": first.key, "moved": 0.3})
    (tmp_path / "results.jsonl").write_text(line + "\n" + line[:10])  # killed while it wrote the second
    assert list(run.read_results()) == [first.key]


def result(setting: str, arm: str, seed: int, final: float) -> dict:
    return {
        "setting": setting,
        "arm": arm,
        "seed": seed,
        "final": final,
        "curve": final / 2,
        "curves": {"val/accuracy": [final / 2, final]},
        "moved": 0.0,
        "matched": None,
    }


def test_differences_are_paired_by_seed():
    plain, shifted = [0.1, 0.5, 0.9], [0.2, 0.6, 1.0]
    results = {
        ("s", "opd"): {seed: result("s", "opd", seed, value) for seed, value in enumerate(plain)},
        ("s", "shift"): {seed: result("s", "shift", seed, value) for seed, value in enumerate(shifted)},
    }
    assert report.paired(results, "s", "shift", "opd", "final") == pytest.approx([0.1] * 3)
    row = report.table("s", ["opd", "shift"], results).splitlines()[3]
    assert "**+0.100** ± 0.000" in row  # though the seeds themselves differ by .8
    mean, half = paired_tests.interval([1.0, 2.0, 3.0])
    assert (mean, half) == (2.0, pytest.approx(4.303 / math.sqrt(3), rel=1e-3))
    assert math.isnan(paired_tests.interval([1.0])[1])


def test_arms_with_other_group_sizes_have_plain_arms_of_their_own():
    assert report.base_of("shift_n32") == "opd_n32"
    assert report.base_of("shift_2_long") == "opd_long"
    assert report.base_of("shift_2") == "opd"


def test_tables_replace_only_what_stands_between_their_comments():
    page = "a <!-- x --> old <!-- end x --> b"
    assert report.fill(page, "x", "new") == "a <!-- x -->\n\nnew\n\n<!-- end x --> b"
    assert report.fill(report.fill(page, "x", "new"), "x", "newer").count("new") == 1
