"""A whole step of preference learning against TRL's own trainer: its batch, its model, its loss, its gradients."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pairs_data import ROWS, omni
from tiny import make_tokenizer
from transformers import AutoModelForCausalLM

from lit_uniopd.modules import PairLossArgs
from lit_uniopd.policy import Policy
from lit_uniopd.types import EncodedPair, PairBatch, PreferencePair, Prompt

LOSSES = [
    ("sigmoid", PairLossArgs(kind="dpo", beta=0.3)),
    ("sigmoid_norm", PairLossArgs(kind="dpo", beta=0.3, average=True)),
    ("hinge", PairLossArgs(kind="hinge", beta=0.3)),
    ("ipo", PairLossArgs(kind="ipo", beta=0.3)),
    ("robust", PairLossArgs(kind="robust", beta=0.3, label_smoothing=0.2)),
]


def disturbed(model: Any) -> Any:
    """So that policy and reference differ."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model


def pairs_of(batch: dict[str, torch.Tensor]) -> list[EncodedPair]:
    """TRL's rows, chosen answers first, by its masks."""
    rows = []
    for ids, seen, answer in zip(batch["input_ids"], batch["attention_mask"], batch["completion_mask"], strict=True):
        rows.append((tuple(ids[(seen == 1) & (answer == 0)].tolist()), tuple(ids[answer == 1].tolist())))
    half = len(rows) // 2
    pair = PreferencePair(Prompt("-", ()), "", "")
    return [EncodedPair(pair, good[0], good[1], bad[1]) for good, bad in zip(rows[:half], rows[half:], strict=True)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # TRL's own
def test_a_step_is_that_of_trls_trainer(model_dirs, tmp_path: Path):
    pytest.importorskip("trl")
    from datasets import Dataset
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    def load() -> Any:
        return AutoModelForCausalLM.from_pretrained(model_dirs["student"], dtype=torch.float32)

    # Its defaults (bfloat16, gradient checkpointing, dropout) would make another computation of it.
    settings: dict[str, Any] = {"use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": "none"}
    settings |= {"save_strategy": "no", "max_steps": 1, "per_device_train_batch_size": 4, "disable_dropout": True}
    trainer: Any = DPOTrainer(
        model=disturbed(load()),
        ref_model=load(),
        processing_class=make_tokenizer(),
        train_dataset=Dataset.from_list([{k: row[k] for k in ("prompt", "chosen", "rejected")} for row in ROWS]),
        args=DPOConfig(output_dir=str(tmp_path), beta=0.3, **settings),
    )
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.eval()
    pairs = PairBatch(pairs_of(batch))
    assert len(pairs) == 4
    assert len({len(pair.chosen_tokens) for pair in pairs.pairs}) > 1

    module = omni(model_dirs["student"])
    module.configure_model()
    assert isinstance(module.policy, Policy)
    disturbed(module.policy.model)
    for name, loss in LOSSES:
        trainer.loss_types, trainer.label_smoothing = [name], loss.label_smoothing
        trainer.model.zero_grad()
        theirs = trainer.compute_loss(trainer.model, dict(batch))
        theirs.backward()
        module.loss = loss
        module.zero_grad()
        ours = module.compare(pairs)[0].loss
        ours.backward()
        torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=2e-6, msg=lambda m, n=name: f"{n}: {m}")
        wanted = {n: p.grad for n, p in trainer.model.named_parameters() if p.grad is not None}
        found = {n: p.grad for n, p in module.policy.model.named_parameters() if p.grad is not None}
        assert found.keys() == wanted.keys()
        for key, value in found.items():
            torch.testing.assert_close(value, wanted[key], rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
