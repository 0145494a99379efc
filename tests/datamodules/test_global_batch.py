"""A step of as many rows on any number of processes."""

from itertools import chain
from types import SimpleNamespace
from typing import Any

import pytest

from datamodules import PreferenceDataModule, PromptDataModule
from datamodules.global_batch import BatchShare, divide_step, share_of_rank
from datamodules.samplers import ResumableBatchSampler
from lit_uniopd.distributed.preemption import rescale_progress
from lit_uniopd.errors import UserError


def fit(*, manual: bool = False, accumulate: int = 1) -> Any:
    module = SimpleNamespace(automatic_optimization=not manual)
    return SimpleNamespace(lightning_module=module, accumulate_grad_batches=accumulate)


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
@pytest.mark.parametrize("largest", [1, 3, 8, 1000, None])
def test_a_step_has_all_rows_in_batches_of_one_size(ranks, largest):
    share = share_of_rank(48, ranks, largest)
    assert share.rows * share.passes * ranks == 48
    assert share.rows <= (largest or 48)
    assert largest is not None or share.passes == 1


def test_batches_are_as_large_as_may_be():
    assert share_of_rank(128, 1, 2) == BatchShare(rows=2, passes=64)
    assert share_of_rank(128, 8, 5) == BatchShare(rows=4, passes=4)
    assert share_of_rank(14, 2, 5) == BatchShare(rows=1, passes=7)


@pytest.mark.parametrize(("rows", "example"), [(64, 63), (1, 3), (100, 99)])
def test_what_cannot_be_divided_is_refused_with_a_number_that_can(rows, example):
    with pytest.raises(
        UserError, match=rf"global_batch_size {rows} cannot be divided over 3 .* 3, {example} for example"
    ):
        share_of_rank(rows, 3, None)


def test_the_trainer_accumulates_what_a_pass_leaves_and_again_in_its_next_fit():
    trainer, before = fit(), 1
    for ranks, passes in ((2, 8), (4, 4), (2, 8)):
        assert divide_step(trainer, 64, 4, ranks, before) == BatchShare(4, passes)
        assert trainer.accumulate_grad_batches == passes
        before = passes


def test_a_rollout_is_taken_at_once():
    trainer = fit(manual=True)
    assert divide_step(trainer, 64, None, 2) == BatchShare(32, 1)
    assert trainer.accumulate_grad_batches == 1


def test_two_words_for_one_number_are_refused():
    with pytest.raises(UserError, match=r"^--data\.batch_size 8 and --data\.global_batch_size 64 both say .*null"):
        divide_step(fit(manual=True), 64, 8, 2)
    with pytest.raises(UserError, match=r"^--trainer\.accumulate_grad_batches 3 is computed where"):
        divide_step(fit(accumulate=3), 64, 8, 2)


@pytest.mark.parametrize("kind", [PromptDataModule, PreferenceDataModule])
def test_without_a_trainer_a_batch_is_no_more_than_a_step(kind):
    assert (kind().batch_size, kind(global_batch_size=3).batch_size) == (8, 3)
    assert (kind(batch_size=2, global_batch_size=64).batch_size, kind(batch_size=5).val_batch_size) == (2, 5)
    with pytest.raises(UserError, match=r"--data\.global_batch_size must be at least 1, not 0"):
        kind(global_batch_size=0)


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_an_epoch_has_whole_steps_of_the_same_rows_on_any_number_of_ranks(ranks):
    share = share_of_rank(8, ranks, 2)
    samplers = [
        ResumableBatchSampler(
            [45], batch_size=share.rows, passes=share.passes, shuffle=False, rank=rank, world_size=ranks
        )
        for rank in range(ranks)
    ]
    assert [len(sampler) for sampler in samplers] == [5 * share.passes] * ranks
    epochs = [zip(*map(list, samplers), strict=True) for _ in range(2)]
    rows = [sorted(row for batch in batches for row in batch) for epoch in epochs for batches in epoch]
    steps = [sorted(chain(*rows[i : i + share.passes])) for i in range(0, len(rows), share.passes)]
    assert steps == [sorted(row % 45 for row in range(start, start + 8)) for start in range(0, 80, 8)]


def test_too_few_rows_for_a_step_are_named_by_the_option_that_was_given():
    with pytest.raises(
        UserError, match=r"^--data\.global_batch_size 8 on 2 rank\(s\) takes 8 rows a step, but .* only 7"
    ):
        ResumableBatchSampler([7], batch_size=2, passes=2, world_size=2)


def test_progress_is_counted_in_batches_of_the_new_size():
    counts = {"ready": 6, "started": 6, "processed": 6, "completed": 6}
    loop = {"epoch_loop.batch_progress": {"total": {**counts, "ready": 26}, "current": dict(counts)}}
    rescale_progress(loop, before=2, now=4)
    assert loop["epoch_loop.batch_progress"]["current"] == dict.fromkeys(counts, 3)
    assert loop["epoch_loop.batch_progress"]["total"]["ready"] == 13
