"""`uniopd validate` on bundled rows, and what can be done with what it leaves behind."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import Prompts, module, prompts, trainer

from callbacks import BenchmarkEvaluation
from datamodules import BenchmarkDataModule
from lit_uniopd.benchmarks.cli import main as benchmarks_verb
from lit_uniopd.benchmarks.compare import compare_records
from lit_uniopd.benchmarks.compare_cli import main as compare
from lit_uniopd.benchmarks.records import RecordWriter, last_evaluation
from lit_uniopd.benchmarks.regrade_cli import main as regrade
from lit_uniopd.benchmarks.report.summary import run_records, write_parquet
from lit_uniopd.cli import main
from lit_uniopd.errors import UserError
from lit_uniopd.modules import Evaluation
from lit_uniopd.policy import PolicyArgs
from lit_uniopd.rewards import named_grader

ROOT = Path(__file__).parent.parent.parent
CONFIG = str(ROOT / "configs/benchmarks.yaml")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    """A directory in which `validate` has run over the 16."""
    directory = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        patch.setenv("LIT_UNIOPD_CACHE", str(directory / "cache"))
        main(["validate", "-c", CONFIG, "--profile", "fixture", "--trainer.enable_progress_bar=false"])
    return directory


@pytest.fixture
def run(workplace, monkeypatch) -> Path:
    monkeypatch.chdir(workplace)
    monkeypatch.setenv("LIT_UNIOPD_CACHE", str(workplace / "cache"))
    return workplace / "runs/benchmarks/version_0"


def events(directory: Path) -> EventAccumulator:
    return EventAccumulator(str(directory), size_guidance={"tensors": 0, "scalars": 0, "images": 0}).Reload()


def test_the_summary_has_the_16_their_domains_and_mean(run):
    summary = json.loads((run / "summary.json").read_text())
    assert len(summary["benchmarks"]) == 16
    assert set(summary["domains"]) == {"math", "code", "multimodal_math", "logic", "document"}
    primary = [next(iter(b["scores"].values())) for b in summary["benchmarks"].values()]
    assert summary["mean16"] == pytest.approx(sum(primary) / 16)
    assert all(b["complete"] and b["profile"] == "fixture" for b in summary["benchmarks"].values())
    assert summary["benchmarks"]["mbpp_plus@gopd"]["left_out"] == {"a stub passes": 1}
    assert len({tuple(b["weights"]) for b in summary["benchmarks"].values()}) == 2  # a text and an image-text model
    assert {"torch", "transformers", "math-verify", "git"} <= set(summary["versions"])


def test_records_are_compacted_and_say_where_code_ran(run):
    records = run_records(run)
    assert not list((run / "records").glob("*.jsonl"))
    assert len(records) == sum(
        b["answers"] for b in json.loads((run / "summary.json").read_text())["benchmarks"].values()
    )
    assert {r.reason for r in records} <= {"ok", "wrong", "no_answer", "truncated"}
    assert all((r.sandbox is not None) == r.grader.startswith("code_") for r in records)


def test_tensorboard_has_scores_intervals_health_samples_pictures_and_the_radar(run):
    board = events(run)
    scalars = board.Tags()["scalars"]
    for tag in (
        "eval_fixture/document/chartqa@lmms/relaxed_accuracy",
        "eval_fixture/document/chartqa@lmms/relaxed_accuracy_high",
        "eval_fixture/document/chartqa@lmms/by_type/human_test",
        "eval_fixture/document/mean",
        "eval_fixture/mean16",
        "eval_health/aime24@gopd/truncated",
    ):
        assert tag in scalars
        assert len(board.Scalars(tag)) == 1
    images = board.Tags()["images"]
    assert "eval_images/chartqa@lmms/0" in images
    assert "eval_radar" in images
    text = board.Tensors("eval_samples/chartqa@lmms/text_summary")[0].tensor_proto.string_val[0].decode()
    assert text.startswith("| row | verdict | question | gold | found | answer |")


def test_the_same_command_goes_on_after_a_kill(run, workplace, monkeypatch):
    from lit_uniopd.benchmarks import conversation

    records = run_records(run)
    RecordWriter(workplace / "runs/benchmarks/version_7/records/rank3.jsonl").append(
        records[:40]
    )  # one that was killed
    counts: list[int] = []
    original = conversation.write_answers

    def counting(policy: Any, prompts: Any, *args: Any, **options: Any) -> Any:
        counts.append(len(prompts))
        return original(policy, prompts, *args, **options)

    monkeypatch.setattr(conversation, "write_answers", counting)
    main(["validate", "-c", CONFIG, "--profile", "fixture", "--trainer.enable_progress_bar=false"])
    again = workplace / "runs/benchmarks/version_8"
    assert sum(counts) == len(records) - 40
    before, after = (json.loads((d / "summary.json").read_text())["benchmarks"] for d in (run, again))
    assert {k: v["scores"] for k, v in before.items()} == {k: v["scores"] for k, v in after.items()}
    assert {r.key for r in run_records(again)} == {r.key for r in records}


# --- regrade and compare ---------------------------------------------------------------------------------------------


@pytest.fixture
def doctored(run, tmp_path) -> Path:
    """The run with right answers for AIME, recorded as wrong by a grader of yesterday."""
    records = [
        replace(r, response=rf"\boxed{{{r.gold}}}", correct=False, score=0.0) if r.benchmark == "aime24" else r
        for r in run_records(run)
    ]
    write_parquet(records, tmp_path / "records.parquet")
    (tmp_path / "summary.json").write_text((run / "summary.json").read_text())
    return tmp_path


def test_regrading_judges_anew_and_keeps_the_old_verdicts(doctored, capsys):
    assert regrade([str(doctored)]) == 0
    records = {r.sample_id: r for r in run_records(doctored) if r.benchmark == "aime24"}
    assert all(r.correct for r in records.values())
    from lit_uniopd.benchmarks.report.summary import read_parquet

    old = read_parquet(doctored / "records.before-1.parquet")
    assert not any(r.correct for r in old if r.benchmark == "aime24")
    assert "aime24@gopd" in capsys.readouterr().out
    summary = json.loads((doctored / "summary.json").read_text())
    assert summary["benchmarks"]["aime24@gopd"]["scores"]["accuracy"] == 1.0


def test_a_grader_that_needs_row_or_prompt_keeps_its_verdicts_and_another_judges_anew(doctored, caplog):
    verdicts = {}
    for label, function in {
        "needing": lambda text, row: row["level"] == 1,
        "asking": lambda text, prompt: not any("?" in message["content"] for message in prompt),
        "not": lambda text, gold: str(gold) in text,
    }.items():
        grader = named_grader(function)
        records = [replace(r, grader=grader) if r.benchmark == "aime24" else r for r in run_records(doctored)]
        write_parquet(records, doctored / "records.parquet")
        regrade([str(doctored)])
        verdicts[label] = {r.correct for r in run_records(doctored) if r.benchmark == "aime24"}
        count = sum(r.grader == grader for r in records)
        taken = {"needing": "row", "asking": "prompt"}.get(label)
        sentence = f"{count} verdicts of {grader} stay as they were: it broke down here (TypeError: it takes {taken!r}"
        assert (sentence in caplog.text) == (taken is not None)
    assert verdicts == {"needing": {False}, "asking": {False}, "not": {True}}


def test_comparing_names_what_became_right(run, doctored, capsys):
    regrade([str(doctored)])
    assert compare([str(run), str(doctored), "--rows"]) == 0
    output = capsys.readouterr().out
    assert "aime24@gopd newly right: fixture-0 (answer 0)" in output
    comparisons = {c.key: c for c in compare_records(run_records(run), run_records(doctored))}
    assert comparisons["aime24@gopd"].difference == 1.0
    assert len(comparisons["aime24@gopd"].newly_right) == 5
    assert comparisons["chartqa@lmms"].difference == 0.0
    assert comparisons["chartqa@lmms"].newly_wrong == ()


def test_runs_under_other_conditions_are_not_compared(run):
    records = run_records(run)
    with pytest.raises(UserError, match="another profile"):
        compare_records(records, [replace(r, profile="paper") for r in records])
    with pytest.raises(UserError, match="share no benchmark"):
        compare_records(records, [replace(r, benchmark="other") for r in records])
    older = [replace(r, step=0, model="student") for r in records[:3]] + [
        replace(records[3], model="teacher x", step=9)
    ]
    assert {r.step for r in last_evaluation([*older, replace(records[4], step=5)])} == {5}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["regrade", "nowhere"], "nowhere is no directory"),
        (["regrade", "."], "holds no records"),
        (["compare", ".", "."], "holds no records"),
        (["validate", "-c", CONFIG, "--data.benchmarks=[aime2]"], "did you mean"),
        (["validate", "-c", CONFIG, "--profile", "huge"], "profile"),
        (["validate", "-c", CONFIG, "--profile", "fixture", "--model.vision_policy=null"], "has pictures"),
        (["validate", "-c", CONFIG, "--profile", "fixture", "--data.max_rows=0"], "--data.max_rows"),
        (["fit", "-c", CONFIG, "--profile", "fixture", "--trainer.max_epochs=1"], "trains nothing"),
    ],
)
def test_mistakes_are_answered_by_one_sentence(arguments, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    output = capsys.readouterr().err
    assert sentence in output
    assert len([line for line in output.splitlines() if line.startswith("error:")]) == 1


def test_a_missing_picture_is_named_before_anything_is_written(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"question": "What is it?", "image": "none.png", "answer": "cat"}\n')
    spec = {
        "id": "own",
        "protocol": "mine",
        "version": 1,
        "title": "own",
        "domain": "own",
        "modality": "image",
        "hub": {"id": str(rows)},
        "columns": {"question": "question", "image": "image", "answer": "answer"},
        "scoring": {"grader": "exact"},
        "report": {"metrics": [{"name": "avg"}]},
    }
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(spec))
    data = BenchmarkDataModule([str(tmp_path / "own.yaml")], profile="paper")
    with pytest.raises(UserError, match=r"none\.png of row 0 does not exist"):
        data.setup("validate")


# --- judges, lists, checks -------------------------------------------------------------------------------------------


def test_answers_for_judges_are_exported(model_dirs, tmp_path, new_model):
    logger = TensorBoardLogger(tmp_path, name="run")
    evaluation = Evaluation(PolicyArgs(path="playground:tiny_vision"))
    data = BenchmarkDataModule(["alpaca_eval2", "mm_vet", "aime24"], profile="fixture")
    trainer(tmp_path, logger=logger, limit_val_batches=1.0).validate(evaluation, data, verbose=False)
    exports = Path(logger.log_dir) / "exports"
    rows = json.loads((exports / "alpaca_eval2.json").read_text())
    assert {"instruction", "output", "generator", "dataset"} == set(rows[0])
    assert {row["instruction"] for row in rows} >= {"How do I boil an egg?"}
    assert len(json.loads((exports / "mm_vet.json").read_text())) == 4
    summary = json.loads((Path(logger.log_dir) / "summary.json").read_text())
    assert summary["benchmarks"]["mm_vet@export"]["judge"] == "GPT-4"
    assert summary["mean16"] is None


def test_the_list_names_every_benchmark(capsys):
    assert benchmarks_verb([]) == 0
    output = capsys.readouterr().out
    for name in ("aime24@gopd", "infovqa@lmms", "CC-BY-NC-SA-4.0", "exported"):
        assert name in output


def test_check_accepts_ours_and_reports_a_gold_that_fails(tmp_path, capsys):
    assert benchmarks_verb(["check", "gsm8k", "chartqa"]) == 0
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"q": "?", "a": "nothing boxed \\\\frac{"}\n')
    spec = {
        "id": "bad",
        "protocol": "mine",
        "version": 1,
        "title": "bad",
        "domain": "bad",
        "modality": "text",
        "hub": {"id": "x/y"},
        "fixture": str(rows),
        "columns": {"question": "q", "answer": "a"},
        "scoring": {"grader": "choice"},
        "report": {"metrics": [{"name": "avg"}]},
    }
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(spec))
    assert benchmarks_verb(["check", str(tmp_path / "bad.yaml")]) == 1
    assert "gold refused: 0" in capsys.readouterr().out


# --- the callback ----------------------------------------------------------------------------------------------------


@pytest.fixture
def trained(model_dirs, tmp_path) -> Path:
    logger = TensorBoardLogger(tmp_path, name="fit", default_hp_metric=False)
    callback = BenchmarkEvaluation(["playground"], profile="fixture", every_n_steps=2, teachers=True)
    run = trainer(tmp_path, logger=logger, callbacks=[callback], max_steps=4, max_epochs=-1, log_every_n_steps=1)
    run.fit(module(model_dirs), Prompts(prompts(8)))
    return Path(logger.log_dir)


def test_the_callback_evaluates_before_between_and_after(trained):
    board = events(trained)
    tag = "eval_fixture/math/playground_math@playground/accuracy"
    # On the axis of the curves of training, whose batches are numbered from 0.
    assert [event.step for event in board.Scalars(tag)] == [0, 1, 3]
    summary = json.loads((trained / "summary.json").read_text())
    assert (
        set(summary["before"]) == set(summary["after"]) == {"playground_math@playground", "playground_code@playground"}
    )
    assert set(summary["teachers"]) == set(summary["before"])
    records = run_records(trained)
    assert {(r.model, r.step) for r in records} == {
        *(("student", step) for step in (0, 2, 4)),
        ("teacher math", 0),
        ("teacher code", 0),
    }
    assert len(events(trained / "teachers").Scalars(tag)) == 3
    assert len(events(trained / "before").Scalars(tag)) == 2  # the first point is the score before itself


def test_evaluating_changes_neither_weights_nor_the_run(model_dirs, tmp_path):
    from tiny import weights

    final_weights = []
    for callbacks in ([], [BenchmarkEvaluation(["playground"], profile="fixture", every_n_steps=1)]):
        model = module(model_dirs)
        trainer(tmp_path / str(len(final_weights)), callbacks=callbacks, max_steps=2).fit(model, Prompts(prompts(8)))
        final_weights.append(weights(model))
    assert all((final_weights[0][name] == final_weights[1][name]).all() for name in final_weights[0])


def test_every_n_steps_is_for_benchmarks_only():
    with pytest.raises(UserError, match=r"val_check_interval"):
        BenchmarkEvaluation(every_n_steps=5)


def test_published_scores_stand_beside_ours_only_if_run_as_published():
    from lit_uniopd.benchmarks.distributed_evaluator import EvalResult
    from lit_uniopd.benchmarks.loading import load_benchmark
    from lit_uniopd.benchmarks.registry import find_spec
    from lit_uniopd.benchmarks.report.tensorboard import published_scores

    benchmark = load_benchmark(find_spec("aime24"), "fixture")
    for profile, expected in (("fixture", {}), ("paper", {"aime24@gopd": 0.633})):
        result = EvalResult("m", 0, {benchmark.key: replace(benchmark, profile=profile)}, {}, {})
        assert published_scores(result).get("Uni-OPD", {}) == expected
