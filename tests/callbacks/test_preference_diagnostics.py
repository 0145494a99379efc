"""What a run shows of its pairs: numbers, figures and a table."""

import json
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from logged_runs import read_tensorboard
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import Prompts, module, prompts, sgd, trainer

from callbacks import PreferenceDiagnostics
from datamodules import PairSourceArgs, PreferenceDataModule
from lit_uniopd.diagnostics import advice
from lit_uniopd.errors import UserError
from lit_uniopd.modules import OmniDPO
from lit_uniopd.policy import PolicyArgs

ROWS = [
    {"prompt": f"{i}+1=", "chosen": str(i + 1), "rejected": "no", "score_chosen": float(i), "score_rejected": 0.0}
    for i in range(1, 7)
]


def test_a_run_shows_its_pairs(model_dirs, tmp_path: Path, monkeypatch):
    table = tmp_path / "pairs.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    source = PairSourceArgs(path=str(table))
    data = PreferenceDataModule(train=source, val=source, batch_size=3, val_batch_size=2)
    options: dict[str, Any] = {"logger": TensorBoardLogger(tmp_path, name="run"), "limit_val_batches": 1.0}
    diagnostics = PreferenceDiagnostics(table_rows=2)
    run = trainer(tmp_path, callbacks=[diagnostics], max_epochs=2, **options)
    run.fit(OmniDPO(PolicyArgs(path=model_dirs["student"]), optimizer=sgd, seed=1), data)
    # Gaps of 1 to 6 at eta .7: sigmoids of .668 to .985, whose squared sum is .984 of six times the sum of squares.
    assert diagnostics.advice(run) == []  # of six pairs
    monkeypatch.setattr(advice, "ENOUGH", 6)
    (line,) = diagnostics.advice(run)
    assert "almost the same (effective share 98%)" in line
    diagnostics._last = None
    assert diagnostics.advice(run) == []
    directory = tmp_path / "run/version_0"
    events = EventAccumulator(str(directory), size_guidance={"tensors": 0, "images": 0})
    events.Reload()
    scalars = {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert len(scalars["pairs/effective_share"]) == 2
    assert -1 <= scalars["pairs/rank_correlation"][0] <= 1
    assert len(events.Images("pairs/weights")) == 2
    text = events.Tensors("pairs/weights/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert len(text.splitlines()) == 2 + 4
    assert (directory / "pairs.png").stat().st_size > 5000


def test_pairs_stand_at_the_steps_of_validation_whichever_logger_is_first(model_dirs, tmp_path: Path):
    table = tmp_path / "pairs.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    source = PairSourceArgs(path=str(table))
    data = PreferenceDataModule(train=source, val=source, batch_size=3, val_batch_size=6)
    board = TensorBoardLogger(tmp_path, name="run")
    loggers = [CSVLogger(tmp_path, name="run"), board]
    run = trainer(tmp_path, callbacks=[PreferenceDiagnostics()], max_epochs=2, logger=loggers, limit_val_batches=1.0)
    run.fit(OmniDPO(PolicyArgs(path=model_dirs["student"]), optimizer=sgd, seed=1), data)
    logged = read_tensorboard(board.log_dir)
    steps = {1, 3}  # after two of four batches, and after the last
    assert set(logged.scalars["val/accuracy"]) == set(logged.scalars["pairs/effective_share"]) == steps
    assert logged.images["pairs/weights"] == set(logged.texts["pairs/weights"]) == steps
    assert logged.images["pairs/curves"] == {4}


def test_it_is_refused_where_there_are_no_pairs(model_dirs, tmp_path):
    run = trainer(tmp_path, callbacks=[PreferenceDiagnostics()], limit_val_batches=1.0)
    with pytest.raises(UserError, match="looks at preference pairs"):
        run.fit(module(model_dirs), Prompts(prompts(4)))


def test_a_run_ends_with_its_curves(model_dirs, tmp_path: Path):
    table = tmp_path / "pairs.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    source = PairSourceArgs(path=str(table))
    data = PreferenceDataModule(train=source, val=source, batch_size=3, val_batch_size=6)
    logger = TensorBoardLogger(tmp_path, name="run")
    diagnostics = PreferenceDiagnostics()
    options: dict[str, Any] = {"logger": logger, "limit_val_batches": 1.0, "log_every_n_steps": 1}
    run = trainer(tmp_path, callbacks=[diagnostics], max_epochs=2, **options)
    run.fit(OmniDPO(PolicyArgs(path=model_dirs["student"]), optimizer=sgd, seed=1), data)
    assert [point["step"] for point in diagnostics.curves["train"]] == [1, 2, 3, 4]
    assert [point["step"] for point in diagnostics.curves["val"]] == [2, 4]
    events = EventAccumulator(logger.log_dir, size_guidance={"images": 0}).Reload()
    for split in ("train", "val"):
        for name in ("loss", "accuracy", "margin"):
            logged = [event.value for event in events.Scalars(f"{split}/{name}")]
            assert [point[name] for point in diagnostics.curves[split]] == pytest.approx(logged)
    norms = [event.value for event in events.Scalars("train/grad_norm")]
    assert [point["grad_norm"] for point in diagnostics.curves["train"]] == pytest.approx(norms)
    assert min(norms) > 0
    assert len(events.Images("pairs/curves")) == 1
    assert (Path(logger.log_dir) / "curves.png").exists()
    again = PreferenceDiagnostics()
    again.load_state_dict(diagnostics.state_dict())
    assert again.curves == diagnostics.curves
