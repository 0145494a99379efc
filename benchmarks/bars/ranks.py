"""Bar 19: two processes write answers with weights that FSDP2 shards, against the same two with full weights."""

import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh

from benchmarks.bars.harness import ROUNDS, Bar, spread
from benchmarks.rollout import CASES, Case, build, prompts_of
from lit_uniopd.distributed.sharding import ShardingArgs
from lit_uniopd.playground.models import make_tokenizer
from lit_uniopd.policy import Policy
from lit_uniopd.sampling import SamplingArgs, sample

RANKS = 2
MEASURED = [
    ("small, equal lengths", "64 answers of 128 tokens on each of two FSDP2 ranks"),
    ("small, skewed lengths", "answers that end anywhere, half as many on the second rank"),
]


def bars() -> Iterator[Bar]:
    for name, label in MEASURED:
        ratios = measure(name)
        yield spread("19", f"{label}, gathering included, against whole weights", "wall time", ratios, 2.0)


def measure(name: str) -> list[float]:
    """Ratios round by round, of the slower rank's wall times."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as directory:
        receive, send = context.Pipe(duplex=False)
        ranks = [context.Process(target=_rank, args=(r, directory, name, send)) for r in range(RANKS)]
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join()
        send.close()
        if any(rank.exitcode for rank in ranks) or not receive.poll():
            raise RuntimeError(f"ranks ended with {[rank.exitcode for rank in ranks]}")
        return receive.recv()


def _rank(rank: int, directory: str, name: str, send: Any) -> None:
    torch.set_num_threads(1)
    store = f"file://{Path(directory) / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=RANKS)
    case = next(case for case in CASES if case.name == name)
    policies = {side: Policy(build(case), make_tokenizer()) for side in ("whole", "sharded")}
    policies["sharded"].shard(init_device_mesh("cpu", (RANKS,)), ShardingArgs())
    ratios = []
    for lap in range(ROUNDS + 1):
        seconds = {side: _seconds(policy, case, rank, lap) for side, policy in policies.items()}
        if lap:  # the first does not count
            ratios.append(seconds["sharded"] / seconds["whole"])
    if rank == 0:
        send.send(ratios)
    torch.distributed.destroy_process_group()


def _seconds(policy: Policy, case: Case, rank: int, seed: int) -> float:
    """Wall time of a rollout until the slower rank is done."""
    prompts = prompts_of(case)
    rank_prompts = prompts if case.stop == 0 or rank == 0 else prompts[::2]
    eos = list(range(1, 1 + round(case.stop * case.vocabulary)))
    torch.distributed.barrier()
    start = time.perf_counter()
    with policy.gathered(), policy.answering():
        args = SamplingArgs(n=case.n, max_new_tokens=case.new_tokens)
        sample(policy.model, rank_prompts, args, eos_ids=eos, pad_id=0, seed=seed)
    torch.distributed.barrier()
    return time.perf_counter() - start
