import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from datamodules import PromptDataModule, SourceArgs
from lit_uniopd.errors import UserError
from lit_uniopd.types import Prompt, PromptBatch

pytestmark = [
    # Lightning, of its own tree walk, in torch 2.13.
    pytest.mark.filterwarnings("ignore:`isinstance\\(treespec, LeafSpec\\)` is deprecated"),
    # Lightning, of every checkpoint of a module that steps its optimizer itself.
    pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization"),
    # They need no callback of the run that wrote the checkpoint.
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks"),
    # The toy runs have neither optimizer nor logger to speak of.
    pytest.mark.filterwarnings("ignore:`training_step` returned `None`"),
]


class Recorder(LightningModule):
    """Writes down the ids of the prompts that it trains on."""

    def __init__(self, fail_at: int | None = None) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.trained: list[list[str]] = []
        self.validated: list[list[str]] = []
        self.fail_at = fail_at

    def training_step(self, batch: PromptBatch, batch_idx: int) -> None:
        assert isinstance(batch, PromptBatch)
        if len(self.trained) == self.fail_at:
            raise RuntimeError("power cut")
        optimizer = self.optimizers()
        assert not isinstance(optimizer, list)
        optimizer.step()
        self.trained.append([prompt.id for prompt in batch])

    def validation_step(self, batch: PromptBatch, batch_idx: int) -> None:
        self.validated.append([prompt.id for prompt in batch])

    def predict_step(self, batch: PromptBatch, batch_idx: int) -> list[str]:
        return [prompt.id for prompt in batch]

    def prompt_length(self, prompt: Prompt) -> int:
        return len(prompt.messages[0]["content"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([self.weight], lr=0.1)


class SaveOnException(Callback):
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        trainer.save_checkpoint(f"{trainer.default_root_dir}/failed.ckpt")


def trainer(tmp_path: Path, **options: Any) -> Trainer:
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    return Trainer(default_root_dir=tmp_path, accelerator="cpu", max_epochs=-1, **{**quiet, **options})


def flat(lists: list[list[Any]]) -> list[Any]:
    return [item for items in lists for item in items]


def table(path: Path, rows: int, **columns: Any) -> str:
    path.write_text(
        "".join(json.dumps({"prompt": "x" * i, "id": f"{path.stem}{i}", **columns}) + "\n" for i in range(1, rows + 1))
    )
    return str(path)


@pytest.fixture
def sources(tmp_path: Path) -> list[SourceArgs]:
    """7 rows, and 8 that are seen every other pass: 11 rows a pass, 3 batches of 3 an epoch."""
    return [SourceArgs(table(tmp_path / "a.jsonl", 7)), SourceArgs(table(tmp_path / "b.jsonl", 8), weight=0.5)]


def fit(
    tmp_path: Path, datamodule: PromptDataModule, steps: int, *, ckpt_path: Path | None = None, **options: Any
) -> list[list[str]]:
    module = Recorder()
    run = trainer(tmp_path, max_steps=steps, **options)
    run.fit(module, datamodule=datamodule, ckpt_path=ckpt_path)
    run.save_checkpoint(tmp_path / f"{steps}.ckpt")
    return module.trained


@pytest.mark.parametrize("stop", [1, 2, 3, 4, 5, 6])  # an epoch has 3 batches
@pytest.mark.parametrize("options", [{}, {"val_check_interval": 1}, {"reload_dataloaders_every_n_epochs": 1}])
@pytest.mark.thinned(3)
def test_an_interrupted_run_goes_on_as_if_it_had_not_stopped(
    tmp_path: Path, sources: list[SourceArgs], stop: int, options: dict
):
    def data() -> PromptDataModule:
        return PromptDataModule(sources, val=sources[0], batch_size=3, seed=1)

    unbroken = fit(tmp_path, data(), 8, **options)
    assert len(unbroken) == 8
    assert fit(tmp_path, data(), stop, **options) == unbroken[:stop]
    assert fit(tmp_path, data(), 8, ckpt_path=tmp_path / f"{stop}.ckpt", **options) == unbroken[stop:]


def test_reloading_the_loader_does_not_begin_again(tmp_path: Path, sources: list[SourceArgs]):
    once = fit(tmp_path, PromptDataModule(sources, batch_size=3), 8)
    assert fit(tmp_path, PromptDataModule(sources, batch_size=3), 8, reload_dataloaders_every_n_epochs=1) == once


def test_every_checkpoint_on_the_way_can_be_resumed(tmp_path: Path, sources: list[SourceArgs]):
    module = Recorder()
    save = ModelCheckpoint(tmp_path / "saved", "{step}", every_n_train_steps=1, save_top_k=-1)
    run = trainer(tmp_path, max_steps=7, enable_checkpointing=True, callbacks=[save])
    run.fit(module, datamodule=PromptDataModule(sources, batch_size=3))
    for stop in range(1, 7):
        resumed = fit(
            tmp_path, PromptDataModule(sources, batch_size=3), 7, ckpt_path=tmp_path / f"saved/step={stop}.ckpt"
        )
        assert resumed == module.trained[stop:]


@pytest.mark.parametrize("fail_at", [0, 2, 4])
def test_a_batch_that_failed_comes_again(tmp_path: Path, sources: list[SourceArgs], fail_at: int):
    unbroken = fit(tmp_path, PromptDataModule(sources, batch_size=3), 6)
    failing = Recorder(fail_at)
    run = trainer(tmp_path, max_steps=6, callbacks=[SaveOnException()])
    with pytest.raises(RuntimeError, match="power cut"):
        run.fit(failing, datamodule=PromptDataModule(sources, batch_size=3))
    resumed = fit(tmp_path, PromptDataModule(sources, batch_size=3), 6, ckpt_path=tmp_path / "failed.ckpt")
    assert failing.trained + resumed == unbroken


def test_a_run_shortened_by_limit_train_batches_still_sees_all(tmp_path: Path, sources: list[SourceArgs]):
    trained = fit(tmp_path, PromptDataModule(sources[0], batch_size=1), 7, limit_train_batches=2)
    assert sorted(flat(trained)) == [f"a{i}" for i in range(1, 8)]


def test_a_resumed_run_needs_the_data_it_stopped_in(tmp_path: Path, sources: list[SourceArgs]):
    fit(tmp_path, PromptDataModule(sources, batch_size=3), 2)
    sources[1].limit = 5
    with pytest.raises(UserError, match=r"sizes was \[7, 8\], is \[7, 5\]"):
        fit(tmp_path, PromptDataModule(sources, batch_size=3), 4, ckpt_path=tmp_path / "2.ckpt")


def test_ranks_train_on_different_prompts_and_validate_each_once(
    tmp_path: Path, sources: list[SourceArgs], monkeypatch: pytest.MonkeyPatch
):
    batches_of: list[list[list[str]]] = []
    for rank in (0, 1):
        monkeypatch.setattr(Trainer, "distributed_sampler_kwargs", {"rank": rank, "num_replicas": 2})
        data = PromptDataModule(sources, val=sources[0], batch_size=2, seed=1)
        data.trainer = trainer(tmp_path)
        data.setup()
        batches_of.append([[prompt.id for prompt in batch] for batch in data.train_dataloader()])
        val = data.val_dataloader()
        # Seven rows: rank 0 takes the odd ids, rank 1 the even ones.
        expected = [[["a1", "a3"], ["a5", "a7"]], [["a2", "a4"], ["a6"]]]
        assert [[prompt.id for prompt in batch] for batch in val] == expected[rank]
    assert [len(batches) for batches in batches_of] == [2, 2]  # 11 rows in steps of 2 x 2
    ids = flat(flat(batches_of))
    assert len(set(ids)) == len(ids) == 8


def test_the_seed_of_the_run_orders_the_prompts(
    tmp_path: Path, sources: list[SourceArgs], monkeypatch: pytest.MonkeyPatch
):
    def order(seed: int | None) -> list[list[str]]:
        data = PromptDataModule(sources, batch_size=3, seed=seed)
        data.setup("fit")
        return [[prompt.id for prompt in batch] for batch in data.train_dataloader()]

    monkeypatch.setenv("PL_GLOBAL_SEED", "5")
    assert order(None) == order(5)
    assert order(None) != order(6)


def test_validates_and_predicts_every_prompt_once(tmp_path: Path, sources: list[SourceArgs]):
    data = PromptDataModule(val=sources[0], batch_size=3, val_batch_size=4)
    module = Recorder()
    run = trainer(tmp_path)
    run.validate(module, datamodule=data, verbose=False)
    assert module.validated == [["a1", "a2", "a3", "a4"], ["a5", "a6", "a7"]]
    assert run.predict(module, datamodule=data) == module.validated
    data = PromptDataModule(val=sources[0], predict=sources[1], batch_size=8)
    assert run.predict(module, datamodule=data) == [[f"b{i}" for i in range(1, 9)]]


def test_fits_without_validation_data(tmp_path: Path, sources: list[SourceArgs]):
    assert len(fit(tmp_path, PromptDataModule(sources, batch_size=3), 2)) == 2


def test_too_long_prompts_are_dropped_counted_and_logged(
    tmp_path: Path, sources: list[SourceArgs], caplog: pytest.LogCaptureFixture
):
    data = PromptDataModule(sources, val=sources[0], batch_size=3, max_prompt_tokens=5)
    with caplog.at_level("INFO", logger="lightning.pytorch"):
        trainer(tmp_path, max_steps=1).fit(Recorder(), datamodule=data)
    assert [prompt.id for prompt in data.train_prompts] == [f"{s}{i}" for s in "ab" for i in range(1, 6)]
    assert [prompt.id for prompt in data.val_prompts] == [f"a{i}" for i in range(1, 6)]
    assert [(r.rows, r.too_long, r.longest, r.kept) for r in data.report["train"]] == [(7, 2, 7, 5), (8, 3, 8, 5)]
    logged = [record.getMessage() for record in caplog.records]
    assert any(
        m.startswith("--data.train[1]")
        and m.endswith("b.jsonl: 8 rows, 3 dropped as too long (longest 8 tokens), 5 without an answer; 5 prompts")
        for m in logged
    )


def test_in_a_notebook_lengths_are_measured_by_a_function(sources: list[SourceArgs]):
    data = PromptDataModule(sources[0], batch_size=1, max_prompt_tokens=8)
    data.prompt_length = lambda prompt: 2 * len(prompt.messages[0]["content"])
    data.setup()
    assert [prompt.id for prompt in data.train_prompts] == ["a1", "a2", "a3", "a4"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": None}, "There are no prompts to fit with; name a file or data set by --data.train.path"),
        ({"batch_size": 0}, "--data.batch_size must be at least 1, not 0"),
        ({"val_batch_size": 0}, "--data.val_batch_size must be at least 1"),
        ({"max_prompt_tokens": 0}, "--data.max_prompt_tokens must be at least 1"),
        ({"max_prompt_tokens": 9}, "--data.max_prompt_tokens needs the student's tokenizer"),
        ({"batch_size": 8}, "--data.batch_size 8 on 1 rank.s. takes 8 rows a step.*only 7"),
    ],
)
def test_a_mistake_is_named(sources: list[SourceArgs], options: dict, message: str):
    def prepare() -> None:
        data = PromptDataModule(**{"train": sources[0], "batch_size": 2, **options})
        data.setup("fit")
        data.train_dataloader()

    with pytest.raises(UserError, match=message):
        prepare()


def test_test_prompts_are_those_of_val_unless_given(sources: list[SourceArgs]):
    with pytest.raises(UserError, match=r"There are no prompts to test with; name a file or data set by --data\.test"):
        PromptDataModule(sources).setup("test")
    for data in (PromptDataModule(sources, val=sources[0]), PromptDataModule(sources, sources[1], test=sources[0])):
        data.setup("test")
        assert [p.id for batch in data.test_dataloader() for p in batch] == [p.id for p in data.test_prompts]
        assert {p.id[0] for p in data.test_prompts} == {"a"}


def test_a_weight_must_be_positive(sources: list[SourceArgs]):
    sources[1].weight = 0.0
    with pytest.raises(UserError, match=r"--data.train\[1\].weight must be positive, not 0.0"):
        PromptDataModule(sources)


def test_dropping_all_prompts_is_an_error(sources: list[SourceArgs]):
    data = PromptDataModule(sources[0], max_prompt_tokens=3)
    data.prompt_length = lambda prompt: 4
    with pytest.raises(
        UserError, match=r"--data.max_prompt_tokens 3 drops all 7 prompts of --data.train.path .*of up to 4 tokens"
    ):
        data.setup("fit")


def test_overfit_batches_is_refused(tmp_path: Path, sources: list[SourceArgs]):
    with pytest.raises(UserError, match=r"--trainer.overfit_batches .*--data.train.limit"):
        fit(tmp_path, PromptDataModule(sources, batch_size=3), 2, overfit_batches=1)
