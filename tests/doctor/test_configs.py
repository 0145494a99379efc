"""What the doctor says of every config: in one screen, without a traceback, and without waiting for the hub."""

import importlib
import json
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from PIL import Image

from docs import hooks
from lit_uniopd.cli import main
from lit_uniopd.doctor import hub_reachability
from lit_uniopd.playground.untrained import write_tiny_text, write_tiny_vision

ROOT = Path(__file__).parent.parent.parent
HEADS = [hooks.read_head(path.relative_to(ROOT)) for path in sorted(ROOT.glob("configs/**/*.yaml"))]
COMMANDS = {re.sub(r"\\\n\s*", "", line): head.path for head in HEADS for line in head.commands}
RUNS = {line: path for line, path in COMMANDS.items() if re.match(r"uniopd (fit|predict|validate) ", line)}
WRITTEN = sorted(
    {
        name
        for path in ROOT.glob("configs/reproduce/*.yaml")
        for name in re.findall(r"runs/\S+\.jsonl", path.read_text())
    }
)
"""Files of the reproductions, which `python -m benchmarks.reproduce rows` writes from the hub."""
DIFFICULTY = "runs/difficulty.jsonl"
"""Which nobody has measured yet."""
PICTURED = re.compile(r"multimodal|cross_modal|sentinel")


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with the files and models that the commands name, tiny, and a playground that nobody has trained."""
    root = tmp_path_factory.mktemp("desk")
    (root / "configs").symlink_to(ROOT / "configs")
    for kind, write in (("text", write_tiny_text), ("vision", write_tiny_vision)):
        write(root / kind, 0)
    before = os.getcwd()
    os.chdir(root)
    Path("vg").mkdir()
    Image.new("RGB", (32, 32)).save("vg/1.jpg")
    prompts = [{"prompt": f"{i}+{i}=", "answer": str(2 * i), "text": "It is.", "domain": "math"} for i in range(64)]
    pairs = [
        {"prompt": f"{i}=", "chosen": "2", "rejected": "3", "score_chosen": 4.0, "score_rejected": i / 64}
        for i in range(64)
    ]
    pictures = [{"images": "vg/1.jpg", "image": "vg/1.jpg", "prompt": "Describe.", "question": "Describe."}]
    captions = [
        {"images": "vg/1.jpg", "prompt": "Describe.", "context": "", "chosen": "A cat.", "rejected": "A dog."}
    ] * 64
    domains = ["chart", "shapes", "document", "code"]
    text_rows = [{**row, "domain": ["math", "code"][i % 2], "grader": "math"} for i, row in enumerate(prompts)]
    image_rows = [
        {**row, "domain": domains[i % 4], "images": ["vg/1.jpg"] * (i % 4 < 3)} for i, row in enumerate(text_rows)
    ]
    tables = dict.fromkeys([*re.findall(r"[\w/]+\.jsonl", " ".join(RUNS)), *WRITTEN], prompts)
    tables |= {name: pairs for name in tables if "pairs" in name or "dpo" in name}
    graded_pairs = [{**pair, "score_chosen": 10.0} for pair in pairs]  # as the playground's are
    tables |= {"text.jsonl": text_rows, "images.jsonl": image_rows}
    for kind in ("sums", "lists"):
        tables[f"{kind}.jsonl"] = [{**row, "solution": "It is.", "domain": kind} for row in text_rows]
    tables |= {"pairs.jsonl": graded_pairs, "scene_pairs.jsonl": captions}
    tests = {"tests": [{"stdin": "1\n", "stdout": "1\n"}]}
    tables["code.jsonl"] = [{**row, "answer": tests} for row in prompts]  # type: ignore[assignment]
    tables |= {"pictures.jsonl": pictures, "runs/sentence_pairs.jsonl": captions, "data/chair.jsonl": pictures}
    for folder in ("runs", "data"):  # pictures are looked for from the file's folder
        Path(folder).mkdir()
        (Path(folder) / "vg").symlink_to(root / "vg")
    for name, rows in tables.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    mopd = [{"prompt": [{"role": "user", "content": row["prompt"]}], "domain": row["domain"]} for row in text_rows]
    Path("rl_prompt_mix").mkdir()
    Dataset.from_list(mopd).to_parquet("rl_prompt_mix/train.parquet")
    yield root
    os.chdir(before)


def arguments_of(line: str, desk: Path) -> list[str]:
    """Those of the command, with a tiny model for each that it names by a directory."""
    words = [word for word in shlex.split(line, comments=True)[2:] if word != "..."]
    kind = "vision" if PICTURED.search(line) else "text"
    return [str(desk / kind) if word.startswith("./my-") else word for word in words]


@pytest.fixture
def unplugged(monkeypatch: pytest.MonkeyPatch, desk: Path) -> list[str]:
    """No network; and the playground is made, not trained.

    Returns:
        An entry for each attempt to reach the hub.
    """
    attempts: list[str] = []
    monkeypatch.setattr(hub_reachability, "is_reachable", lambda: bool(attempts.append("hub")))

    def locate(name: str, *_: object) -> Path:
        pictured = name.startswith(("vision", "caption", "scene", "tiny_vision"))
        if not name.endswith(".jsonl"):
            return desk / ("vision" if pictured else "text")
        if (question := name.removeprefix("heldout_")) in ("sums.jsonl", "lists.jsonl"):
            return desk / question
        return (
            desk
            / f"{'scene_pairs' if 'scene_pairs' in name else 'pairs' if 'pairs' in name else 'images' if pictured else 'text'}.jsonl"
        )

    monkeypatch.setattr(importlib.import_module("lit_uniopd.playground.locate"), "locate", locate)
    return attempts


def screen_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[object, list[str]]:
    with pytest.raises(SystemExit) as stop:
        main(["doctor", "--quick", *arguments])
    output = capsys.readouterr()
    assert "Traceback" not in output.err
    return stop.value.code, output.out.splitlines()


NOT_HAD = re.compile(
    r"--model\.\S+\.path \w\S*/\S+: there is no such directory here and the hub did not give it"
    r"|(?:GroundingDino|Owlv2|ClosedSet)\.path \S+ cannot be had"
    r"|benchmarks cannot be had|--\S+\.path is empty|No supported gpu backend|\.http\.urls \S+ cannot be reached"
    rf"|{DIFFICULTY} (?:holds no pass counts|does not exist)"
    r"|The server \S+ of sampling\.server\.urls cannot be reached"
)
"""What is rightly red on a machine without GPU, network and servers."""


OF_THIS_DESK = re.compile(
    r"The NLL holds on to every chosen answer|A step is to take \d+ rows|exceed the \d+ positions"
    r"|No training prompt has a grader: outcomes are unknown"
)
"""Rightly said of 64 pairs whose chosen answers all score 4, of models with few positions, and of Open-MOPD's plain
distillation, which asks for no outcomes."""


BEHIND_ANOTHER = re.compile(r"configs/quickstart\.yaml -c")
"""Part of a config, behind a whole one: its screen differs from the whole one's by a few lines."""


@pytest.mark.parametrize(
    "line", [pytest.param(line, marks=[pytest.mark.slow] * bool(BEHIND_ANOTHER.search(line))) for line in RUNS]
)
@pytest.mark.thinned(20)
def test_every_config_gets_a_screen(line, desk, unplugged, capsys):
    status, rows = screen_of(arguments_of(line, desk), capsys)

    text = " ".join(" ".join(rows).split())
    reds = sum(row.startswith("red ") for row in rows)
    assert rows[-1].endswith(f", {reds} red")
    assert status == int(reds > 0)
    assert len(rows) <= 80, text
    assert max(map(len, rows)) <= 100
    assert reds == len(NOT_HAD.findall(text)), text
    assert len(unplugged) <= 1
    assert not (desk / "runs/playground").exists()  # it takes minutes to train
    assert "never reads" not in text, text  # a switch for Qwen3 is silent with models that have none
    objected = set(re.findall(r"yellow (?:sampling|settings|validation|golds) (.*?) -> ", text))
    assert [message for message in objected if not OF_THIS_DESK.search(message)] == [], text
    if re.search(r"data\.(train|predict)\.path", line):  # whatever became of the models
        assert re.search(r"green data [\d,]+ (training|prediction) (prompts|pairs)", text), text
    if "-c configs/trainer/" in line and "cpu.yaml" not in line and not torch.cuda.is_available():
        assert status == 1
        assert "-> Take -c configs/trainer/cpu.yaml." in text


def test_what_is_no_whole_config_is_answered_by_one_sentence(desk, capsys):
    for path in ("configs/trainer/gpu.yaml", "configs/omni_dpo/math.yaml"):
        with pytest.raises(SystemExit) as stop:
            main(["doctor", "-c", path])
        assert stop.value.code == 2
        assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")
