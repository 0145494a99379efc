"""The quickstarts, as processes of their own, started outside the repository."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard_events import curves_of

from lit_uniopd.cli import main
from lit_uniopd.utils.jsonl import read_lines
from lit_uniopd.view import PAIRS_FILE, write_page

ROOT = Path(__file__).parent.parent


def view(run: Path) -> dict[str, int]:
    """`uniopd view`, and how much the page shows."""
    with pytest.raises(SystemExit) as stop:
        main(["view", str(run)])
    assert not stop.value.code
    assert "data:image" in (run / "view.html").read_text() or "sentinel" not in str(run)
    return write_page(run, run / "view.html")


@pytest.mark.slow
def test_the_quickstart_teaches_the_student_and_says_where_to_look(quickstart):
    assert quickstart.returncode == 0, quickstart.stderr[-3000:]
    story = quickstart.stdout.partition("What to look at next:")[2]
    for place in ("view runs/quickstart/version_0", "--logdir runs/quickstart/version_0", "version_0/before_after.png"):
        assert place in story

    runs = Path(quickstart.directory) / "runs"
    run = runs / "quickstart/version_0"
    summary = json.loads((run / "summary.json").read_text())
    before, after, teachers = (summary[model] for model in ("before", "after", "teachers"))
    assert set(before) == set(after) == set(teachers) == {"math", "code"}
    assert sum(before.values()) / 2 <= 0.4
    assert sum(after.values()) / 2 >= 0.8
    assert min(teachers.values()) >= 0.8
    assert summary["seed"] == 0

    curve = EventAccumulator(str(run)).Reload().Scalars("val/math/accuracy")
    assert curve[0].value == pytest.approx(before["math"])
    assert curve[-1].value == pytest.approx(after["math"])
    assert len(curve) >= 4
    assert (run / "export/policy/model.safetensors").exists()
    assert (runs / "playground/seed0").is_dir()

    (charts,) = curves_of(run).values()
    assert charts["KL to the teachers (nats per token)"] == ["teacher/math/kl", "teacher/code/kl"]
    assert charts["Right answers to held-out prompts (share)"] == ["val/code/accuracy", "val/math/accuracy"]
    assert sum(len(tags) for tags in charts.values()) > 20
    assert view(run)["groups"] >= 20


@pytest.mark.slow
def test_preference_learning_goes_from_made_pairs_to_a_curve(quickstart, tmp_path):
    quickstart.lend_playground(tmp_path)
    command = [sys.executable, "-m", "lit_uniopd", "fit", "-c", str(ROOT / "configs/omni_dpo/quickstart.yaml")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    run = tmp_path / "runs/omni_dpo_quickstart/version_0"
    events = EventAccumulator(str(run)).Reload()
    curve = [event.value for event in events.Scalars("val/accuracy")]
    assert len(curve) == 8
    assert curve[-1] > 0.9
    assert events.Scalars("train/loss")[0].value > events.Scalars("train/loss")[-1].value
    assert (run / "pairs.png").exists()
    assert (run / "export/policy/model.safetensors").exists()
    scores = json.loads((run / "summary.json").read_text())
    for benchmark in scores["after"]:
        assert scores["after"][benchmark] > scores["before"][benchmark] + 0.2
    assert len(scores["after"]) == 2
    assert "before_after.png" in done.stdout.partition("What to look at next:")[2]

    (charts,) = curves_of(run).values()
    assert charts["Mastery of the pairs"] == ["train/mastery", "val/mastery"]
    assert charts["Reward margin"] == ["train/margin", "val/margin"]
    assert view(run)["pairs"] == 200
    for pair in read_lines(run / PAIRS_FILE):
        assert pair["w_performance"] == pytest.approx((1 - pair["mastery"]) ** 3, abs=1e-3)
        assert 0.5 < pair["w_quality"] < 1
        assert pair["margin"] == pytest.approx(pair["chosen_reward"] - pair["rejected_reward"], abs=2e-4)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_captioner_unlearns_what_it_imagines(tmp_path):
    command = [sys.executable, "-m", "lit_uniopd", "fit", "-c", str(ROOT / "configs/sentinel/quickstart.yaml")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Captions of 256 pictures" in done.stdout
    assert "hallucination.png" in done.stdout.partition("What to look at next:")[2]
    run = tmp_path / "runs/sentinel_quickstart/version_0"
    saved = json.loads((run / "hallucination.json").read_text())
    for decoding, reduction in (("greedy", 0.9), ("temperature_1", 0.75)):
        before, after = (saved[when][decoding] for when in ("before", "after"))
        imagined = [scores["chair_i"] * scores["mentions"] for scores in (before, after)]
        assert imagined[0] > 0.5, "it has something to unlearn"
        assert imagined[1] < (1 - reduction) * imagined[0]
        assert after["recall"] > 0.93 * before["recall"], "and does not do so by saying less"
    events = EventAccumulator(str(run), size_guidance={"images": 0}).Reload()
    assert len(events.Images("hallucination/positions")) == 2
    assert events.Scalars("hallucination/greedy/chair_i")[0].value == pytest.approx(
        saved["before"]["greedy"]["chair_i"]
    )
    assert (run / "export/policy/model.safetensors").exists()

    (charts,) = curves_of(run).values()
    assert {"Hallucinated mentions (CHAIR_i)", "Rewards of chosen and rejected answers", "Loss"} <= set(charts)
    pairs = list(read_lines(run / PAIRS_FILE))
    assert view(run)["pairs"] == len(pairs) > 100
    truth = {}
    for row in read_lines(tmp_path / "runs/playground/scenes_seed0/scenes.jsonl"):
        truth[row["images"][0]] = row["boxes"]
    true_boxes = imagined = disagreed = 0
    for pair in pairs:
        assert pair["context"]
        assert len(pair["detectors"]) == 2
        places = truth[f"pictures/{Path(pair['images'][0]).name}"]
        for box in pair["boxes"]:
            if box["object"] in places:
                assert box["place"] == places[box["object"]]
                true_boxes += 1
            else:  # an oracle's false alarm, which takes something else for it
                assert box["place"] in places.values()
                imagined += 1
        disagreed += "uncertain" in pair["verdicts"].values()
    assert true_boxes > imagined > 0
    assert disagreed
    captions = next((tmp_path / "runs/playground").glob("scenes_seed0-pairs*/scene_pairs.jsonl"))
    assert write_page(captions, tmp_path / "captions.html")["captions"] == 1024
