from collections import Counter

import pytest

from datamodules.samplers import ResumableBatchSampler, shard_batches
from lit_uniopd.errors import UserError


def take(sampler: ResumableBatchSampler, steps: int) -> list[list[int]]:
    """The next batches, over the ends of epochs, asked for as Lightning does: no iterator is run to its end."""
    batches: list[list[int]] = []
    while len(batches) < steps:
        for _, batch in zip(range(min(len(sampler), steps - len(batches))), sampler, strict=False):
            batches.append(batch)
    return batches


def test_in_order_what_is_left_over_opens_the_next_epoch():
    sampler = ResumableBatchSampler([3, 2], batch_size=2, shuffle=False)
    assert len(sampler) == 2  # whole batches in 5 rows
    assert list(sampler) == [[0, 1], [2, 3]]
    assert list(sampler) == [[4, 0], [1, 2]]  # 4 was left over
    assert list(sampler) == [[3, 4], [0, 1]]


def test_ranks_share_each_step():
    ranks = [ResumableBatchSampler([6], batch_size=2, shuffle=False, rank=r, world_size=2) for r in (0, 1)]
    assert [len(rank) for rank in ranks] == [1, 1]
    assert take(ranks[0], 3) == [[0, 2], [4, 0], [2, 4]]
    assert take(ranks[1], 3) == [[1, 3], [5, 1], [3, 5]]


def test_every_row_comes_once_in_a_pass_and_passes_differ():
    sampler = ResumableBatchSampler([20, 12], batch_size=8, seed=3)
    passes = [[row for batch in take(sampler, 4) for row in batch] for _ in range(3)]
    assert all(sorted(rows) == list(range(32)) for rows in passes)
    assert len({tuple(rows) for rows in passes}) == 3
    assert passes[0] != list(range(32))


@pytest.mark.parametrize(
    ("weight", "passes", "times"),
    [
        (2.0, 1, 2),  # twice in each pass
        (0.5, 2, 1),  # every row once in two passes, not some twice and some never
        (0.25, 4, 1),
        (1.5, 2, 3),
    ],
)
def test_weights_say_how_often_a_source_is_seen(weight: float, passes: int, times: int):
    sampler = ResumableBatchSampler([8, 40], weights=[weight, 1.0], batch_size=1, seed=5)
    assert len(sampler) == 8 * weight + 40
    counts = Counter(row for batch in take(sampler, len(sampler) * passes) for row in batch)
    assert [counts[row] for row in range(8)] == [times] * 8
    assert [counts[row] for row in range(8, 48)] == [passes] * 40


def test_the_order_depends_on_the_seed_alone():
    def order(seed: int) -> list[list[int]]:
        return take(ResumableBatchSampler([50], batch_size=5, seed=seed), 30)

    assert order(1) == order(1)
    assert order(1) != order(2)


@pytest.mark.parametrize("stop", [0, 1, 3, 4, 5, 11])  # 4 batches an epoch: within, at and behind its end
@pytest.mark.parametrize("rank", [0, 1])
def test_resumes_exactly(stop: int, rank: int):
    def new(rank: int) -> ResumableBatchSampler:
        return ResumableBatchSampler([7, 10], weights=[1.0, 1.5], batch_size=2, seed=4, rank=rank, world_size=2)

    unbroken = take(new(rank), 16)
    interrupted = new(0)  # checkpoints hold rank 0's state
    take(interrupted, stop)
    resumed = new(rank)
    resumed.load_state_dict(interrupted.state_dict())
    assert take(resumed, 16 - stop) == unbroken[stop:]


def test_unfinished_steps_come_again():
    sampler = ResumableBatchSampler([6], batch_size=2, shuffle=False)
    take(sampler, 2)
    resumed = ResumableBatchSampler([6], batch_size=2, shuffle=False)
    resumed.load_state_dict(sampler.state_dict(unfinished=1))
    assert take(resumed, 1) == [[2, 3]]


def test_resumes_with_another_batch_size_and_number_of_ranks():
    def rows_of_step(ranks: list[ResumableBatchSampler]) -> list[int]:
        return [row for rank in ranks for row in take(rank, 1)[0]]

    single = ResumableBatchSampler([12], batch_size=3, seed=9)
    rows = [row for batch in take(single, 2) for row in batch]
    ranks = [ResumableBatchSampler([12], batch_size=1, seed=9, rank=r, world_size=2) for r in (0, 1)]
    for rank in ranks:
        rank.load_state_dict(single.state_dict())
    rows += [row for _ in range(3) for row in rows_of_step(ranks)]
    assert sorted(rows) == list(range(12))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seed was 0, is 1"),
        ({"sizes": [5]}, r"sizes was \[4\], is \[5\]"),
        ({"weights": [2.0]}, r"weights was \[1.0\], is \[2.0\]"),
        ({"shuffle": False}, "shuffle was True, is False"),
    ],
)
def test_refuses_the_state_of_another_order(change: dict, message: str):
    state = ResumableBatchSampler([4], batch_size=2).state_dict()
    changed = ResumableBatchSampler(**{"sizes": [4], "batch_size": 2, **change})
    with pytest.raises(UserError, match=message):
        changed.load_state_dict(state)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ({"sizes": []}, "sizes"),
        ({"sizes": [3, 0]}, "sizes"),
        ({"weights": [0.0]}, "weights"),
        ({"weights": [1.0, 1.0]}, "weights"),
        ({"rank": 2, "world_size": 2}, "rank"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 3, "world_size": 2}, r"--data.batch_size 3 on 2 rank\(s\) takes 6 rows a step.*only 4"),
    ],
)
def test_names_what_is_wrong(mistake: dict, message: str):
    with pytest.raises((UserError, ValueError), match=message):
        ResumableBatchSampler(**{"sizes": [4], "batch_size": 2, **mistake})


@pytest.mark.parametrize(
    ("size", "world_size", "expected"),
    [
        (5, 1, [[[0, 1], [2, 3], [4]]]),
        (5, 2, [[[0, 2], [4]], [[1, 3], []]]),  # rank 1 is out of rows and gets an empty batch
        (1, 3, [[[0]], [[]], [[]]]),
        (0, 2, [[], []]),
    ],
)
def test_shards_hold_each_row_once_in_equally_many_batches(size: int, world_size: int, expected: list):
    assert [shard_batches(size, 2, rank=rank, world_size=world_size) for rank in range(world_size)] == expected


@pytest.mark.parametrize("rank", [0, 1])
def test_what_comes_next_can_be_asked_for_also_behind_the_end_of_an_epoch(rank: int):
    def new() -> ResumableBatchSampler:
        return ResumableBatchSampler([9], batch_size=2, seed=4, rank=rank, world_size=2)

    order, asked = take(new(), 6), new()
    for step, batch in enumerate(order[1:]):
        assert take(asked, 1) == [order[step]]
        assert asked.upcoming() == asked.upcoming() == batch
