"""lmms-eval's tasks through our policy are those of lmms-eval with a plain model of transformers, sample by sample."""

import importlib
import importlib.util
import json
import logging
import re
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from lmms_tasks import NAMES, write_lmms_tasks
from tiny import trainer
from transformers import AutoModelForImageTextToText, AutoProcessor

from datamodules import BenchmarkDataModule
from lit_uniopd.benchmarks.harness.args import HarnessArgs
from lit_uniopd.benchmarks.harness.lmms_task import LmmsTask
from lit_uniopd.benchmarks.records import Record
from lit_uniopd.benchmarks.report.summary import run_records
from lit_uniopd.errors import UserError
from lit_uniopd.modules import Evaluation
from lit_uniopd.playground.untrained import write_tiny_vision
from lit_uniopd.policy import PolicyArgs

INSTALL = "pip install --no-deps lmms-eval==0.7.3"
# Not imported while tests are collected: that takes seconds.
pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("lmms_eval") is None, reason=INSTALL),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::SyntaxWarning"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("model")
    write_tiny_vision(folder, seed=1)
    return str(folder)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory, model) -> Path:
    """Of which some gold answers are what the model says, so that it is not wrong everywhere."""
    folder = write_lmms_tasks(tmp_path_factory.mktemp("tasks"))
    said = [sample["resps"][0][0] for sample in theirs(model, ["own_world"], folder)["samples"]["own_world"]]
    golds = [text.lower().strip().rstrip(".") if i % 3 else "no" for i, text in enumerate(said)]
    return write_lmms_tasks(tmp_path_factory.mktemp("mended"), golds)


def plain_model(path: str, system: str = "") -> Any:
    """A chat model of lmms-eval around transformers' own `generate`."""
    processor: Any = AutoProcessor.from_pretrained(path)
    network: Any = AutoModelForImageTextToText.from_pretrained(path).eval()
    protocol = importlib.import_module("lmms_eval.protocol")
    base: Any = importlib.import_module("lmms_eval.api.model").lmms

    class Plain(base):
        is_simple = False

        def generate_until(self, requests: list[Any]) -> list[str]:
            return [self.said(*request.args) for request in requests]

        def said(self, _: str, doc_to_messages: Any, settings: dict, number: int, task: str, split: str) -> str:
            asked = self._apply_system_prompt(doc_to_messages(self.task_dict[task][split][number]), system)
            messages = protocol.ChatMessages(messages=asked)
            text = processor.apply_chat_template(messages.to_hf_messages(), tokenize=False, add_generation_prompt=True)
            images = messages.extract_media()[0]
            inputs = processor(text=[text], images=images or None, return_tensors="pt")
            with torch.no_grad():
                tokens = network.generate(**inputs, do_sample=False, max_new_tokens=settings["max_new_tokens"])
            written = tokens[:, inputs.input_ids.shape[1] :]
            return processor.batch_decode(written, skip_special_tokens=True, clean_up_tokenization_spaces=False)[0]

        def loglikelihood(self, requests: Any) -> Any:
            raise NotImplementedError

        generate_until_multi_round = loglikelihood

    return Plain()


def theirs(model: str, names: list[str], tasks: Path, system: str = "", **options: Any) -> dict[str, Any]:
    """Results of lmms-eval by itself."""
    manager = importlib.import_module("lmms_eval.tasks").TaskManager(include_path=str(tasks), include_defaults=False)
    asked = SimpleNamespace(output_path=str(tasks), process_with_media=False, reasoning_tags=None)
    evaluate = importlib.import_module("lmms_eval.evaluator").simple_evaluate
    settings = {"task_manager": manager, "cli_args": asked, "bootstrap_iters": 100, "process_docs_parallel": 1}
    return evaluate(model=plain_model(model, system), tasks=names, **settings, **options)


def validated(root: Path, model: str, names: list[str], **options: Any) -> tuple[dict[str, Any], list[Record]]:
    """Summary and records of `uniopd validate`."""
    limit, max_rows = options.pop("limit", None), options.pop("max_rows", 4)
    data = BenchmarkDataModule(
        [f"lmms_eval:{name}" for name in names],
        profile="paper",
        max_rows=max_rows,
        limit=limit,
        harness=HarnessArgs(**options),
    )
    run = trainer(root, limit_val_batches=1.0, logger=CSVLogger(root, name="eval"))
    run.validate(Evaluation(PolicyArgs(path=model), grader_workers=1), data, verbose=False)
    (directory,) = {path.parent for path in root.rglob("summary.json")}  # a killed run has none
    return json.loads((directory / "summary.json").read_text()), run_records(directory)


def assert_alike(summary: dict[str, Any], records: list[Record], results: dict[str, Any], names: list[str]) -> None:
    """Answers, extracted answers, verdicts, scores and standard errors."""
    for name in names:
        ours = {int(record.sample_id): record for record in records if record.benchmark == f"lmms_eval:{name}"}
        samples = results["samples"][name]
        assert len(ours) == len(samples) > 0
        for sample in samples:
            record = ours[sample["doc_id"]]
            assert record.response == sample["resps"][0][0]
            assert record.extracted == sample["filtered_resps"][0]
            numbers = {score.partition(",")[0]: value for score, value in record.also.items()}
            given = {score: _number(sample[score]) for score in numbers}
            assert numbers == pytest.approx(given)
            assert numbers or name == "own_mme"
        (key,) = (key for key in summary["benchmarks"] if key.startswith(f"lmms_eval:{name}@"))
        found = summary["benchmarks"][key]
        scores = results["results"][name]
        expected = {
            score: float(value)
            for score, value in scores.items()
            if "," in score and "_stderr" not in score and isinstance(value, int | float)
        }
        assert found["scores"] == pytest.approx(expected)
        assert found["complete"]
        for score, (low, high) in found["card"]["interval"].items():
            error = scores[score.replace(",", "_stderr,")]
            assert (high - low) / 2 / 1.959963984540054 == pytest.approx(float(error))


def _number(value: Any) -> float:
    return float(value["score"] if isinstance(value, dict) else value)


@pytest.mark.slow
def test_tasks_of_the_wheel_and_of_our_own(tmp_path, tasks, model):
    summary, records = validated(tmp_path, model, NAMES, include_path=str(tasks))
    assert_alike(summary, records, theirs(model, NAMES, tasks), NAMES)
    assert len({record.response for record in records}) > 20
    assert {record.correct for record in records if record.benchmark == "lmms_eval:own_world"} == {True, False}
    assert 0 < summary["benchmarks"]["lmms_eval:own_world@Yaml"]["scores"]["exact_match,none"] < 1
    assert set(summary["benchmarks"]["lmms_eval:own_world@Yaml"]["card"]["interval"]) == {"exact_match,none"}
    assert set(summary["benchmarks"]["lmms_eval:own_mme@Yaml"]["scores"]) == {
        "mme_cognition_score,none",
        "mme_perception_score,none",
    }
    assert 0 < summary["benchmarks"]["lmms_eval:own_words@2.0"]["scores"]["judged,none"] < 1
    settings = summary["benchmarks"]["lmms_eval:own_pair@2.0"]["settings"]
    assert (settings["lmms_eval"], settings["task_version"], settings["generation_kwargs"]["max_new_tokens"]) == (
        "0.7.3",
        "2.0",
        12,
    )
    submissions = list(tmp_path.rglob("textvqa_submission_*.json"))
    assert [len(json.loads(path.read_text())) for path in submissions] == [6]  # beside the run's other files


@pytest.mark.slow
def test_a_killed_group_with_a_system_message_goes_on(tmp_path, tasks, model, monkeypatch, caplog):
    names, system = ["own_words", "own_more", "own_pair"], "answer in rhymes"
    options: dict[str, Any] = {"include_path": str(tasks), "system_instruction": system, "limit": 4}
    judged, calls = LmmsTask.judged, []

    def killed(self: LmmsTask, records: Any) -> Any:
        calls.append(1)
        if len(calls) > 5:  # in the second batch of four, which is answered then
            raise KeyboardInterrupt
        return judged(self, records)

    monkeypatch.setattr(LmmsTask, "judged", killed)
    with suppress(KeyboardInterrupt, SystemExit):
        validated(tmp_path, model, ["own_group", "own_pair"], **options)
    monkeypatch.setattr(LmmsTask, "judged", judged)
    done = {record.key: record.time for record in run_records(tmp_path / "eval/version_0")}
    assert len(done) == 8
    with caplog.at_level(logging.INFO):
        summary, records = validated(tmp_path, model, ["own_group", "own_pair"], **options)
    assert "8 answers were taken over from earlier runs." in caplog.messages
    assert [len(records), sum(done.get(record.key) == record.time for record in records)] == [12, 8]
    results = theirs(model, ["own_group", "own_pair"], tasks, system, limit=4)
    assert_alike(summary, records, results, names)
    expected = {name: float(value) for name, value in results["groups"]["own_group"].items() if "," in name}
    assert {"letters,none", "letters_stderr,none"} == set(expected)
    assert summary["groups"]["lmms_eval:own_group"] == pytest.approx(expected)


# --- what is told in one sentence, before a model is loaded -------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("output_type: multiple_choice\ngeneration_kwargs: null\ndoc_to_choice: [a, b]\n", "is multiple_choice, which"),
        ("generation_kwargs: {num_beams: 4}\n", "ask for num_beams 4, which our engines do not do"),
        ("doc_to_messages: !function other.film\n", "lmms_eval:own_words has video, which is not asked here"),
        ("doc_to_messages: !function other.nothing\n", "the messages of document 0 cannot be built .KeyError"),
        ("process_results: !function other.judge\n", "asks a judge on the web, and without a key scores 0; set OPENAI"),
        ("process_results: !function functions.broken\n", "cannot score an empty answer .LookupError: no tables"),
        ("dataset_path: nowhere\n", "cannot be loaded .FileNotFoundError: Directory nowhere not found"),
    ],
    ids=lambda value: value.split()[-1] if value.endswith("\n") else "",
)
def test_tasks_that_cannot_be_run_here(tmp_path, change, message, monkeypatch):
    folder = write_lmms_tasks(tmp_path)
    with (folder / "functions.py").open("a") as file:
        file.write("\n\ndef broken(doc, results):\n    raise LookupError('no tables')\n")
    (folder / "other.py").write_text(
        "KEY = 'OPENAI_API_KEY'\n\n\ndef film(doc):\n    content = [{'type': 'video', 'url': 'a.mp4'}]\n"
        "    return [{'role': 'user', 'content': content}]\n\n\ndef nothing(doc):\n    return doc['no such column']\n"
        "\n\ndef judge(doc, results):\n    return {'letters': 0}\n"
    )
    path = folder / "own_words.yaml"
    kept = [line for line in path.read_text().splitlines() if line.partition(":")[0] not in change]
    path.write_text("\n".join(kept) + "\n" + change)
    task: Any = importlib.import_module("lmms_eval.api.task").ConfigurableTask
    monkeypatch.setattr(task.download.retry, "sleep", lambda _: None)
    for key in ("OPENAI_API_KEY", "AZURE_API_KEY", "JUDGE_API_KEY"):
        monkeypatch.delenv(key, raising=False)
    data = BenchmarkDataModule(["lmms_eval:own_words"], harness=HarnessArgs(include_path=str(folder)))
    with pytest.raises(UserError, match=message) as error:
        data.setup("validate")
    assert "\n" not in str(error.value)


def test_a_key_lets_a_judged_task_through(tmp_path, monkeypatch):
    folder = write_lmms_tasks(tmp_path)
    (folder / "functions.py").write_text((folder / "functions.py").read_text() + "\nKEY = 'OPENAI_API_KEY'\n")
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    data = BenchmarkDataModule(["lmms_eval:own_words"], profile="paper", harness=HarnessArgs(include_path=str(folder)))
    data.setup("validate")
    assert [len(benchmark.examples) for benchmark in data.benchmarks] == [6]


def test_a_missing_package_names_the_command(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "lmms_eval.tasks", None)
    with pytest.raises(UserError, match=re.escape(INSTALL)):
        BenchmarkDataModule(["lmms_eval:mme"], harness=HarnessArgs(include_path=str(tmp_path)))


@pytest.mark.slow
def test_names_of_lmms_evals_own():
    docs = (Path(__file__).parents[2] / "docs/evaluation.md").read_text()
    names = sorted(set(re.findall(r"`lmms_eval:([a-z0-9_]+)`", docs)))
    assert {"mme", "mmbench_en_dev", "ocrbench", "vqav2_val", "mmvet"} <= set(names)
    BenchmarkDataModule([f"lmms_eval:{name}" for name in names])  # whose rows are on the hub
    with pytest.raises(UserError, match=r"does not know \(did you mean .*lmms_eval:realworldqa"):
        BenchmarkDataModule(["lmms_eval:realworldq"])
