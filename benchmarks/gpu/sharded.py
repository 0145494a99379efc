"""FSDP2 on one device: the update of a sharded policy, and a fit that validates between its steps."""

import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from benchmarks.gpu.setting import Row, Setting, one_process, update
from benchmarks.gpu.speed import adamw


def measure(setting: Setting) -> Iterator[Row]:
    """Both, in this process alone."""
    yield from sharded_update(setting)
    yield from fit(setting)


def sharded_update(setting: Setting) -> Iterator[Row]:
    """Shards of one rank, weights gathered in bfloat16, after log-probs that gather all of them at once."""
    from torch.distributed.device_mesh import init_device_mesh

    from lit_uniopd.distributed.sharding import ShardingArgs

    batch, limit = setting.batch(), setting.sizes.micro_batch_tokens
    with one_process(setting.device, setting.files / "group"):
        setting.reset_peak()
        policy = setting.policy(setting.args("0.6B", gradient_checkpointing=True))
        policy.shard(init_device_mesh(setting.device.type, (1,)), ShardingArgs("bfloat16", "float32"))
        optimizer = adamw(policy.parameters())

        def step() -> None:
            with policy.answering(), policy.gathered():
                policy.token_logps(*next(batch.passes(policy, limit)))
            update(policy, batch, limit)
            optimizer.step()
            optimizer.zero_grad()

        step()
        seconds = setting.seconds(step)
    peak = setting.peak()
    note = "one scoring pass each" + ("" if peak is None else f"; peak {peak / 2**30:.2f} GiB")
    yield setting.row("FSDP2, one rank", f"{batch.tokens / seconds:,.0f} tokens/s", note)


def fit(setting: Setting) -> Iterator[Row]:
    """SFT by Lightning's trainer under our strategy with ``inference_mode: false``."""
    import time

    from lightning import Callback, Trainer

    from datamodules import PromptDataModule, SourceArgs
    from lit_uniopd.distributed.fsdp import FSDP
    from lit_uniopd.modules import SFT

    table = setting.files / "texts.jsonl"
    table.write_text("".join(json.dumps({"prompt": f"{i}=", "answer": "ab" * (i % 7 + 1)}) + "\n" for i in range(16)))
    ends: list[float] = []

    class Clock(Callback):
        def on_train_batch_end(self, *_: Any, **__: Any) -> None:
            setting.wait()
            ends.append(time.perf_counter())

    data = PromptDataModule(SourceArgs(path=str(table)), SourceArgs(path=str(table)), batch_size=4, val_batch_size=4)
    trainer = Trainer(
        strategy=FSDP(param_dtype="bfloat16" if setting.cuda else None, save_distributed_checkpoint=False),
        accelerator="cuda" if setting.cuda else "cpu",
        devices=1,
        inference_mode=False,
        max_steps=4,
        max_epochs=-1,
        val_check_interval=2,
        check_val_every_n_epoch=None,
        limit_val_batches=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=setting.files,
    )
    trainer.callbacks.append(Clock())  # type: ignore[attr-defined]
    trainer.fit(SFT(setting.args("0.6B"), optimizer=adamw, seed=3), data)
    steps = " ".join(f"{after - before:.2f}" for before, after in pairwise(ends))
    loss = float(trainer.callback_metrics["train/loss"])
    note = f"4 steps, {steps} s apart, with 2 validations between them; loss {loss:.4f}"
    yield setting.row("fit, inference_mode: false", "done", note)
