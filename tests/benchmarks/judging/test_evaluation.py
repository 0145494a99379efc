"""Judged where the answers are written: `uniopd validate` and the callback with a judge."""

import json
from pathlib import Path
from typing import Any

import pytest
from judged_runs import alpaca_file, by_letter, judge_server, longer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import Prompts, module, prompts, trainer

from callbacks import BenchmarkEvaluation
from datamodules import BenchmarkDataModule
from lit_uniopd.benchmarks.judging.args import JudgeArgs
from lit_uniopd.benchmarks.judging.cli import parser
from lit_uniopd.benchmarks.metrics.scorecard import BenchmarkScores, judged_card
from lit_uniopd.benchmarks.report.summary import run_records
from lit_uniopd.errors import UserError
from lit_uniopd.modules import Evaluation
from lit_uniopd.policy import PolicyArgs

THEIRS = ["Red.", "In hot water, ten minutes.", "Something.", "y" * 40]
ALPACA, SHORT = "alpaca_eval2@export", "alpaca_eval2@short"


def validate(root: Path, benchmarks: list[str], **judge: Any) -> Path:
    """On bundled rows, by a tiny model; the directory of the run."""
    logger = TensorBoardLogger(root, name="eval", default_hp_metric=False)
    images = any(name.startswith(("mm_vet", "object")) for name in benchmarks)
    evaluation = Evaluation(PolicyArgs(path=f"playground:tiny_{'vision' if images else 'text'}"), grader_workers=1)
    data = BenchmarkDataModule(benchmarks, profile="fixture", judge=JudgeArgs(**judge))
    trainer(root, logger=logger, limit_val_batches=1.0).validate(evaluation, data, verbose=False)
    return Path(logger.log_dir)


def fit(root: Path, paths: dict[str, str], **judge: Any) -> Path:
    """One step, with AlpacaEval before and after it, in short answers."""
    logger = TensorBoardLogger(root, name="fit", default_hp_metric=False)
    short = root / "short.yaml"
    short.write_text("inherit: alpaca_eval2\nprotocol: short\ngeneration: {max_new_tokens: 6}\n")
    callback = BenchmarkEvaluation([str(short)], profile="fixture", judge=JudgeArgs(**judge))
    run = trainer(root, logger=logger, callbacks=[callback], max_steps=1)
    run.fit(module(paths), Prompts(prompts(4)))
    return Path(logger.log_dir)


def summary_of(run: Path, key: str) -> dict[str, Any]:
    return json.loads((run / "summary.json").read_text())["benchmarks"][key]


def verdicts_in(run: Path, key: str) -> list[str]:
    return (run / "verdicts" / f"{key}.jsonl").read_text().splitlines()


def by_hand(run: Path) -> dict[int, float]:
    """Step -> win rate of the student's recorded answers with a judge who likes them long, in both orders alike."""
    records = run_records(run)
    return {
        step: sum(longer(r.response, THEIRS[int(r.sample_id)]) for r in records if r.step == step) / 4
        for step in {record.step for record in records}
    }


def test_the_options_are_those_of_the_command():
    command = {action.dest: action.default for action in parser()._actions}
    for name, default in JudgeArgs(judge="x").__dict__.items():
        assert command[name] == {"judge": None, "options": "{}"}.get(name, default), name
    assert set(command) - set(JudgeArgs(judge="x").__dict__) == {"help", "run", "dry_run"}


@pytest.mark.slow
def test_a_training_run_has_judged_scores_like_any_others_and_a_restart_asks_nothing_twice(
    model_dirs, tmp_path, capsys
):
    baseline = str(alpaca_file(tmp_path / "base.json", THEIRS))
    with judge_server(by_letter) as server:
        run = fit(tmp_path, model_dirs, judge="big", url=server.url, baseline=baseline)
        assert server.requests
        server.requests.clear()
        again = fit(tmp_path, model_dirs, judge="big", url=server.url, baseline=baseline)
        assert not server.requests
    expected, result = by_hand(run), summary_of(run, SHORT)
    assert set(expected) == {0, 1}
    assert result["scores"]["win_rate"] == pytest.approx(expected[1])
    assert result["card"]["interval"]["win_rate"][0] <= expected[1] <= result["card"]["interval"]["win_rate"][1]
    (judged,) = result["judged"]
    assert judged["scores"] == result["scores"]
    assert (judged["judge"]["name"], judged["template"]["name"]) == ("big", "uniopd_preference")
    assert judged["served_models"] == ["judge-2026-01-01"]
    summary = json.loads((run / "summary.json").read_text())
    assert summary["before"][SHORT] == pytest.approx(expected[0])
    assert summary["after"][SHORT] == pytest.approx(expected[1])
    board = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
    curve = board.Scalars(f"eval_fixture/chat/{SHORT}/win_rate")
    assert [event.value for event in curve] == pytest.approx([expected[0], expected[1]])
    output = capsys.readouterr().out
    assert "win_rate, big by" in output
    assert "uniopd_preference" in output
    assert set(verdicts_in(again, SHORT)) == set(verdicts_in(run, SHORT))  # a run's files hold what its scores need
    assert summary_of(again, SHORT)["scores"] == result["scores"]


def test_a_model_here_judges_and_others_are_exported(tmp_path, caplog):
    baseline = str(alpaca_file(tmp_path / "base.json", THEIRS))
    local: dict[str, Any] = {"judge": "playground:tiny_text", "baseline": baseline}
    run = validate(tmp_path, ["alpaca_eval2", "arena_hard"], benchmark="alpaca_eval2", **local)
    result = summary_of(run, ALPACA)
    assert 0 < result["scores"]["win_rate"] < 1
    assert result["judged"][0]["judge"]["kind"] == "local"
    assert result["complete"]
    assert summary_of(run, "arena_hard@export")["scores"] == {}
    assert "judged" not in summary_of(run, "arena_hard@export")
    assert (run / "exports" / "arena_hard.jsonl").exists()
    with pytest.raises(UserError, match=r"--data\.judge\.engine is for replies.*by --data\.judge\.verdict text"):
        validate(tmp_path, ["alpaca_eval2"], engine="loop", **local)


def test_a_judge_that_fails_costs_its_score_and_not_the_run(tmp_path, caplog):
    judge: dict[str, Any] = {"judge": "big", "baseline": str(alpaca_file(tmp_path / "base.json", THEIRS))}
    with judge_server(by_letter) as server:
        server.status = lambda body: 401
        run = validate(tmp_path, ["alpaca_eval2"], url=server.url, **judge)
        assert "alpaca_eval2@export of playground:tiny_text has no score at step 0: " in caplog.text
        assert "check --data.judge.url, --data.judge.judge and the key in $OPENAI_API_KEY" in caplog.text
        assert summary_of(run, ALPACA)["scores"] == {}
        server.status = lambda body: 200
        again = validate(tmp_path, ["alpaca_eval2"], url=server.url, **judge)
    assert summary_of(again, ALPACA)["scores"]["win_rate"] == pytest.approx(by_hand(again)[0])


def test_a_judge_beside_a_grader_has_names_of_its_own():
    graded = BenchmarkScores("chair_i", {"chair_i": 0.2}, {"chair_i": (0.1, 0.3)}, answers=4)
    judged = {"scores": {"chair_i": 0.5}, "interval": {"chair_i": (0.4, 0.6)}, "breakdown": {"rec": 0.5}}
    card = judged_card(graded, judged, [])
    assert card.primary == "chair_i"
    assert card.scores == {"chair_i": 0.2, "judged_chair_i": 0.5}
    assert card.interval == {"chair_i": (0.1, 0.3), "judged_chair_i": (0.4, 0.6)}
    assert judged_card(None, judged, []).scores == {"chair_i": 0.5}


@pytest.mark.parametrize(
    ("benchmarks", "judge", "sentence"),
    [
        (
            ["mm_vet"],
            {"judge": "big", "url": "http://127.0.0.1:9/v1"},
            r"--data\.judge\.url http\S* cannot be reached .*start it",
        ),
        (["mm_vet"], {"judge": "./none"}, r"--data\.judge\.judge \./none: there is no such directory"),
        (
            ["gsm8k"],
            {"judge": "big"},
            r"--data\.judge\.judge big has nothing to judge, as a grader or a harness scores all",
        ),
        (["mm_vet"], {"judge": "x", "benchmark": "arena_hard"}, "arena_hard@export is not among the judged .* mm_vet@"),
        (
            ["arena_hard"],
            {"judge": "x"},
            r"compares answers with those of a baseline; give them by --data\.judge\.baseline",
        ),
        (["mm_vet", "arena_hard"], {"judge": "x", "verdict": "text"}, r"--data\.judge\.verdict is no option of mm_vet"),
        (
            ["object_halbench"],
            {"judge": "x"},
            r"--data\.judge\.benchmark: 4 of 4 pictures have no list of their objects",
        ),
        (["mm_vet"], {"judge": "x", "rows": 0}, "--rows must be at least 1, not 0"),
    ],
    ids=lambda value: "",
)
def test_mistakes_are_told_before_anything_is_answered(benchmarks, judge, sentence, tmp_path):
    with pytest.raises(UserError, match=sentence):
        validate(tmp_path, benchmarks, **judge)
    assert not list(tmp_path.rglob("records"))


def test_heldout_prompts_need_no_judge():
    with pytest.raises(UserError, match="judge is for benchmarks, and held-out prompts have graders"):
        BenchmarkEvaluation(judge=JudgeArgs(judge="big"))
