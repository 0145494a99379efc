"""Bars 20 and 21: where the time of a quickstart step goes, and how full micro-batches are."""

import json
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from benchmarks.bars.harness import Bar, spread
from callbacks import RolloutBrowser
from datamodules import PromptDataModule, SourceArgs
from lit_uniopd.distributed.load_balancing import load_imbalance, rebalance
from lit_uniopd.modules import UniOPD
from lit_uniopd.modules.opd.dispatch import group_tokens
from lit_uniopd.monitoring.weighted_means import WeightedMeans
from lit_uniopd.policy import Policy, PolicyArgs
from lit_uniopd.policy.micro_batches import token_budget_batches
from lit_uniopd.sampling import SamplingArgs
from lit_uniopd.types import Rollouts

ROLLOUTS, WARM_UP = 14, 2
PARTS = ("rollout", "score", "grade", "update", "wait", "overhead")
SPLIT = Path("runs/bars/split.json")


class Measured(UniOPD):
    """Keeps the seconds of every step."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.laps: list[dict[str, float]] = []

    def log_step(self, rollouts: Rollouts, trained: WeightedMeans, seconds: dict[str, float]) -> None:
        super().log_step(rollouts, trained, seconds)
        self.laps.append({name: seconds.get(name, 0.0) for name in (*PARTS, "step")} | {"encode": self.encoding})
        self.encoding = 0.0

    encoding = 0.0


def quickstart_laps() -> list[dict[str, float]]:
    """Seconds by part of each step of the quickstart, with its models, settings and logging."""
    model = Measured(
        student=PolicyArgs(path="playground:student"),
        teachers={name: PolicyArgs(path=f"playground:{name}_teacher") for name in ("math", "code")},
        sampling=SamplingArgs(n=4, max_new_tokens=40),
        updates_per_rollout=4,
        grader_workers=1,
        seed=0,
    )
    encode = Policy.encode

    def timed_encode(self: Policy, prompt: Any) -> Any:
        start = time.perf_counter()
        encoded = encode(self, prompt)
        model.encoding += time.perf_counter() - start
        return encoded

    Policy.encode = timed_encode  # type: ignore[method-assign]
    data = PromptDataModule(train=SourceArgs(path="playground:train"), batch_size=32)
    with tempfile.TemporaryDirectory() as directory:
        trainer = Trainer(
            accelerator="cpu",
            devices=1,
            max_steps=4 * ROLLOUTS,
            callbacks=[RolloutBrowser(every_n_steps=40)],
            logger=TensorBoardLogger(directory),
            log_every_n_steps=1,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=directory,
            use_distributed_sampler=False,
        )
        trainer.fit(model, data)
    model.graders.close()
    Policy.encode = encode  # type: ignore[method-assign]
    return model.laps[WARM_UP:]


def skewed_lengths(rows: int) -> list[int]:
    """Tokens of prompt and answer, on average about half of the longest, as in answers to hard questions."""
    rng = random.Random(0)
    return [300 + min(4096, round(rng.lognormvariate(7.3, 0.6))) for _ in range(rows)]


def busiest_of_eight(answers: int) -> tuple[float, float]:
    """Tokens of the busiest rank over the mean, before groups move and after.

    Args:
        answers: of a group; prompts have 300 tokens, and each rank writes 32 answers.
    """
    lengths = [length - 300 for length in skewed_lengths(256)]
    groups = [sum(lengths[i : i + answers]) for i in range(0, 256, answers)]
    tokens = [group_tokens(300, group, answers, shared=True) for group in groups]
    costs = [tokens[i : i + 32 // answers] for i in range(0, len(tokens), 32 // answers)]
    loads = [sum(costs[rank][i] for rank, i in pieces) for pieces in rebalance(costs)]
    return load_imbalance([sum(rank_costs) for rank_costs in costs]), load_imbalance(loads)


def bars() -> Iterator[Bar]:
    torch.set_num_threads(1)
    laps = quickstart_laps()
    SPLIT.parent.mkdir(parents=True, exist_ok=True)
    shares = {p: statistics.median(lap[p] / lap["step"] for lap in laps) for p in (*PARTS, "encode")}
    SPLIT.write_text(json.dumps({"step": statistics.median(lap["step"] for lap in laps), "shares": shares}))
    overhead = [1 - (lap["rollout"] + lap["score"] + lap["update"]) / lap["step"] for lap in laps]
    yield spread("20", "quickstart step without rollout, scoring and update", "share of the step", overhead, 0.05)
    lengths = skewed_lengths(256)
    batches = token_budget_batches(lengths, 32_768)
    padded = sum(len(batch) * max(lengths[row] for row in batch) for batch in batches) / sum(lengths)
    unsorted = sum(8 * max(lengths[i : i + 8]) for i in range(0, 256, 8)) / sum(lengths)
    label = f"tokens of micro-batches, padding included (in data order {unsorted:.2f})"
    yield Bar("21", label, "share of real tokens", padded, padded, padded, 1.10)
    for answers in (8, 16):
        before, after = busiest_of_eight(answers)
        label = f"busiest of 8 ranks with {32 // answers} groups of {answers} answers each (as written {before:.2f})"
        yield Bar("21", label, "share of the mean rank", after, after, after, 1.05)
