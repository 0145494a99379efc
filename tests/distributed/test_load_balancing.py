"""Pieces of work move until ranks are even, and no further than that takes."""

import random

import pytest

from lit_uniopd.distributed.load_balancing import UNEVEN, load_imbalance, rebalance


def loads(costs: list[list[int]], plan: list[list[tuple[int, int]]]) -> list[int]:
    return [sum(costs[rank][i] for rank, i in pieces) for pieces in plan]


def random_costs(seed: int, ranks: int, pieces: int) -> list[list[int]]:
    draw = random.Random(seed)
    return [[round(draw.lognormvariate(7.3, 0.6)) for _ in range(pieces)] for _ in range(ranks)]


@pytest.mark.parametrize("seed", range(20))
def test_every_piece_is_done_once_and_the_busiest_has_little_more_than_the_mean(seed):
    costs = random_costs(seed, ranks=8, pieces=8)
    plan = rebalance(costs)
    assert sorted(piece for pieces in plan for piece in pieces) == [(r, i) for r in range(8) for i in range(8)]
    before, after = (
        load_imbalance(rank_loads) for rank_loads in ([sum(rank_costs) for rank_costs in costs], loads(costs, plan))
    )
    assert after <= min(before, UNEVEN)
    assert (
        sum(rank != to for to, pieces in enumerate(plan) for rank, _ in pieces) < 40
    )  # dealt out anew, 56 of 64 would move
    assert rebalance(costs) == plan


def test_what_is_even_enough_stays():
    costs = [[100, 104], [100, 100]]
    assert rebalance(costs) == [[(0, 0), (0, 1)], [(1, 0), (1, 1)]]


def test_pieces_move_or_change_places():
    assert rebalance([[4, 4, 4], [4]]) == [[(0, 1), (0, 2)], [(1, 0), (0, 0)]]
    costs = [[9, 5], [6, 2]]
    assert loads(costs, rebalance(costs)) == [11, 11]


@pytest.mark.parametrize("costs", [[[50], [1], [1]], [[0], [0]], [[7], []]])
def test_a_single_piece_stays(costs):
    assert rebalance(costs) == [[(rank, i) for i in range(len(rank_costs))] for rank, rank_costs in enumerate(costs)]
