"""Weights of pairs as numbers, figure and table."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import Prompts, module, prompts, sgd, trainer

from callbacks import PreferenceDiagnostics
from datamodules import PairSourceArgs, PreferenceDataModule
from lit_uniopd.diagnostics.preferences import WeighedPairs, joined, weights_table
from lit_uniopd.errors import UserError
from lit_uniopd.modules import OmniDPO
from lit_uniopd.policy import PolicyArgs
from lit_uniopd.types import EncodedPair, PreferencePair, Prompt

ROWS = [
    {"prompt": f"{i}+1=", "chosen": str(i + 1), "rejected": "no", "score_chosen": float(i), "score_rejected": 0.0}
    for i in range(1, 7)
]


def some(gaps: list[float], margins: list[float], quality: list[float], performance: list[float]) -> WeighedPairs:
    prompt = Prompt("p", ({"role": "user", "content": "ask"},))
    pairs = tuple(EncodedPair(PreferencePair(prompt, f"good{i}", "bad"), (), (), ()) for i in range(len(gaps)))
    return WeighedPairs(pairs, *map(torch.tensor, (gaps, margins, quality, performance)))


def test_statistics_of_weights():
    pairs = some([1.0, 2.0, 3.0, 4.0], [0.1, 0.4, 0.9, 0.2], [1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0])
    assert pairs.effective_share == pytest.approx(0.25)
    assert pairs.rank_correlation == pytest.approx(1 - 6 * (0 + 1 + 1 + 4) / (4 * 15))  # by hand: ranks 1 3 4 2
    assert some([1.0], [1.0], [0.0], [1.0]).effective_share == 0
    assert math.isnan(some([1.0, 1.0], [0.1, 0.2], [1.0] * 2, [1.0] * 2).rank_correlation)
    assert math.isnan(some([math.nan] * 2, [0.1, 0.2], [1.0] * 2, [1.0] * 2).rank_correlation)


def test_batches_are_joined_in_order_and_the_table_has_both_ends():
    first = some([1.0, 2.0], [0.0, 0.0], [0.5, 1.0], [1.0, 1.0])
    both = joined([first, some([3.0], [0.0], [0.1], [1.0])])
    assert both.weights.tolist() == pytest.approx([0.5, 1.0, 0.1])
    lines = weights_table(both, count=1).splitlines()
    assert len(lines) == 4
    assert "1.000" in lines[2]
    assert "0.100" in lines[3]


def test_a_run_shows_its_pairs(model_dirs, tmp_path: Path):
    table = tmp_path / "pairs.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    source = PairSourceArgs(path=str(table))
    data = PreferenceDataModule(train=source, val=source, batch_size=3, val_batch_size=2)
    options: dict[str, Any] = {"logger": TensorBoardLogger(tmp_path, name="run"), "limit_val_batches": 1.0}
    run = trainer(tmp_path, callbacks=[PreferenceDiagnostics(table_rows=2)], max_epochs=2, **options)
    run.fit(OmniDPO(PolicyArgs(path=model_dirs["student"]), optimizer=sgd, seed=1), data)
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
    shown = PreferenceDiagnostics()
    options: dict[str, Any] = {"logger": logger, "limit_val_batches": 1.0, "log_every_n_steps": 1}
    run = trainer(tmp_path, callbacks=[shown], max_epochs=2, **options)
    run.fit(OmniDPO(PolicyArgs(path=model_dirs["student"]), optimizer=sgd, seed=1), data)
    assert [point["step"] for point in shown.curves["train"]] == [1, 2, 3, 4]
    assert [point["step"] for point in shown.curves["val"]] == [2, 4]
    events = EventAccumulator(logger.log_dir, size_guidance={"images": 0}).Reload()
    for split in ("train", "val"):
        for name in ("loss", "accuracy", "margin"):
            logged = [event.value for event in events.Scalars(f"{split}/{name}")]
            assert [point[name] for point in shown.curves[split]] == pytest.approx(logged)
    norms = [event.value for event in events.Scalars("train/grad_norm")]
    assert [point["grad_norm"] for point in shown.curves["train"]] == pytest.approx(norms)
    assert min(norms) > 0
    assert len(events.Images("pairs/curves")) == 1
    assert (Path(logger.log_dir) / "curves.png").exists()
    again = PreferenceDiagnostics()
    again.load_state_dict(shown.state_dict())
    assert again.curves == shown.curves
