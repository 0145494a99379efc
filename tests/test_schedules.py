"""The rates of a run, whatever tells its length, and that a resumed run goes on in them."""

from typing import Any

import pytest
import torch
from lightning import Callback
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from tiny import Prompts, adam, module, prompts, trainer
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader, IterableDataset
from transformers import get_cosine_schedule_with_warmup

from lit_uniopd.errors import UserError
from lit_uniopd.modules import SFT
from lit_uniopd.monitoring.weighted_means import WeightedMeans
from lit_uniopd.policy import PolicyArgs
from lit_uniopd.schedules import WarmupCosine
from lit_uniopd.types import PromptBatch


def learning_rates(make, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = make(optimizer)
    rates = []
    for _ in range(steps + 1):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return rates


class Rates(Callback):
    """The rate of each optimizer step, as the optimizer has it while it steps."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.rates.append(optimizer.param_groups[0]["lr"])


def fit(model: Any, data: Any, root: Any, **options: Any) -> tuple[Any, list[float]]:
    rates = Rates()
    callbacks = [rates, *options.pop("callbacks", [])]
    run = trainer(root, callbacks=callbacks, **options)
    run.fit(model, data)
    return run, rates.rates


def sft(path: str, ratio: float = 0.0, total_steps: int | None = None) -> SFT:
    return SFT(PolicyArgs(path=path), optimizer=adam, lr_scheduler=lambda o: WarmupCosine(o, ratio, total_steps))


def total_steps(run: Any) -> int:
    (config,) = run.lr_scheduler_configs
    return config.scheduler.total_steps


@pytest.mark.parametrize(("ratio", "steps"), [(0.1, 50), (0.1, 7), (0.0, 9), (0.5, 4)])
def test_behind_its_warm_up_it_is_the_schedule_of_transformers(ratio, steps):
    warmup = -(-int(1000 * ratio) * steps // 1000)
    actual = learning_rates(lambda optimizer: WarmupCosine(optimizer, ratio, steps), steps)
    expected = learning_rates(lambda optimizer: get_cosine_schedule_with_warmup(optimizer, warmup, steps), steps)
    assert actual[warmup:] == pytest.approx(expected[warmup:], abs=1e-12)
    assert actual[:warmup] == pytest.approx(expected[1 : warmup + 1], abs=1e-12)  # theirs wastes a step at rate 0


@pytest.mark.parametrize("ratio", [0.0, 0.03, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("steps", [1, 2, 5, 33])
def test_every_step_has_a_rate_and_none_behind_the_end(ratio, steps):
    rates = learning_rates(lambda optimizer: WarmupCosine(optimizer, ratio, steps), 3 * steps)
    assert all(rate > 0 for rate in rates[:steps])
    assert max(rates) == 2.0
    assert rates[steps:] == [0.0] * (2 * steps + 1)


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"max_epochs": 3}, 15),
        ({"max_epochs": 3, "accumulate_grad_batches": 2}, 9),  # the last batch of 5 steps alone
        ({"max_epochs": 3, "callbacks": [GradientAccumulationScheduler({0: 4, 1: 2})]}, 2 + 3 + 3),
        ({"max_epochs": 2, "limit_train_batches": 3}, 6),
        ({"max_epochs": 2, "limit_train_batches": 0.8, "accumulate_grad_batches": 4}, 2),
        ({"max_epochs": -1, "max_steps": 7}, 7),
        ({"max_epochs": 4, "max_steps": 7, "accumulate_grad_batches": 2}, 7),
        ({"max_epochs": 1, "max_steps": 70}, 5),
        ({"fast_dev_run": 2}, 2),
    ],
)
@pytest.mark.thinned(3)
def test_the_trainer_gives_the_length(model_dirs, tmp_path, options, steps):
    """18 prompts: 5 batches an epoch."""
    run, rates = fit(sft(model_dirs["student"]), Prompts(prompts(18)), tmp_path, **options)
    assert total_steps(run) == run.global_step == steps
    expected = learning_rates(lambda optimizer: get_cosine_schedule_with_warmup(optimizer, 0, steps), steps)
    assert rates == pytest.approx([rate * 1e-3 / 2 for rate in expected[:-1]], rel=1e-9)


@pytest.mark.parametrize(
    ("options", "steps"),
    [({"max_epochs": 2}, 12), ({"max_epochs": -1, "max_steps": 5}, 6), ({"max_epochs": 9, "max_steps": 7}, 9)],
)
def test_several_updates_of_a_rollout_are_as_many_steps(model_dirs, tmp_path, options, steps):
    """2 rollouts an epoch, of three updates each; a rollout that has begun is used up."""
    model = module(model_dirs, updates_per_rollout=3, lr_scheduler=lambda o: WarmupCosine(o, 0.25))
    rates, step = [], model.optimizer_step_on

    def watched(*args: Any) -> WeightedMeans:
        rates.append(model.optimizers().param_groups[0]["lr"])  # type: ignore[union-attr]
        return step(*args)

    model.optimizer_step_on = watched  # type: ignore[method-assign]
    run, _ = fit(model, Prompts(prompts(8)), tmp_path, **options)
    assert total_steps(run) == run.global_step == len(rates) == steps
    peak = rates.index(max(rates))
    assert rates[0] == pytest.approx(0.1 / -(-steps // 4))
    assert rates == sorted(rates[:peak]) + sorted(rates[peak:], reverse=True)
    assert min(rates) > 0


def test_the_rate_that_is_logged_is_the_one_that_was_trained_with(model_dirs, tmp_path):
    model = module(model_dirs, lr_scheduler=lambda o: WarmupCosine(o, 0.5))
    run, _ = fit(model, Prompts(prompts(4)), tmp_path, max_epochs=2)
    assert float(run.callback_metrics["train/lr"]) == pytest.approx(0.1)


class Unsized(Prompts):
    """Ten batches of a loader that does not say so."""

    def train_dataloader(self) -> DataLoader:
        class Rows(IterableDataset):
            def __iter__(rows):  # pyright: ignore[reportSelfClsParameterName]
                return iter([PromptBatch(self.train_prompts)] * 10)

        return DataLoader(Rows(), batch_size=None)


@pytest.mark.parametrize("data", [Prompts, Unsized])
def test_a_run_without_a_known_end_is_refused(model_dirs, tmp_path, data, monkeypatch):
    limits = {"max_epochs": -1, "max_time": "00:00:10:00"} if data is Prompts else {"max_epochs": 2}
    if data is Prompts:
        monkeypatch.setattr("lit_uniopd.policy.policy.load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    with pytest.raises(UserError, match=r"give --trainer\.max_steps, or --model\.lr_scheduler\.init_args\.total_steps"):
        fit(sft(model_dirs["student"]), data(prompts(4)), tmp_path, **limits)


@pytest.mark.parametrize("given", ["max_steps", "total_steps"])
def test_either_remedy_works(model_dirs, tmp_path, given):
    limits = {"max_steps": 3} if given == "max_steps" else {"limit_train_batches": 3}
    model = sft(model_dirs["student"], total_steps=None if given == "max_steps" else 3)
    run, rates = fit(model, Unsized(prompts(4)), tmp_path, max_epochs=1, **limits)
    assert total_steps(run) == len(rates) == 3


def test_steps_behind_the_end_are_told(model_dirs, tmp_path):
    with pytest.warns(
        UserWarning, match="reaches 0 after total_steps 2, and the run takes 5: the last 3 train nothing"
    ):
        fit(sft(model_dirs["student"], total_steps=2), Prompts(prompts(18)), tmp_path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda o: WarmupCosine(o, 1.0), "--model.lr_scheduler: warmup_ratio is 1"),
        (lambda o: WarmupCosine(o, 0.1, 0), "--model.lr_scheduler: total_steps is 0"),
        (lambda o: torch.optim.lr_scheduler.OneCycleLR(o, max_lr=1.0), "--model.lr_scheduler: You must define either"),
        (ReduceLROnPlateau, "ReduceLROnPlateau waits for a score"),
    ],
)
def test_mistakes_are_named_before_a_model_is_loaded(model_dirs, tmp_path, make, message, monkeypatch):
    monkeypatch.setattr("lit_uniopd.policy.policy.load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    model = SFT(PolicyArgs(path=model_dirs["student"]), optimizer=adam, lr_scheduler=make)
    with pytest.raises(UserError, match=message):
        fit(model, Prompts(prompts(4)), tmp_path)


def test_an_unknown_length_is_an_error():
    with pytest.raises(RuntimeError, match="total_steps"):
        learning_rates(lambda optimizer: WarmupCosine(optimizer, 0.1), 1)


def test_a_prolonged_run_follows_its_own_length_and_says_so():
    def new(steps: int) -> WarmupCosine:
        return WarmupCosine(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0), 0.0, steps)

    short, long, same = new(4), new(8), new(4)
    for _ in range(4):
        short.optimizer.step()
        short.step()
    long.load_state_dict(short.state_dict())
    with pytest.warns(UserWarning, match=r"at step 4 of this run's schedule.*total_steps was 4, is 8"):
        long.begin(8)
    assert long.get_last_lr() == [long.optimizer.param_groups[0]["lr"]] == [pytest.approx(1.0)]  # half of the cosine
    same.load_state_dict(short.state_dict())
    same.begin(4)
    assert same.get_last_lr() == short.get_last_lr() == [0.0]
