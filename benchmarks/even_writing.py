"""How long ranks wait for the one with the longest answers, by how the writing of a rollout is divided.

    OMP_NUM_THREADS=1 python -m benchmarks.even_writing simulate    # no model: lengths, and what they cost
    OMP_NUM_THREADS=1 python -m benchmarks.even_writing measure     # two gloo ranks that write; CPU seconds

Lengths are log-normal, a part of their variance being the prompt's and the rest each answer's own: the median is an
eighth of the limit, at which answers are cut.
"""

import argparse
import math
import multiprocessing
import statistics
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.rollout import CASES, build
from lit_uniopd.modules.opd.writing_teams import bring_home, write_part
from lit_uniopd.playground.models import make_tokenizer
from lit_uniopd.policy import Policy
from lit_uniopd.sampling import SamplingArgs, engine_loop
from lit_uniopd.types import Prompt

Array = NDArray[Any]


# --- simulation ---

LIMIT, PROMPT, ROLLOUTS = 8192, 300, 50
BANDWIDTH, FLOPS = 4.8e12, 0.4 * 989e12
"""Bytes a second of an H200, and the operations a second that reading prompts reaches."""
WEIGHTS, POSITION, PARAMETERS = 8.0e9, 144 * 1024, 4.0e9
"""Of Qwen3-4B in bfloat16: bytes read for each step, bytes of one cached position, operations are two each."""
SHAPES = [(2, 8, 16), (8, 8, 16), (64, 4, 16)]
"""Ranks, prompts of each, answers to each prompt."""


def seconds(lengths_R: Array, rank_R: Array, group_R: Array, ranks: int, cost: str) -> Array:
    """When each rank has written its answers.

    tokens: each takes equally long. memory: each step reads the weights, and what is cached of every open row.
    """
    if cost == "tokens":
        return np.bincount(rank_R, lengths_R, ranks)
    cached = np.bincount(rank_R, POSITION * (lengths_R * PROMPT + lengths_R**2 / 2), ranks)
    longest = np.zeros(ranks)
    np.maximum.at(longest, rank_R, lengths_R)
    prompts = np.bincount(np.unique(rank_R * (group_R.max() + 1) + group_R) // (group_R.max() + 1), minlength=ranks)
    return (WEIGHTS * longest + cached) / BANDWIDTH + prompts * PROMPT * 2 * PARAMETERS / FLOPS


def longest_first(costs: Array, ranks: int) -> Array:
    """Rank of each piece: the longest one left goes to the rank with least to do, of those that have room."""
    loads, counts, owners = np.zeros(ranks), np.zeros(ranks, int), np.empty(len(costs), int)
    for piece in np.argsort(-costs, kind="stable"):
        rank = int(np.where(counts < len(costs) // ranks, loads, np.inf).argmin())
        owners[piece], loads[rank], counts[rank] = rank, loads[rank] + costs[piece], counts[rank] + 1
    return owners


def simulate(spread: float, of_prompt: float, cost: str, shape: tuple[int, int, int]) -> dict[str, tuple[float, float]]:
    """Waiting share and time of the rollout, relative to whole groups as they are dealt out, for each division.

    Args:
        spread: standard deviation of the lengths' logarithms.
        of_prompt: the prompt's part of that variance.
        cost: see ``seconds``.
        shape: one of ``SHAPES``.
    """
    ranks, prompts, n = shape
    groups, random = ranks * prompts, np.random.default_rng(0)
    group_R = np.repeat(np.arange(groups), n)
    times: dict[str, list[Array]] = {}
    for _ in range(ROLLOUTS):
        level_G = math.log(LIMIT / 8) + spread * math.sqrt(of_prompt) * random.standard_normal(groups)

        def lengths(level_G: Array) -> Array:
            own = spread * math.sqrt(1 - of_prompt) * random.standard_normal((groups, n))
            return np.minimum(LIMIT, np.ceil(np.exp(level_G[:, None] + own)))

        # An epoch ago the same prompts had as many answers, of 20 % more or less.
        past_G = lengths(level_G + 0.2 * random.standard_normal(groups)).mean(axis=1)
        lengths_R = lengths(level_G).ravel()
        parts = math.gcd(n, ranks)
        part_R = np.arange(groups * n) // (n // parts)
        known = seconds(lengths_R, np.arange(len(lengths_R)), group_R, len(lengths_R), cost)
        divisions = {
            "as dealt": group_R % ranks,
            "by past lengths": longest_first(past_G, ranks)[group_R],
            "split": part_R % ranks,
            "split by past lengths": longest_first(np.repeat(past_G, parts), ranks)[part_R],
            "lengths known": longest_first(known, ranks),
        }
        for name, rank_R in divisions.items():
            times.setdefault(name, []).append(seconds(lengths_R, rank_R, group_R, ranks, cost))
    whole = sum(each.max() for each in times["as dealt"])
    return {
        name: (float(np.mean([1 - t.mean() / t.max() for t in each])), float(sum(t.max() for t in each) / whole))
        for name, each in times.items()
    }


def print_simulations() -> None:
    for number, (cost, spread, of_prompt, shape) in enumerate(
        (cost, spread, of_prompt, shape)
        for cost in ("memory", "tokens")
        for spread in (1.0, 0.6)
        for of_prompt in (0.3, 0.7)
        for shape in SHAPES
    ):
        result = simulate(spread, of_prompt, cost, shape)
        if number == 0:
            print("| cost | spread | of the prompt | ranks x prompts x n | " + " | ".join(result) + " |")
            print("|---|---:|---:|---|" + "---:|" * len(result))
        cells = " | ".join(f"{time:.2f} ({waiting:.2f})" for waiting, time in result.values())
        print(f"| {cost} | {spread} | {of_prompt} | {' x '.join(map(str, shape))} | {cells} |", flush=True)


# --- two ranks ---

RANKS, PROMPTS, ROUNDS, SPREAD = 2, 4, 8, 1.0
SAMPLING = SamplingArgs(n=16, max_new_tokens=384)
CASE = next(case for case in CASES if case.name == "small, equal lengths")


class EndsOnTime:
    """Noise with which an answer ends where its length says: the last word of the vocabulary is its end.

    In the place of ``CounterRNG``, whose arguments it has; the prompt's part of the variance is ``of_prompt``.
    """

    of_prompt = 0.0

    def __init__(self, seed: int, keys_B: Tensor, answer_B: Tensor) -> None:
        level, own = SPREAD * math.sqrt(self.of_prompt), SPREAD * math.sqrt(1 - self.of_prompt)
        self.length_B = torch.tensor(
            [
                SAMPLING.max_new_tokens / 8 * math.exp(level * _normal(seed, key) + own * _normal(seed, key, answer))
                for key, answer in zip(keys_B.tolist(), answer_B.tolist(), strict=True)
            ]
        )

    def __call__(self, step: int, rows_R: Tensor) -> Tensor:
        return torch.where(self.length_B[rows_R] <= step + 1, 1 - 1e-12, 0.5).double()


def _normal(*keys: int) -> float:
    return float(np.random.default_rng(keys).standard_normal())


def measure() -> None:
    """Write in two processes, whole groups and halves of them in turn."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as directory:
        ranks = [context.Process(target=_rank, args=(rank, directory)) for rank in range(RANKS)]
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join()
    if any(rank.exitcode for rank in ranks):
        raise RuntimeError(f"ranks ended with {[rank.exitcode for rank in ranks]}")


def _rank(rank: int, directory: str) -> None:
    torch.set_num_threads(1)
    store = f"file://{Path(directory) / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=RANKS)
    policy = Policy(build(CASE), make_tokenizer()).eval()
    end = patch.object(Policy, "eos_ids", frozenset({CASE.vocabulary - 1}))
    with end, patch.object(engine_loop, "CounterRNG", EndsOnTime):
        for EndsOnTime.of_prompt in (0.3, 0.7):
            # The first does not count.
            rounds = [{split: _round(rank, policy, split, seed) for split in (1, 2)} for seed in range(ROUNDS + 1)][1:]
            if rank == 0:
                _report(rounds)
    torch.distributed.destroy_process_group()


def _round(rank: int, policy: Policy, split: int, seed: int) -> tuple[float, float]:
    """Waiting share until the slower rank has written, and the larger of their CPU times until answers are home."""
    module = SimpleNamespace(
        trainer=SimpleNamespace(world_size=RANKS),
        global_rank=rank,
        split_groups=split,
        phase=SimpleNamespace(writer="student"),
        policy=policy,
        device=torch.device("cpu"),
    )
    numbers = range(rank, RANKS * PROMPTS, RANKS)
    prompts = [Prompt(id=str(i), messages=({"role": "user", "content": "1+1=" * (i + 1)},)) for i in numbers]
    start = time.process_time()
    rollouts = write_part(module, prompts, SAMPLING, seed=seed)
    written = time.process_time() - start
    bring_home(module, prompts, rollouts)
    seconds: list[Any] = [None] * RANKS
    torch.distributed.all_gather_object(seconds, (written, time.process_time() - start))
    written, home = zip(*seconds, strict=True)
    return 1 - statistics.mean(written) / max(written), max(home)


def _report(rounds: list[dict[int, tuple[float, float]]]) -> None:
    for split in (1, 2):
        waiting = [result[split][0] for result in rounds]
        ratios = [result[split][1] / result[1][1] for result in rounds]
        print(
            f"{EndsOnTime.of_prompt} of the variance the prompt's, split_groups {split}: waiting share "
            f"{statistics.mean(waiting):.3f} ({min(waiting):.3f} to {max(waiting):.3f}), "
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) of the time of whole groups",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("simulate", "measure"))
    {"simulate": print_simulations, "measure": measure}[parser.parse_args().part]()


if __name__ == "__main__":
    main()
