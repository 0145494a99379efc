"""Omni-DPO as a module: its numbers against plain transformers, its data, its checks, a run from the command line."""

import copy
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from pairs_data import ROWS, data, omni
from tiny import Memory, rounding, sgd, trainer
from torch.nn.functional import log_softmax
from transformers import AutoModelForCausalLM

from datamodules import BenchmarkDataModule, PairWeightArgs
from lit_uniopd.cli import main
from lit_uniopd.errors import UserError
from lit_uniopd.functional import dpo_loss, omni_dpo_loss
from lit_uniopd.modules import PairLossArgs
from lit_uniopd.modules.preference.losses import Kind
from lit_uniopd.policy import LoraArgs, Policy, PolicyArgs
from lit_uniopd.types import PairBatch


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def by_transformers(model: Any, pairs: Any, side: str) -> torch.Tensor:
    """Mean log-prob of each answer's tokens: one forward each, all logits, nothing of ours."""
    found = []
    for pair in pairs:
        answer = list(getattr(pair, f"{side}_tokens"))
        ids = torch.tensor([[*pair.prompt_tokens, *answer]])
        logps = log_softmax(model(ids).logits[0, :-1].float(), dim=-1)
        steps = range(len(pair.prompt_tokens) - 1, ids.shape[1] - 1)
        found.append(torch.stack([logps[i, ids[0, i + 1]] for i in steps]).mean())
    return torch.stack(found)


@pytest.mark.parametrize("lora", [None, LoraArgs(rank=4)], ids=["full", "lora"])
def test_loss_and_step_are_those_of_transformers_and_the_formula(model_dirs, table, tmp_path, lora):
    """Two steps, so that policy and reference differ in the second."""
    module, pairs = omni(model_dirs["student"], lora=lora), data(table)
    trainer(tmp_path, max_steps=1).fit(module, pairs)
    with torch.no_grad():  # adapters start at zero: one step barely moves them
        for parameter in [p for p in module.parameters() if p.requires_grad]:
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    found, _ = module.compare(PairBatch(pairs.train_pairs))
    module.zero_grad()
    found.loss.backward()

    reference = AutoModelForCausalLM.from_pretrained(model_dirs["student"])
    policy = copy.deepcopy(module.policy.model)
    policy.zero_grad()
    sides = ("chosen", "rejected")
    logps: Any = [by_transformers(policy, pairs.train_pairs, side) for side in sides]
    logps += [by_transformers(reference, pairs.train_pairs, side).detach() for side in sides]
    logps += [torch.tensor([row[f"score_{side}"] for row in ROWS]) for side in sides]
    wanted = omni_dpo_loss(*logps, beta=2.0, tau_ref=1.0)
    wanted.loss.backward()
    torch.testing.assert_close(found.per_pair, wanted.per_pair, rtol=1e-4, atol=1e-5)
    compared = 0
    for ours, theirs in zip(module.policy.model.parameters(), policy.parameters(), strict=True):
        if theirs.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-5)
            compared += 1
    assert compared > 4


@pytest.mark.parametrize("average", [True, False])
@pytest.mark.parametrize("lora", [None, LoraArgs(rank=4)], ids=["full", "lora"])
def test_dpo_begins_at_ln_2_exactly(model_dirs, table, lora, average):
    """Also for a policy that is no longer what its path names: the reference is the policy, not its file."""
    for changed in (False, True):
        module, pairs = (
            omni(model_dirs["student"], lora=lora, loss=PairLossArgs(kind="dpo", average=average)),
            data(table),
        )
        if changed:
            module.policy = Policy.load(PolicyArgs(path=model_dirs["student"], lora=lora), trainable=True)
            with torch.no_grad():
                module.policy.model.get_input_embeddings().weight.add_(0.3)  # type: ignore[operator]
        module.configure_model()
        pairs.answers = module
        pairs.setup("fit")
        for batch in (pairs.train_pairs, pairs.train_pairs[1:2]):
            found, logps = module.compare(PairBatch(batch))
            assert torch.equal(found.per_pair, torch.full((len(batch),), math.log(2)))
            assert logps.reference_P2 is not None
            assert torch.equal(logps.policy_P2, logps.reference_P2)


def test_what_both_answers_begin_with_might_as_well_be_in_the_prompt(model_dirs, table, monkeypatch):
    """DPO on sums: at the shared tokens both gradients cancel, exactly, so that moving them changes nothing."""
    module, pairs = omni(model_dirs["student"], loss=PairLossArgs(kind="dpo", beta=0.5)), data(table)
    module.configure_model()
    pairs.answers = module
    pairs.setup("fit")
    with torch.no_grad():  # so that policy and reference differ
        module.policy.model.get_input_embeddings().weight.mul_(1.5)  # type: ignore[operator]
    scored: list[torch.Tensor] = []
    plain = Policy.token_logps

    def watched(*args: Any, **options: Any) -> Any:
        logps_BT, rest = plain(*args, **options)
        if logps_BT.requires_grad:
            logps_BT.retain_grad()
            scored.append(logps_BT)
        return logps_BT, rest

    monkeypatch.setattr(Policy, "token_logps", watched)
    first = pairs.train_pairs[1]  # "a, b, c" and "abd"
    shared = (5, 7, 9)
    within = replace(first, chosen_tokens=shared + first.chosen_tokens, rejected_tokens=shared + first.rejected_tokens)
    before = replace(first, prompt_tokens=first.prompt_tokens + shared)
    found = []
    for pair in (within, before):
        module.zero_grad()
        loss = module.compare(PairBatch([pair]))[0].loss
        loss.backward()
        gradients = {name: p.grad.clone() for name, p in module.policy.named_parameters() if p.grad is not None}
        found.append((loss.detach(), gradients))
    sums = [logps_BT.detach().sum(dim=1) for logps_BT in scored]
    slopes = scored[0].grad
    assert slopes is not None
    chosen, rejected = slopes
    assert torch.equal(chosen[:3] + rejected[:3], torch.zeros(3))
    assert bool((chosen[: len(within.chosen_tokens)] != 0).all())
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-5, atol=0.5 * rounding(*sums))  # of slope beta
    for name, value in found[0][1].items():
        torch.testing.assert_close(value, found[1][1][name], rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("split", [1, 2])
def test_accumulated_batches_take_the_step_of_one_and_are_logged_together(model_dirs, table, tmp_path, split):
    found = []
    for size in (4, split):
        memory, module = Memory(), omni(model_dirs["student"], loss=PairLossArgs(lam=0.2, tau_good=1.0))
        options: Any = {"accumulate_grad_batches": 4 // size, "logger": memory}
        trainer(tmp_path, max_steps=2, **options).fit(module, data(table, val=None, batch_size=size))
        found.append((memory.values, dict(module.policy.named_parameters())))
    (whole, weights), (parts, others) = found
    assert {"train/loss", "train/w_performance", "train/effective_share", "train/grad_norm"} <= whole.keys()
    for name, value in whole.items():
        if name.startswith("train/"):
            assert parts[name] == pytest.approx(value, rel=1e-3, abs=1e-5), name
    for name, value in weights.items():
        torch.testing.assert_close(others[name], value, rtol=1e-4, atol=1e-6)


def test_a_last_step_of_fewer_batches_is_a_whole_step(model_dirs, table, tmp_path):
    """Lightning divides its three batches by the four that it is said to accumulate."""
    weights = []
    for size, batches, accumulated in ((3, 1, 1), (1, 3, 4)):
        module = omni(model_dirs["student"], optimizer=sgd)
        options: Any = {"accumulate_grad_batches": accumulated, "limit_train_batches": batches}
        fit = trainer(tmp_path, **options)
        fit.fit(module, data(table, val=None, batch_size=size))
        assert fit.global_step == 1
        weights.append(dict(module.policy.named_parameters()))
    start = dict(Policy.load(PolicyArgs(path=model_dirs["student"]), trainable=True).named_parameters())
    assert max(float((value - start[name]).detach().abs().max()) for name, value in weights[0].items()) > 1e-3
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-4, atol=1e-6)


def test_the_first_step_has_no_margin_and_holds_on_to_nothing(model_dirs, table, tmp_path):
    memory = Memory()
    trainer(tmp_path, max_steps=1, logger=memory).fit(omni(model_dirs["student"]), data(table))
    logged = memory.values
    assert logged["train/margin"] == pytest.approx(0, abs=1e-5)
    assert logged["train/chosen_drift"] == pytest.approx(0, abs=1e-5)
    assert logged["train/nll_active"] == 0
    assert 0.4 < logged["train/w_quality"] < 0.9
    assert 0 < logged["train/effective_share"] <= 1


def test_pairs_are_learnt(model_dirs, table, tmp_path):
    module = omni(model_dirs["student"])
    run = trainer(tmp_path, max_epochs=60, limit_val_batches=1.0, num_sanity_val_steps=0, check_val_every_n_epoch=60)
    run.fit(module, data(table))
    assert run.callback_metrics["val/accuracy"] == 1
    assert run.callback_metrics["val/margin"] > 1


@pytest.mark.parametrize("kind", get_args(Kind))
@pytest.mark.parametrize("average", [True, False])
@pytest.mark.thinned(3)
def test_every_loss_trains(model_dirs, table, tmp_path, kind, average):
    module = omni(model_dirs["student"], loss=PairLossArgs(kind=kind, average=average, beta=0.1, performance="focal"))
    run = trainer(tmp_path, max_steps=2)
    run.fit(module, data(table))
    assert torch.isfinite(run.callback_metrics["train/loss"])
    assert bool(module.policy._reference) == (kind not in ("simpo", "orpo"))


def test_summed_dpo_is_dpo_on_sums(model_dirs, table, tmp_path):
    module = omni(model_dirs["student"], loss=PairLossArgs(kind="dpo", beta=0.1))
    pairs = data(table)
    trainer(tmp_path, max_steps=1).fit(module, pairs)
    found, logps = module.compare(PairBatch(pairs.train_pairs))
    assert logps.reference_P2 is not None
    four: Any = (*logps.policy_P2.unbind(1), *logps.reference_P2.unbind(1))
    torch.testing.assert_close(found.per_pair, dpo_loss(*four, beta=0.1).per_pair)


def test_pairs_do_not_depend_on_their_batch(model_dirs, table, tmp_path):
    module, pairs = omni(model_dirs["student"]), data(table)
    trainer(tmp_path, max_steps=1).fit(module, pairs)
    together, _ = module.compare(PairBatch(pairs.train_pairs))
    alone = [module.compare(PairBatch([pair]))[0].per_pair for pair in pairs.train_pairs]
    torch.testing.assert_close(together.per_pair, torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_validation_counts_every_pair_once_whatever_the_batches(model_dirs, table, tmp_path):
    losses = []
    for size in (1, 3):
        (result,) = trainer(tmp_path, limit_val_batches=1.0).validate(
            omni(model_dirs["student"]), data(table, val_batch_size=size), verbose=False
        )
        losses.append(result["val/loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_benchmarks_may_be_all_that_is_validated(model_dirs, tmp_path):
    benchmarks = BenchmarkDataModule(["aime24"], profile="fixture", max_rows=2)
    (values,) = trainer(tmp_path, limit_val_batches=1.0).validate(
        omni(model_dirs["student"]), benchmarks, verbose=False
    )
    assert [name for name in values if name.endswith("aime24@gopd/accuracy")]
    assert not [name for name in values if name.startswith("val/")]


def test_scores_are_asked_for_before_a_model_is_loaded(tmp_path, table, model_dirs, monkeypatch):
    bare = tmp_path / "bare.jsonl"
    bare.write_text("".join(json.dumps({k: v for k, v in row.items() if "score" not in k}) + "\n" for row in ROWS))
    monkeypatch.setattr("lit_uniopd.policy.policy.load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    with pytest.raises(UserError, match="needs scores"):
        trainer(tmp_path).fit(omni(model_dirs["student"]), data(bare))
    monkeypatch.undo()
    plain = PairLossArgs(use_quality=False, use_nll=False)
    trainer(tmp_path, max_steps=1).fit(omni(model_dirs["student"], loss=plain), data(bare))


def test_a_beta_of_means_on_sums_is_told(model_dirs, table, tmp_path, caplog):
    trainer(tmp_path, max_steps=1).fit(omni(model_dirs["student"], loss=PairLossArgs(kind="dpo")), data(table))
    assert "--model.loss.beta 2.0 multiplies sums of log-probs" in caplog.text


def test_an_nll_that_can_never_act_is_told(model_dirs, table, tmp_path, caplog):
    trainer(tmp_path, max_steps=1).fit(omni(model_dirs["student"], loss=PairLossArgs(tau_good=8.0)), data(table))
    assert "no chosen answer scores --model.loss.tau_good 8.0 (the best has 5)" in caplog.text


def test_a_run_from_the_command_line_can_be_resumed_exactly(model_dirs, table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    common = [
        *(
            "fit",
            "--trainer.accelerator",
            "cpu",
            "--trainer.logger",
            "false",
            "--trainer.use_distributed_sampler",
            "false",
        ),
        *("--trainer.enable_progress_bar", "false", "--trainer.default_root_dir", str(tmp_path)),
        *("--model", "lit_uniopd.modules.OmniDPO", "--model.policy.path", model_dirs["student"]),
        *("--data", "datamodules.PreferenceDataModule", "--data.train.path", str(table), "--data.batch_size", "2"),
        *("--trainer.callbacks", "lightning.pytorch.callbacks.ModelCheckpoint"),
        *("--trainer.callbacks.every_n_train_steps", "1", "--trainer.callbacks.save_top_k", "-1"),
        *("--trainer.callbacks.filename", "{step}"),
    ]
    main([*common, "--trainer.max_steps", "4", "--trainer.callbacks.dirpath", str(tmp_path / "whole")])
    main([*common, "--trainer.max_steps", "3", "--trainer.callbacks.dirpath", str(tmp_path / "part")])
    resumed = ["--trainer.callbacks.dirpath", str(tmp_path / "rest"), "--ckpt_path", str(tmp_path / "part/step=3.ckpt")]
    main([*common, "--trainer.max_steps", "4", *resumed])
    whole, rest = (torch.load(tmp_path / f"{name}/step=4.ckpt", weights_only=True) for name in ("whole", "rest"))
    assert whole["state_dict"].keys() == rest["state_dict"].keys()
    for name, value in whole["state_dict"].items():
        torch.testing.assert_close(rest["state_dict"][name], value, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": 0.0}, "--model.loss.beta must be positive"),
        ({"gamma": -1.0}, "--model.loss.gamma must not be negative"),
        ({"label_smoothing": 0.5}, "--model.loss.label_smoothing must be in"),
    ],
)
def test_hyper_parameters_out_of_range_are_named(options, message):
    with pytest.raises(UserError, match=message):
        replace(PairLossArgs(), **options)


def test_weighting_is_the_datamodules(model_dirs, table, tmp_path):
    """The same scores under another eta make another loss."""
    losses = []
    for eta in (0.7, 0.0):
        module, pairs = omni(model_dirs["student"]), data(table, weighting=PairWeightArgs(eta=eta))
        trainer(tmp_path, max_steps=1).fit(module, pairs)
        losses.append(module.compare(PairBatch(pairs.train_pairs))[0].terms["w_quality"])
    assert losses[1].tolist() == [0.5] * 4
    assert losses[0].tolist() == pytest.approx([0.9206, 0.5349, 0.4134, 0.9707], abs=1e-4)
