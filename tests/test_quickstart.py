"""The first command of the README, as a process of its own, started outside the repository."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_the_quickstart_teaches_the_student_and_says_where_to_look(tmp_path):
    command = [sys.executable, "-m", "lit_uniopd", "fit", "-c", str(ROOT / "configs/quickstart.yaml")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip().splitlines()[-1] == "Curves:  tensorboard --logdir runs/quickstart/version_0"

    run = tmp_path / "runs/quickstart/version_0"
    summary = json.loads((run / "summary.json").read_text())
    before, after, teachers = (summary[part] for part in ("before", "after", "teachers"))
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
    assert (tmp_path / "runs/playground/seed0").is_dir()


@pytest.mark.slow
def test_preference_learning_goes_from_made_pairs_to_a_curve(tmp_path):
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


@pytest.mark.slow
def test_a_captioner_unlearns_what_it_imagines(tmp_path):
    command = [sys.executable, "-m", "lit_uniopd", "fit", "-c", str(ROOT / "configs/sentinel/quickstart.yaml")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Captions of 256 pictures" in done.stdout
    run = tmp_path / "runs/sentinel_quickstart/version_0"
    kept = json.loads((run / "hallucination.json").read_text())
    for decoding, reduction in (("greedy", 0.9), ("temperature_1", 0.75)):
        before, after = (kept[when][decoding] for when in ("before", "after"))
        imagined = [scores["chair_i"] * scores["mentions"] for scores in (before, after)]
        assert imagined[0] > 0.5, "it has something to unlearn"
        assert imagined[1] < (1 - reduction) * imagined[0]
        assert after["recall"] > 0.93 * before["recall"], "and does not do so by saying less"
    events = EventAccumulator(str(run), size_guidance={"images": 0}).Reload()
    assert len(events.Images("hallucination/positions")) == 2
    assert events.Scalars("hallucination/greedy/chair_i")[0].value == pytest.approx(kept["before"]["greedy"]["chair_i"])
    assert (run / "export/policy/model.safetensors").exists()
