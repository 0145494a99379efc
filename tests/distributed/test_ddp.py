import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import module, prompts, trainer

from lit_uniopd.policy import Policy, PolicyArgs
from lit_uniopd.types import PromptBatch


def launch(name: str, ranks: int, *arguments: str) -> None:
    """Run a script beside this file on so many gloo ranks."""
    script = Path(__file__).parent / name
    command = [sys.executable, str(script), str(ranks), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_two_ranks_take_the_step_of_one(model_dirs, tmp_path):
    """7 answers of differing length on 2 ranks: 4 and 3 answers, unequal numbers of micro-batches."""
    model = module(model_dirs)
    model.trainer = trainer(tmp_path)
    model.trainer.state.fn = "fit"  # type: ignore[assignment]
    model.configure_model()
    rollouts = model.answer(PromptBatch(prompts(3)))
    model.score(rollouts)
    rollouts[list(range(7))].save(tmp_path / "rollouts.pt")

    results = []
    for ranks in (1, 2):
        out = tmp_path / f"{ranks}.pt"
        launch("ddp_update.py", ranks, str(tmp_path / "rollouts.pt"), str(out), *model_dirs.values())
        results.append(torch.load(out, weights_only=True))
    one, two = results
    assert two["loss"] == pytest.approx(one["loss"], abs=1e-6)
    start = {name: p.detach() for name, p in model.named_parameters()}
    assert any(not torch.equal(start[name], p) for name, p in one["weights"].items())
    for name, p in one["weights"].items():
        torch.testing.assert_close(two["weights"][name], p, atol=1e-6, rtol=1e-5)


@pytest.mark.slow
def test_a_rank_without_pictures_stays_in_step_with_one_that_has_some(tmp_path):
    """A tower that is not used on a rank must not make DDP wait for its gradient, nor lose the other rank's."""
    from lit_uniopd.playground.untrained import write_tiny_vision

    for seed, name in enumerate(("student", "teacher")):
        write_tiny_vision(tmp_path / name, seed)
    results = {}
    for ranks in (1, 2):
        out = tmp_path / f"{ranks}.pt"
        launch("ddp_pictures.py", ranks, str(out), str(tmp_path / "student"), str(tmp_path / "teacher"))
        results[ranks] = [torch.load(f"{out}.{rank}", weights_only=True) for rank in range(ranks)]
    ((whole,), (first, second)) = results.values()
    start = Policy.load(PolicyArgs(path=str(tmp_path / "student")), trainable=False).model.state_dict()
    for name, value in whole.items():
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0)
        torch.testing.assert_close(first[name], value, atol=1e-5, rtol=1e-4)
    patches = "model.vision_tower.embeddings.patch_embedding.weight"
    assert not torch.equal(whole[f"policy.model.{patches}"], start[patches])


@pytest.mark.slow
def test_preference_learning_on_two_ranks_is_that_of_one(model_dirs, tmp_path):
    """Answers of differing length, 5 validation pairs: one rank has an empty batch."""
    pairs = tmp_path / "pairs.jsonl"
    rows = [
        {"prompt": f"{i}=", "chosen": "a" * (i + 1), "rejected": "b", "score_chosen": i, "score_rejected": i / 2}
        for i in range(5)
    ]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = []
    for ranks in (1, 2):
        out = tmp_path / f"{ranks}.pt"
        launch("ddp_omni.py", ranks, str(out), model_dirs["student"], str(pairs))
        found.append(torch.load(out, weights_only=True))
    one, two = found
    assert {"train/loss", "val/loss", "val/accuracy"} <= one["logged"].keys()
    assert two["logged"] == pytest.approx(one["logged"], abs=1e-5)
    start = Policy.load(PolicyArgs(path=model_dirs["student"]), trainable=False).model.state_dict()
    assert any(not torch.equal(start[n.removeprefix("policy.model.")], p) for n, p in one["weights"].items())
    for name, value in one["weights"].items():
        torch.testing.assert_close(two["weights"][name], value, atol=1e-5, rtol=1e-4)
