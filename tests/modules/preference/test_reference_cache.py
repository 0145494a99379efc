"""The reference's log-probs on disk: the same training, computed once for each pair."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pairs_data import ROWS, data, omni
from tiny import Memory, trainer

from lit_uniopd.errors import UserError
from lit_uniopd.modules import OmniDPO, PairLossArgs
from lit_uniopd.policy import LoraArgs, Policy
from lit_uniopd.types import PairBatch


@pytest.fixture
def scored(monkeypatch) -> list[int]:
    """Sizes of the batches that were scored without gradients: those of the reference."""
    sizes: list[int] = []
    real = OmniDPO._scored

    def counting(self: OmniDPO, policy: Policy, batch: Any) -> torch.Tensor:
        if not torch.is_grad_enabled():
            sizes.append(len(batch))
        return real(self, policy, batch)

    monkeypatch.setattr(OmniDPO, "_scored", counting)
    return sizes


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def lines(cache: Path) -> list[dict[str, Any]]:
    (file,) = cache.glob("*.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.parametrize("lora", [None, LoraArgs(rank=4)], ids=["full", "lora"])
def test_training_is_the_same_and_reads_the_reference_once(model_dirs, tmp_path, scored, lora):
    table = write(tmp_path / "pairs.jsonl", ROWS)
    found = []
    for cache in (None, str(tmp_path / "cache"), str(tmp_path / "cache")):
        memory, module = Memory(), omni(model_dirs["student"], lora=lora, reference_cache=cache)
        scored.clear()
        trainer(tmp_path, max_epochs=4, logger=memory).fit(module, data(table, val=None))
        weights = torch.cat([p.detach().flatten() for p in module.policy.parameters() if p.requires_grad])
        found.append((memory.values["train/loss"], weights, list(scored)))
        assert bool(module.policy._reference) == (cache is None and lora is None)
    live, first, second = found
    assert live[2] == [4] * 4
    assert first[2] == [4]
    assert second[2] == [4]  # entries that are tried
    for other in (first, second):
        assert other[0] == pytest.approx(live[0], abs=1e-5)
        torch.testing.assert_close(other[1], live[1], atol=1e-5, rtol=1e-4)


def test_a_further_pair_costs_one_entry_and_order_does_not_matter(model_dirs, tmp_path):
    cache = tmp_path / "cache"
    for rows in (ROWS[:3], ROWS[::-1], ROWS):
        module = omni(model_dirs["student"], reference_cache=str(cache))
        trainer(tmp_path, max_steps=1).fit(module, data(write(tmp_path / "pairs.jsonl", rows), batch_size=2))
        assert len(lines(cache)) == min(len(rows), 4)
    (file,) = cache.glob("*.jsonl")
    file.write_text(file.read_text() + '{"pair": "torn')  # of a killed run
    changed = [*ROWS[:3], {**ROWS[3], "rejected": "7"}]
    pairs = data(write(tmp_path / "pairs.jsonl", changed))
    trainer(tmp_path, max_steps=1).fit(module := omni(model_dirs["student"], reference_cache=str(cache)), pairs)
    assert module.references is not None
    assert len(module.references.known) == 5


def test_rows_in_another_order_and_another_loss_find_their_own_entries(model_dirs, tmp_path):
    """Kept by DPO on sums; read by Omni-DPO on means, with the rows reversed and the policy moved."""
    cache, table = str(tmp_path / "cache"), tmp_path / "pairs.jsonl"
    summed = omni(model_dirs["student"], loss=PairLossArgs(kind="dpo", beta=0.1), reference_cache=cache)
    trainer(tmp_path, max_steps=1).fit(summed, data(write(table, ROWS)))
    found = []
    for where in (cache, None):
        module, pairs = omni(model_dirs["student"], reference_cache=where), data(write(table, ROWS[::-1]))
        trainer(tmp_path, max_steps=2, gradient_clip_val=1.0).fit(module, pairs)
        found.append(module.compare(PairBatch(pairs.train_pairs))[0])
    kept, live = found
    assert float(live.margins.abs().min()) > 1e-4
    torch.testing.assert_close(kept.margins, live.margins, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(kept.per_pair, live.per_pair, rtol=1e-4, atol=1e-5)
    assert len(lines(tmp_path / "cache")) == 4


def test_other_weights_have_other_entries(model_dirs, tmp_path):
    table = write(tmp_path / "pairs.jsonl", ROWS)
    for name in ("student", "math"):
        module = omni(model_dirs[name], reference_cache=str(tmp_path / "cache"))
        trainer(tmp_path, max_steps=1).fit(module, data(table))
    assert len(list((tmp_path / "cache").glob("*.jsonl"))) == 2


def test_a_wrong_entry_is_found_out(model_dirs, tmp_path):
    table, cache = write(tmp_path / "pairs.jsonl", ROWS), tmp_path / "cache"
    trainer(tmp_path, max_steps=1).fit(omni(model_dirs["student"], reference_cache=str(cache)), data(table))
    (file,) = cache.glob("*.jsonl")
    for rows, message in (
        ([{**line, "logps": [0.0, 0.0]} for line in lines(cache)], "has other log-probs than this policy gives"),
        ([{"pair": line["pair"]} for line in lines(cache)], "a line that is no reference log-prob"),
    ):
        write(file, rows)
        with pytest.raises(UserError, match=message):
            trainer(tmp_path, max_steps=1).fit(omni(model_dirs["student"], reference_cache=str(cache)), data(table))


def test_a_trained_policy_is_no_reference(model_dirs, tmp_path):
    table, cache = write(tmp_path / "pairs.jsonl", ROWS), str(tmp_path / "cache")
    run = trainer(tmp_path, max_steps=1)
    run.fit(omni(model_dirs["student"], reference_cache=cache), data(table))
    run.save_checkpoint(tmp_path / "one.ckpt")
    resumed = omni(model_dirs["student"], reference_cache=cache)
    trainer(tmp_path, max_steps=2).fit(resumed, data(table), ckpt_path=tmp_path / "one.ckpt")
    fewer = str(tmp_path / "fewer")  # a cache that another run filled with other pairs
    first = write(tmp_path / "first.jsonl", ROWS[:3])
    trainer(tmp_path, max_steps=1).fit(omni(model_dirs["student"], reference_cache=fewer), data(first, batch_size=2))
    with pytest.raises(UserError, match=r"lacks \d of 8 pairs, and the policy has been trained, so it is not"):
        trainer(tmp_path, max_steps=2).fit(
            omni(model_dirs["student"], reference_cache=fewer), data(table), ckpt_path=tmp_path / "one.ckpt"
        )


def test_a_module_that_was_trained_reads_its_entries_and_adds_none(model_dirs, tmp_path):
    """In a notebook: the policy has moved, so what it would give now is no reference's."""
    results = []
    for cache in (None, str(tmp_path / "cache")):
        module = omni(model_dirs["student"], reference_cache=cache)
        pairs = data(write(tmp_path / "pairs.jsonl", ROWS))
        trainer(tmp_path, max_steps=3, gradient_clip_val=1.0).fit(module, pairs)
        results.append(trainer(tmp_path, limit_val_batches=1.0).validate(module, pairs, verbose=False)[0])
    assert results[0]["val/margin"] != pytest.approx(0.0, abs=1e-3)
    assert results[1] == pytest.approx(results[0], abs=1e-4)
    other = data(write(tmp_path / "other.jsonl", [{**row, "rejected": "7"} for row in ROWS]))
    with pytest.raises(UserError, match=r"lacks \d of \d pairs, and the policy has been trained"):
        trainer(tmp_path, limit_val_batches=1.0).validate(module, other, verbose=False)
