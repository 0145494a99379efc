"""Answers of ``uniopd predict`` as JSON lines."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from tiny import Prompts, module, prompts, trainer

from callbacks import PredictionWriter
from lit_uniopd.errors import UserError
from lit_uniopd.playground.untrained import write_tiny_vision
from lit_uniopd.sampling import SamplingArgs
from lit_uniopd.types import Prompt


def test_predictions_name_the_files_of_their_pictures(tmp_path, monkeypatch):
    """Predictions may be read in another directory than they were written in."""
    write_tiny_vision(tmp_path / "model", 0)
    Image.new("RGB", (40, 40), "red").save(tmp_path / "red.png")
    monkeypatch.chdir(tmp_path)
    messages = ({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what?"}]},)
    by_path = Prompt(id="by_path", messages=messages, images=("red.png",), gold="red", grader="exact", domain="math")
    embedded = replace(by_path, id="embedded", images=(Image.new("RGB", (40, 40), "blue"),))
    paths = {name: str(tmp_path / "model") for name in ("student", "math", "code")}
    model = module(paths, sampling=SamplingArgs(n=1, max_new_tokens=2))
    trainer(tmp_path, callbacks=[PredictionWriter("answers.jsonl")]).predict(model, Prompts([by_path, embedded]))
    first, second = (json.loads(line) for line in Path("answers.jsonl").read_text().splitlines())
    assert first["images"] == [str(tmp_path / "red.png")]
    assert "images" not in second


def test_predictions_are_one_json_line_per_answer(model_dirs, tmp_path):
    file = tmp_path / "answers.jsonl"
    trainer(tmp_path, callbacks=[PredictionWriter(str(file))]).predict(module(model_dirs), Prompts(prompts(4)))
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["id"] for line in lines] == ["p0", "p1"]
    assert lines[0]["outcome"] in (0, 1)
    assert lines[0]["answer"] == "0"
    assert lines[0]["prompt"] == [{"role": "user", "content": "0="}]
    assert lines[0]["finish"] in ("stop", "length")
    with pytest.raises(UserError, match=r"answers\.jsonl exists"):
        trainer(tmp_path, callbacks=[PredictionWriter(str(file))]).predict(module(model_dirs), Prompts(prompts(4)))
