"""Every shipped schedule under every objective: a resumed run ends with the weights of an unbroken one, bit for bit."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningDataModule
from lightning.pytorch.callbacks import ModelCheckpoint
from tiny import adam, module, prompts, trainer

from datamodules import PairSourceArgs, PreferenceDataModule, PromptDataModule, SentencePairDataModule, SourceArgs
from datamodules.sentence_pairs import SentencePairSourceArgs
from lit_uniopd.modules import DPO, SFT, OmniDPO, PairLossArgs, Sentinel
from lit_uniopd.modules.base import PolicyModule
from lit_uniopd.policy import LoraArgs, PolicyArgs
from lit_uniopd.schedules import WarmupCosine

SCHEDULES: dict[str, Any] = {
    "linear": lambda optimizer: torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.2, total_iters=4),
    "cosine": lambda optimizer: WarmupCosine(optimizer, 0.0),
    "warmup_cosine": lambda optimizer: WarmupCosine(optimizer, 0.3),
}
UPDATES = {"opd": 1, "opd_3_updates": 3}
ACCUMULATED = {"sft": 2, "dpo": 3}
OBJECTIVES = ["opd", "opd_3_updates", "omni_dpo", "dpo", "sentinel", "sft"]


class Watch(Callback):
    """Rows and rate of each batch."""

    def __init__(self) -> None:
        self.steps: list[Any] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        batch_prompts = getattr(batch, "prompts", None) or [pair.pair.prompt for pair in batch.pairs]
        rows = [prompt.messages[0]["content"] for prompt in batch_prompts]
        self.steps.append((trainer.global_step, rows, trainer.optimizers[0].param_groups[0]["lr"]))


def table(root: Path, rows: list[dict[str, Any]]) -> str:
    path = root / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def data(objective: str, root: Path) -> LightningDataModule:
    """9 or 10 rows, so that rows are left over at the end of an epoch; shuffled."""
    if objective in UPDATES or objective == "sft":
        rows = [
            {"prompt": f"{i}+{i}=", "answer": prompt.gold, "domain": prompt.domain, "grader": "exact"}
            for i, prompt in enumerate(prompts(10))
        ]
        source = SourceArgs(path=table(root, rows))
        return PromptDataModule(train=source, batch_size=2 if objective == "sft" else 4, seed=3)
    rows = [
        {"prompt": f"{i}=", "chosen": "a" * (i + 1), "rejected": "b", "score_chosen": i, "score_rejected": i / 2}
        for i in range(9)
    ]
    if objective == "sentinel":
        path = table(root, [row | {"context": "so. "} for row in rows])
        return SentencePairDataModule(train=SentencePairSourceArgs(path=path), batch_size=2, seed=5)
    return PreferenceDataModule(train=PairSourceArgs(path=table(root, rows)), batch_size=2, seed=5)


def model(objective: str, model_dirs: dict[str, str], schedule: str) -> PolicyModule:
    policy = PolicyArgs(path=model_dirs["student"], lora=LoraArgs(rank=4, alpha=8, dropout=0.1))
    options: dict[str, Any] = {"optimizer": adam, "lr_scheduler": SCHEDULES[schedule], "seed": 3}
    if objective in UPDATES:
        return module(model_dirs, student=policy, updates_per_rollout=UPDATES[objective], **options)
    if objective == "omni_dpo":
        return OmniDPO(policy, PairLossArgs(lam=0.2, tau_good=1.0), **options)
    return {"dpo": DPO, "sentinel": Sentinel, "sft": SFT}[objective](policy, **options)


def fit(root: Path, model: PolicyModule, data: Any, accumulate: int, *more: Callback, **resumed: Any) -> list[Any]:
    watch = Watch()
    saver = ModelCheckpoint(root, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    options = {"accumulate_grad_batches": accumulate, "enable_checkpointing": True, "max_epochs": 2}
    run = trainer(root, callbacks=[saver, watch, *more], **options)
    run.fit(model, data, weights_only=True, **resumed)
    return watch.steps


def assert_resumes(objective: str, schedule: str, model_dirs: dict[str, str], tmp_path: Path, *more: Callback) -> None:
    def run(name: str, **resumed: Any) -> tuple[list[Any], PolicyModule]:
        trained, rows = model(objective, model_dirs, schedule), data(objective, tmp_path)
        return fit(tmp_path / name, trained, rows, ACCUMULATED.get(objective, 1), *more, **resumed), trained

    unbroken_steps, unbroken = run("whole")
    steps = sorted({step for step, *_ in unbroken_steps} - {0})
    for step in {steps[0], steps[len(steps) // 2]}:  # within the first epoch, and at its end
        last_steps, resumed = run(f"rest{step}", ckpt_path=tmp_path / f"whole/step={step}.ckpt")
        assert last_steps == [batch for batch in unbroken_steps if batch[0] >= step]
        for (name, weight), ended in zip(unbroken.named_parameters(), resumed.parameters(), strict=True):
            assert torch.equal(weight, ended), name


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.thinned(9)
def test_a_resumed_run_trains_on_the_same_rows_at_the_same_rates(model_dirs, tmp_path, objective, schedule):
    assert_resumes(objective, schedule, model_dirs, tmp_path)


class AsksTooEarly(Callback):
    """As many a callback does: Lightning then builds the training loader before it has read the checkpoint."""

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        assert trainer.estimated_stepping_batches > 0


@pytest.mark.parametrize("objective", ["opd", "omni_dpo"])
def test_a_loader_that_was_built_too_early_still_gets_its_position(model_dirs, tmp_path, objective):
    assert_resumes(objective, "warmup_cosine", model_dirs, tmp_path, AsksTooEarly())
