import pytest
import torch
from tiny import Prompts, adam, prompts, trainer
from transformers import get_cosine_schedule_with_warmup

from lit_uniopd.modules import SFT
from lit_uniopd.policy import PolicyArgs
from lit_uniopd.schedules import WarmupCosine


def learning_rates(make, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = make(optimizer)
    rates = []
    for _ in range(steps + 1):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return rates


@pytest.mark.parametrize(("ratio", "steps"), [(0.1, 50), (0.1, 7), (0.0, 9), (0.5, 4)])
def test_it_is_the_schedule_of_transformers(ratio, steps):
    warmup = -(-int(1000 * ratio) * steps // 1000)
    actual = learning_rates(lambda optimizer: WarmupCosine(optimizer, ratio, steps), steps)
    expected = learning_rates(lambda optimizer: get_cosine_schedule_with_warmup(optimizer, warmup, steps), steps)
    assert actual == pytest.approx(expected, abs=1e-12)


def test_the_trainer_gives_the_length(model_dirs, tmp_path):
    module = SFT(
        PolicyArgs(path=model_dirs["student"]),
        optimizer=adam,
        lr_scheduler=lambda optimizer: WarmupCosine(optimizer, 0.0),
    )
    run = trainer(tmp_path, max_epochs=3, accumulate_grad_batches=2)
    run.fit(module, Prompts(prompts(16)))  # 4 batches, 2 steps an epoch
    (schedule,) = run.lr_scheduler_configs
    assert schedule.scheduler.total_steps == run.global_step == 6  # type: ignore[attr-defined]
    assert schedule.scheduler.get_last_lr()[0] == pytest.approx(0, abs=1e-12)


def test_a_ratio_out_of_range_is_named():
    with pytest.raises(ValueError, match="warmup_ratio is 1"):
        learning_rates(lambda optimizer: WarmupCosine(optimizer, 1.0, 5), 1)


def test_an_unknown_length_is_an_error():
    with pytest.raises(RuntimeError, match="total_steps"):
        learning_rates(lambda optimizer: WarmupCosine(optimizer, 0.1), 1)
