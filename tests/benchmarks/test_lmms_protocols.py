"""The benchmarks that go by lmms-eval's names ask and score as the tasks of the installed lmms-eval do."""

import importlib.util
import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from lmms_modules import bare_lmms_eval

from lit_uniopd.benchmarks import loading
from lit_uniopd.benchmarks.adapters import ADAPTERS, AdapterContext
from lit_uniopd.benchmarks.datasets import fixture_rows
from lit_uniopd.benchmarks.harness.args import HarnessArgs
from lit_uniopd.benchmarks.harness.wording import official_words
from lit_uniopd.benchmarks.loading import load_benchmark
from lit_uniopd.benchmarks.metrics import build_metrics
from lit_uniopd.benchmarks.metrics.sum_metric import SumMetric
from lit_uniopd.benchmarks.records import Record, grouped
from lit_uniopd.benchmarks.registry import all_specs, expand, find_spec
from lit_uniopd.benchmarks.spec import BenchmarkSpec
from lit_uniopd.errors import UserError
from lit_uniopd.rewards.lmms_reasoning import grade_lmms_reasoning

PACKAGE = importlib.util.find_spec("lmms_eval")
installed = pytest.mark.skipif(
    PACKAGE is None, reason="lmms-eval is not installed (pip install --no-deps lmms-eval==0.7.3)"
)
TASKS = {
    "mathvision": "mathvision/reasoning/mathvision_reason_test",
    "dynamath": "dynamath/reasoning/dynamath",
    "we_math": "wemath/reasoning/wemath_testmini_thinking",
    "logicvista": "logicvista/reasoning/logicvista_thinking",
    "visulogic": "visulogic/visulogic",
    "ai2d": "ai2d/ai2d",
    "chartqa": "chartqa/chartqa",
    "docvqa": "docvqa/docvqa_val",
    "infovqa": "infovqa/infovqa_val",
}


@pytest.fixture(scope="module")
def lmms(tmp_path_factory):
    with bare_lmms_eval(tmp_path_factory.mktemp("hub")) as module:
        yield module


class Loader(yaml.SafeLoader):
    """Leaves functions as their names."""


Loader.add_constructor("!function", lambda loader, node: str(node.value))


def task_file(path: str) -> dict[str, Any]:
    """A task's settings, with those that it includes."""
    assert PACKAGE is not None
    file = Path(str(PACKAGE.origin)).parent / "tasks" / path
    settings = yaml.load(file.read_text(), Loader)
    included = settings.pop("include", None)
    return ({} if included is None else task_file(str(Path(path).parent / included))) | settings


def function(lmms: Any, name: str, task: str, settings: Mapping[str, Any]) -> Any:
    """The function of a task's file that a setting names."""
    module, _, attribute = settings[name].rpartition(".")
    return getattr(lmms(f"tasks.{'.'.join(Path(task).parent.parts)}.{module}"), attribute)


def rows_of(spec: BenchmarkSpec) -> list[dict[str, Any]]:
    """The bundled rows, and the same with blanks and marks in their questions."""
    rows = fixture_rows(spec)
    odd = [{**row, "question": f" \n{row['question']}<image1> Choices: {{options}} <image> \n"} for row in rows]
    odd = (
        [{**row, spec.columns["id"]: f"odd {row[spec.columns['id']]}"} for row in odd] if "id" in spec.columns else odd
    )
    return [*rows, *odd]


@installed
@pytest.mark.parametrize("name", TASKS)
def test_prompts_and_decoding(lmms, name):
    spec, task = find_spec(name), TASKS[name]
    settings = task_file(f"{task}.yaml")
    wording = spec.prompt.wording
    rows, worded = rows_of(spec), spec
    if wording is not None:
        worded = replace(spec, prompt=replace(spec.prompt, system=official_words(wording, spec.key)))
    examples = ADAPTERS[spec.adapter](rows, worded, AdapterContext("paper", True, Path())).examples
    for row, example in zip(rows, examples, strict=True):
        if wording is None:
            asks = function(lmms, "doc_to_text", task, settings)
            text = asks(row, settings["lmms_eval_specific_kwargs"]["default"])
            theirs = [("user", [("image", ""), ("text", text)])]
        else:
            messages = function(lmms, "doc_to_messages", task, settings)(row)
            theirs = [(m["role"], [(part["type"], part.get("text", "")) for part in m["content"]]) for m in messages]
            assert (theirs[0][0], len(theirs)) == ("system", 2)
        assert [
            (m["role"], [("text", m["content"])] if isinstance(m["content"], str) else
             [(part["type"], part.get("text", "")) for part in m["content"]])
            for m in example.messages
        ] == theirs  # fmt: skip
    kwargs = settings["generation_kwargs"]
    assert (spec.generation.max_new_tokens, spec.generation.temperature) == (
        kwargs["max_new_tokens"],
        kwargs.get("temperature", 0),
    )
    assert (spec.hub.id, spec.generation.n) == (settings["dataset_path"], 1)
    assert spec.hub.split == settings["test_split"] or spec.hub.files == settings["dataset_kwargs"]["data_files"]


def test_each_protocol_of_lmms_eval_among_the_sixteen_is_compared():
    sixteen = [spec for spec in expand(["uni_opd"]) if spec.protocol.startswith("lmms")]
    assert {spec.id for spec in sixteen} == set(TASKS)


# --- the words that are not ours -----------------------------------------------------------------------------------------


@pytest.fixture
def bundled_rows_for_the_hub(monkeypatch):
    monkeypatch.setattr(loading, "read_rows", lambda spec, profile: fixture_rows(spec))


def system_of(spec: BenchmarkSpec, profile: Any) -> Any:
    """The system message of a benchmark's first row."""
    message = load_benchmark(spec, profile).examples[0].messages[0]
    assert message["role"] == "system"
    return message["content"]


@installed
def test_the_bundled_rows_are_asked_in_our_words_and_others_in_those_of_the_package(bundled_rows_for_the_hub):
    (spec,) = expand(["logicvista"], HarnessArgs(system_instruction="of lm-eval's tasks, for one"))
    words = system_of(spec, "smoke")
    assert spec.prompt.system == system_of(spec, "fixture") != words
    assert "<think>" in words
    assert spec.prompt.wording is not None
    with pytest.raises(UserError, match=r"that of the installed lmms-eval .* is another; install it by"):
        load_benchmark(
            replace(spec, prompt=replace(spec.prompt, wording=replace(spec.prompt.wording, name="X"))), "smoke"
        )


def test_without_the_package_the_words_are_the_users_or_nobodys(monkeypatch, bundled_rows_for_the_hub):
    words = official_words(wording, "x") if PACKAGE and (wording := find_spec("dynamath").prompt.wording) else None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match="dynamath@lmms_reasoning is asked with lmms-eval's system message, and lmms-eval is not"
    ):
        load_benchmark(find_spec("dynamath"), "smoke")
    (spec,) = expand(["dynamath"], HarnessArgs(system_instruction="Think, please."))
    with pytest.raises(UserError, match=r"and `harness\.system_instruction` is another; install it by .* or give"):
        load_benchmark(spec, "smoke")
    load_benchmark(spec, "fixture")
    if words is not None:
        (spec,) = expand(["dynamath"], HarnessArgs(system_instruction=words))
        assert system_of(spec, "smoke") == words


def test_words_of_a_users_own_make_a_protocol_of_their_own(tmp_path, bundled_rows_for_the_hub):
    path = tmp_path / "mine.yaml"
    path.write_text("inherit: dynamath\nprotocol: mine\nprompt: {system: Answer in tags.}\n")
    spec = find_spec(str(path))
    assert system_of(spec, "smoke") == "Answer in tags."
    assert (spec.key, spec.scoring, spec.published) == ("dynamath@mine", find_spec("dynamath").scoring, {})
    path.write_text("inherit: dynamath\nprompt: {system: Answer in tags.}\n")
    with pytest.raises(UserError, match=r"has another `prompt` than dynamath@lmms_reasoning"):
        find_spec(str(path))


def test_no_benchmark_takes_over_the_published_scores_of_another():
    published = {spec.key: dict(spec.published) for spec in all_specs()}
    assert published["docvqa@lmms"].keys() - published["infovqa@lmms"].keys() == {"Qwen3-VL-4B-Instruct"}
    assert published["mathvision@direct"] == {}


# --- scores ----------------------------------------------------------------------------------------------------------


def record(row: str, group: str, right: bool, key: str = "") -> Record:
    verdict = {"correct": right, "score": float(right), "reason": "ok", "grader": "lmms_reasoning"}
    hashes = dict.fromkeys(("fingerprint", "prompt_hash", "generation_hash", "weights", "model"), "x")
    constants = {
        "benchmark": "b",
        "protocol": "p",
        "version": 1,
        "profile": "paper",
        "sample_idx": 0,
        "step": 0,
        "n_tokens": 1,
    }
    return Record(sample_id=row, group_id=group, breakdown={"key": key}, **verdict, **hashes, **constants)


def scores(records: list[Record], name: str) -> dict[str, float]:
    metric = SumMetric(build_metrics(find_spec(name).report.metrics, 1))
    for group in grouped(records):
        metric.update(group)
    return metric.compute()


@installed
def test_we_math_of_the_whole_set_and_dynamath(lmms):
    rng = random.Random(4)
    module = lmms("tasks.wemath.reasoning.utils")
    rows = [
        {"ID": str(number), "key": f"{steps}steps_{part}", "acc_score": float(rng.random() < 0.7)}
        for steps, problems in ((2, 360), (3, 165))
        for number in range(1, problems + 1)
        for part in (*range(1, steps + 1), "multi")
    ]
    assert len(rows) == find_spec("we_math").size
    bundled = fixture_rows(find_spec("we_math"))[0]
    adapted = ADAPTERS["we_math"](
        [{**bundled, **row} for row in rows], find_spec("we_math"), AdapterContext("paper", True, Path())
    ).examples
    ours = scores(
        [
            record(example.id, example.group, row["acc_score"] == 1.0, example.breakdown["key"])
            for row, example in zip(rows, adapted, strict=True)
        ],
        "we_math",
    )
    assert f"{ours['loose']:.2%}" == module.wemath_aggregate_results_loose(rows)
    assert f"{ours['strict']:.2%}" == module.wemath_aggregate_results_strict(rows)
    assert ours["accuracy"] == pytest.approx(sum(row["acc_score"] for row in rows) / len(rows))

    module = lmms("tasks.dynamath.reasoning.utils")
    documents = [{"question": "?", "ground_truth": "12", "question_id": i, "id": i % 7 % 5} for i in range(30)]
    answers = [f"<answer>{rng.choice(['12', '12.0', '13'])}</answer>" for _ in documents]
    results = [
        module.dynamath_process_results(document, [answer])["dynamath_average"]
        for document, answer in zip(documents, answers, strict=True)
    ]
    columns = find_spec("dynamath").columns
    records = [
        record(
            str(document[columns["id"]]),
            str(document[columns["group"]]),
            bool(grade_lmms_reasoning("12", answer).correct),
        )
        for document, answer in zip(documents, answers, strict=True)
    ]
    assert scores(records, "dynamath") == {
        "average": pytest.approx(module.dynamath_aggregate_results_average(results)),
        "worst": pytest.approx(module.dynamath_aggregate_results_worst(results)),
    }
