"""Captions of known pictures before and after training: the numbers of CHAIR, on every decoding, on TensorBoard."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard_events import curves_of
from tiny import Prompts, module, prompts, sgd, trainer

from callbacks import HallucinationDiagnostics, PreferenceDiagnostics
from datamodules import SentencePairDataModule, SentencePairSourceArgs
from lit_uniopd.errors import UserError
from lit_uniopd.hallucination import chair
from lit_uniopd.modules import Sentinel
from lit_uniopd.playground.scene_pairs import make_scene_pairs
from lit_uniopd.policy import PolicyArgs
from lit_uniopd.types import PairBatch
from lit_uniopd.utils.jsonl import read_lines
from lit_uniopd.view import PAIRS_FILE, write_page


@pytest.fixture(scope="module")
def scenes(scenes):
    root = scenes
    make_scene_pairs(root / "captioner", root / "scenes.jsonl", root / "pairs.jsonl", 0)
    spec = {
        "id": "few_scenes",
        "protocol": "test",
        "version": 1,
        "title": "few scenes",
        "domain": "hallucination",
        "modality": "image",
        "hub": {"id": str(root / "heldout_scenes.jsonl")},
        "columns": {"id": "id", "question": "prompt", "image": "images", "objects": "objects"},
        "adapter": "annotated",
        "adapter_args": {"gold": {"objects": "objects"}},
        "prompt": {"template": "{question}", "chat": {}},
        "generation": {"n": 1, "max_new_tokens": 30, "temperature": 0.0},
        "scoring": {"grader": "chair"},
        "report": {"metrics": [{"name": "chair"}]},
        "licence": "ours",
        "source": "a test",
    }
    (root / "few_scenes.yaml").write_text(yaml.safe_dump(spec))
    return root


def fit(scenes: Path, root: Path, *callbacks: Any, **options: Any) -> Any:
    policy = PolicyArgs(path=str(scenes / "captioner"))
    data = SentencePairDataModule(train=SentencePairSourceArgs(path=str(scenes / "pairs.jsonl")), batch_size=4)
    run = trainer(root, callbacks=list(callbacks), logger=TensorBoardLogger(root, name="run"), max_steps=3, **options)
    run.fit(Sentinel(policy, optimizer=sgd, seed=1), data)
    return run


def diagnostics(scenes: Path, **options: Any) -> HallucinationDiagnostics:
    settings: dict[str, Any] = {"profile": "paper", "max_new_tokens": 30, "batch_size": 3, **options}
    return HallucinationDiagnostics(str(scenes / "few_scenes.yaml"), **settings)


def test_scores_before_and_after(scenes, tmp_path, capsys):
    callback = diagnostics(scenes, every_n_steps=2)
    texts: list[list[str]] = []
    captions = callback._captions
    callback._captions = lambda *args: texts.append(captions(*args)) or texts[-1]  # type: ignore[method-assign]
    run = fit(scenes, tmp_path, callback)
    assert len(texts) == 2 * 3, "greedy and sampled, before, in step 2, and after"
    truth = [json.loads(line)["objects"] for line in (scenes / "heldout_scenes.jsonl").read_text().splitlines()]
    saved = json.loads((Path(run.log_dir) / "hallucination.json").read_text())
    for when, first in (("before", 0), ("after", 4)):
        for place, decoding in enumerate(("greedy", "temperature_1")):
            expected = chair(texts[first + place], truth)
            scores = saved[when][decoding]
            for name in ("chair_i", "chair_s", "chair_s_refined", "recall"):
                assert scores[name] == pytest.approx(getattr(expected, name)), (when, decoding, name)
    events = EventAccumulator(str(run.log_dir), size_guidance={"images": 0}).Reload()
    assert [event.step for event in events.Scalars("hallucination/greedy/recall")] == [0, 2, 3]
    assert len(events.Images("hallucination/before_after")) == 1
    assert (Path(run.log_dir) / "hallucination.png").exists()
    assert len(events.Images("hallucination/positions")) == 3
    printed = capsys.readouterr().out
    assert "Captions of 8 pictures" in printed
    assert "hallucinated mentions" in printed


def test_a_run_without_validation_pairs_shows_those_that_it_trains_on(scenes, tmp_path, monkeypatch):
    reports = []
    report = PreferenceDiagnostics._report

    def recorded_report(self: Any, trainer: Any) -> None:
        report(self, trainer)
        reports.append(list(read_lines(Path(trainer.log_dir) / PAIRS_FILE)))

    monkeypatch.setattr(PreferenceDiagnostics, "_report", recorded_report)
    rows = [json.loads(line) for line in (scenes / "pairs.jsonl").read_text().splitlines()]
    count = len(rows) // 2
    run = fit(scenes, tmp_path, diagnostics(scenes), PreferenceDiagnostics(kept_pairs=count), log_every_n_steps=1)
    before, after = reports
    assert 1 < len(after) <= count < len(rows)
    assert {line["step"] for line in before} == {0}
    assert {line["step"] for line in after} == {3}
    assert all(line["margin"] == line["chosen_reward"] == line["rejected_reward"] == 0 for line in before)
    by_text = {(row["context"], row["chosen"], row["rejected"], row["images"][0]): row for row in rows}
    for line in after:
        assert line["margin"] == pytest.approx(line["chosen_reward"] - line["rejected_reward"], abs=2e-4)
        assert line["prompt"] == "[picture]Describe the picture."
        row = by_text[line["context"], line["chosen"], line["rejected"], line["images"][0]]
        assert row["boxes"]
        for name in ("verdicts", "votes", "boxes", "detectors"):
            assert line[name] == row[name]
    assert any(line["margin"] != 0 for line in after)

    policy = run.lightning_module
    line = after[0]
    pair = next(
        p
        for p in run.datamodule.train_pairs
        if (p.pair.chosen, p.pair.rejected, p.pair.prompt.images[0], p.pair.prompt.row["context"])
        == (line["chosen"], line["rejected"], line["images"][0], line["context"])
    )
    with torch.no_grad(), policy.policy.answering():
        assert float(policy.compare(PairBatch([pair]))[0].margins) == pytest.approx(line["margin"], abs=2e-4)

    events = EventAccumulator(str(run.log_dir), size_guidance={"images": 0, "tensors": 0}).Reload()
    assert [event.step for event in events.Images("pairs/pictures")] == [0, 3]
    charts = curves_of(run.log_dir)["Sentinel"]
    assert charts["Hallucinated mentions (CHAIR_i)"] == [
        "hallucination/greedy/chair_i",
        "hallucination/temperature_1/chair_i",
    ]
    assert charts["Loss"] == ["train/loss"]
    out = tmp_path / "view.html"
    assert write_page(Path(run.log_dir), out)["pairs"] == len(after)
    assert "data:image/png" in out.read_text()


def test_a_resumed_run_keeps_what_was_before(scenes, tmp_path):
    first = diagnostics(scenes, temperatures=[0.0])
    fit(scenes, tmp_path, first)
    again = diagnostics(scenes, temperatures=[0.0])
    again.load_state_dict(first.state_dict())
    assert again.scores["before"] == first.scores["before"]


def test_mistakes(scenes, tmp_path, model_dirs):
    with pytest.raises(UserError, match="has no objects of pictures"):
        HallucinationDiagnostics("pope")
    with pytest.raises(UserError, match="every_n_steps and batch_size above 0"):
        HallucinationDiagnostics("chair", every_n_steps=0)
    run = trainer(tmp_path, callbacks=[diagnostics(scenes)])
    with pytest.raises(UserError, match=r"has pictures, which .* cannot read"):
        run.fit(module(model_dirs), Prompts(prompts(4)))
