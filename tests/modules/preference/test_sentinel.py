"""C-DPO: the official numbers, and that the context is what its place says."""

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny import rounding, sgd, trainer

from datamodules import SentencePairDataModule
from datamodules.sentence_pairs import SentencePairSourceArgs
from lit_uniopd.functional.preference import dpo_loss
from lit_uniopd.modules import PairLossArgs, PreferenceModule, Sentinel
from lit_uniopd.modules.preference.losses import PairLogps, pair_loss
from lit_uniopd.playground.untrained import write_tiny_vision
from lit_uniopd.policy import LoraArgs, Policy, PolicyArgs
from lit_uniopd.types import EncodedPair, PairBatch, PreferencePair, Prompt

GOLDEN = Path(__file__).parents[2] / "golden"
CDPO = json.loads((GOLDEN / "sentinel_cdpo.json").read_text())
MASKS = json.loads((GOLDEN / "sentinel_label_mask.json").read_text())
SIDES = ("policy_chosen", "policy_rejected", "reference_chosen", "reference_rejected")
NAN = torch.tensor([math.nan], dtype=torch.float64)


@pytest.mark.parametrize("case", CDPO["cases"], ids=lambda case: case["name"])
def test_official_losses_and_gradients(case):
    inputs, outputs = case["inputs"], case["outputs"]
    given = {side: torch.tensor(inputs[f"{side}_logps"], dtype=torch.float64) for side in SIDES}
    policy_P2 = torch.stack([given["policy_chosen"], given["policy_rejected"]], dim=1).requires_grad_()
    reference_P2 = torch.stack([given["reference_chosen"], given["reference_rejected"]], dim=1)
    logps = PairLogps(policy_P2, torch.full(policy_P2.shape, 7), reference_P2)
    loss = Sentinel(PolicyArgs(path="-")).loss
    assert loss.beta == inputs["beta"]
    scores = NAN.expand(len(policy_P2))
    found = pair_loss(loss, logps, score_chosen=scores, score_rejected=scores, quality=scores)
    found.loss.backward()
    close: Any = {"rtol": 1e-9, "atol": 1e-12}
    torch.testing.assert_close(found.per_pair.tolist(), outputs["per_sample_loss"], **close)
    torch.testing.assert_close(float(found.loss.detach()), outputs["loss"], **close)
    for name in ("chosen_rewards", "rejected_rewards"):
        torch.testing.assert_close(getattr(found, name).tolist(), outputs[name], **close)
    assert found.correct.float().tolist() == outputs["accuracies"]
    assert policy_P2.grad is not None
    for column, side in enumerate(("chosen", "rejected")):
        expected = outputs[f"grad_loss_wrt_policy_{side}_logps"]
        torch.testing.assert_close(policy_P2.grad[:, column].tolist(), expected, **close)


@pytest.mark.parametrize("name", ["empty_context_recommended", "empty_context_released_code"])
def test_whether_a_sentence_without_context_ends_is_a_switch(name, model_dirs):
    case = next(case for case in MASKS["cases"] if case["name"] == name)
    ends = case["inputs"]["append_eos"]
    assert (case["outputs"]["chosen_labels"][-1] == 2) == ends  # 2 is the file's end token
    module = Sentinel(PolicyArgs(path=model_dirs["student"]), end_without_context=ends)
    eos = module.answer_end.token
    asked = {"role": "user", "content": "what?"}
    alone = module.encode_answer(Prompt("p", (asked,)), "a cat.")[1]
    behind = module.encode_answer(Prompt("p", (asked, {"role": "assistant", "content": "hm."})), "a cat.")[1]
    assert (alone[-1] == eos) == ends
    assert eos not in behind


def test_masking_the_context_changes_no_loss_and_sums_are_no_means():
    masked, sums = (row for row in CDPO["token_level"][:2])
    inputs = masked["inputs"]
    for name, with_context in (("context_masked", False), ("context_included", True)):
        values = []
        for side in SIDES:
            who, answer = side.split("_")
            tokens = inputs[f"{answer}_logps"][who] + (inputs["context_logps"][who] if with_context else [])
            values.append(torch.tensor([sum(tokens)], dtype=torch.float64))
        expected = masked["outputs"][name]
        found = dpo_loss(*values, beta=inputs["beta"])  # type: ignore[arg-type]
        assert float(found.loss) == pytest.approx(expected["loss"], abs=1e-12)
        assert float(found.chosen_rewards) == pytest.approx(expected["chosen_rewards"][0], abs=1e-12)
    lengths = torch.tensor([[3, 4]])
    columns = {w: [sum(inputs[f"{a}_logps"][w]) for a in ("chosen", "rejected")] for w in ("policy", "reference")}
    logps = PairLogps(*(torch.tensor([columns["policy"]]), lengths, torch.tensor([columns["reference"]])))
    for average, name in ((None, "loss_with_sum"), (True, "loss_with_mean")):
        loss = PairLossArgs(kind="dpo", beta=0.1, average=average)
        found = pair_loss(loss, logps, score_chosen=NAN, score_rejected=NAN, quality=NAN)
        assert float(found.loss) == pytest.approx(sums["outputs"][name], abs=1e-6)


def mask_cases():
    """Those of the files that our loader is to reproduce: no token is searched for, cut or added."""
    cases = [case for case in MASKS["cases"] if "chosen_labels" in case["outputs"] and not case["inputs"]["append_eos"]]
    trap = next(case for case in MASKS["cases"] if case["name"] == "trap_cut_at_last_bare_period")
    start = trap["inputs"]["prompt_ids"] + trap["inputs"]["context_ids"]
    rows = {f"{side}_input_ids": start + trap["inputs"][f"{side}_ids"] for side in ("chosen", "rejected")}
    return [*cases, {**trap, "outputs": {**trap["outputs"]["recommended"], **rows}}]


@pytest.mark.parametrize("case", mask_cases(), ids=lambda case: case["name"])
def test_the_sentences_tokens_are_the_labels(case, model_dirs):
    """Our sums against the model's own logits at the official labels."""
    policy = Policy.load(PolicyArgs(path=model_dirs["student"]), trainable=True)
    module = Sentinel(PolicyArgs(path="-"))
    module.policy = policy
    inputs, outputs = case["inputs"], case["outputs"]
    prefix = tuple(inputs["prompt_ids"] + inputs["context_ids"])
    shown = PreferencePair(Prompt("p", ()), "", "")
    pair = EncodedPair(shown, prefix, tuple(inputs["chosen_ids"]), tuple(inputs["rejected_ids"]))
    found = module._scored(policy, PairBatch([pair]))[0]
    for column, side in enumerate(("chosen", "rejected")):
        ids, labels = (torch.tensor(outputs[f"{side}_{name}"]) for name in ("input_ids", "labels"))
        logps = policy.model(ids[None]).logits[0, :-1].log_softmax(dim=-1)
        counted = labels[1:] != -100
        expected = logps[counted].gather(1, labels[1:][counted][:, None]).sum()
        torch.testing.assert_close(found[column], expected, rtol=1e-5, atol=1e-5)


def test_masking_the_context_changes_no_loss_and_no_gradient_of_a_model(model_dirs):
    """The context in the prompt (C-DPO), and as the beginning of both answers (DPO over context and sentence)."""
    case = next(case for case in MASKS["cases"] if case["name"] == "repeated_context_text_inside_sentence")["inputs"]
    prompt, context = tuple(case["prompt_ids"]), tuple(case["context_ids"])
    sides = tuple(case["chosen_ids"]), tuple(case["rejected_ids"])
    shown = PreferencePair(Prompt("p", ()), "", "")
    losses, gradients, rewards, sums = [], [], [], []
    for pair in (
        EncodedPair(shown, prompt + context, *sides),
        EncodedPair(shown, prompt, *(context + side for side in sides)),
    ):
        module = Sentinel(PolicyArgs(path=model_dirs["student"]), optimizer=sgd, seed=1)
        module.configure_model()
        torch.manual_seed(0)
        with torch.no_grad():
            for parameter in module.policy.model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        found, logps = module.compare(PairBatch([pair]))
        found.loss.backward()
        losses.append(float(found.loss.detach()))
        sums.append(logps.policy_P2.detach())
        rewards.append(float(found.chosen_rewards))
        gradients.append(torch.cat([p.grad.flatten() for p in module.policy.model.parameters() if p.grad is not None]))
    close = module.loss.beta * rounding(*sums)  # the loss has at most the slope beta in a sum
    assert losses[0] == pytest.approx(losses[1], abs=close) != pytest.approx(math.log(2), abs=1e-3)
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=rounding(*gradients, *sums))
    assert rewards[0] != pytest.approx(rewards[1], abs=1e-3), "but what is logged"


ROWS = [
    ("what is here? <image>", "A dog is here.", "The dog sits.", "A cat sits!"),
    ("A dog is here. what is here? <image>", "A dog is here. It is 3.5 m.", 'It says "no."', "Is it?"),
    ("say more <image>", "Mr. X. is here!\nSo.", "Yes.\n", "No, he is not."),
]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    Image.effect_noise((60, 40), 80).convert("RGB").save(tmp_path / "one.png")
    keys = ("prompt", "context", "chosen", "rejected")
    rows = [{**dict(zip(keys, row, strict=True)), "images": ["one.png"]} for row in ROWS]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_tiny_vision(tmp_path / "model", 0)
    return path


def data_of(table: Path) -> SentencePairDataModule:
    return SentencePairDataModule(train=SentencePairSourceArgs(path=str(table)), batch_size=3, shuffle=False)


def sentinel(table: Path, **options) -> Sentinel:
    lora, share = options.pop("lora", None), options.pop("share", True)
    policy = PolicyArgs(path=str(table.parent / "model"), lora=lora, share_prompts=share)
    return Sentinel(policy, **{"optimizer": sgd, "seed": 1} | options)


def test_the_context_is_a_true_prefix_and_nothing_ends_a_sentence(table):
    module, data = sentinel(table), data_of(table)
    data.answers = module
    data.setup("fit")
    tokenizer = module._processor.tokenizer
    for encoded, (_, context, chosen, rejected) in zip(data.train_pairs, ROWS, strict=True):
        start = module.policy_args and tokenizer.decode(
            Policy.load(module.policy_args, trainable=False).encode(encoded.pair.prompt).tokens
        )
        assert start.endswith(f"assistant\n{context}")
        for tokens, text in ((encoded.chosen_tokens, chosen), (encoded.rejected_tokens, rejected)):
            assert tokenizer.decode(tokens) == f" {text}"
            assert tokenizer.eos_token_id not in tokens


@pytest.mark.parametrize("lora", [None, LoraArgs(rank=4, alpha=8)])
def test_the_first_loss_is_ln_2(table, tmp_path, lora):
    module = sentinel(table, lora=lora, optimizer=partial(torch.optim.SGD, lr=1e-3 if lora is None else 0.1))
    losses = []
    compare = module.compare
    module.compare = lambda batch: (losses.append(compare(batch)), losses[-1])[1]  # type: ignore[method-assign]
    data = data_of(table)
    trainer(tmp_path, max_steps=1).fit(module, data)
    assert losses[0][0].per_pair.tolist() == [pytest.approx(math.log(2), abs=1e-7)] * 3
    learned, _ = compare(PairBatch(data.train_pairs))
    assert float(learned.loss.detach()) < math.log(2)


def test_a_shared_prefix_gives_the_gradients_of_whole_rows(table):
    gradients, losses, sums = [], [], []
    for share in (True, False):
        module, data = sentinel(table, share=share), data_of(table)
        data.answers = module
        data.setup("fit")
        module.configure_model()
        with torch.no_grad():  # away from the reference
            torch.manual_seed(0)
            for parameter in module.policy.model.parameters():
                parameter.add_(0.01 * torch.randn_like(parameter))
        found, logps = module.compare(PairBatch(data.train_pairs))
        found.loss.backward()
        losses.append(float(found.loss.detach()))
        sums.append(logps.policy_P2.detach())
        gradients.append({name: p.grad for name, p in module.named_parameters() if p.grad is not None})
        assert module.policy._packing_works == ({True: True} if share else {})
    assert losses[0] == pytest.approx(losses[1], abs=module.loss.beta * rounding(*sums))
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-3, atol=1e-5, msg=name)


def test_the_winners_nll_is_added_on_demand(table):
    losses = []
    for nll in (0.0, 0.5):
        module, data = sentinel(table, loss=PairLossArgs(kind="dpo", beta=0.1, chosen_nll=nll)), data_of(table)
        data.answers = module
        data.setup("fit")
        module.configure_model()
        losses.append(module.compare(PairBatch(data.train_pairs)))
    mean = losses[0][1].policy_P2[:, 0] / losses[0][1].lengths_P2[:, 0]
    torch.testing.assert_close(losses[1][0].per_pair - losses[0][0].per_pair, -0.5 * mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(losses[1][0].terms["chosen_nll"], -mean.detach())


def test_omni_dpos_weights_apply_to_sentences(table, tmp_path):
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    for i, row in enumerate(rows):
        row |= {"score_chosen": 1.0 + i, "score_rejected": 0.0}
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    loss = PairLossArgs(kind="omni_dpo", beta=2.0, tau_good=2.0)
    module = sentinel(table, loss=loss)
    trainer(tmp_path, max_steps=1).fit(module, data_of(table))
    found, _ = module.compare(PairBatch(module.trainer.datamodule.train_pairs))  # type: ignore[attr-defined]
    weights = found.terms["w_quality"]
    assert weights[0] < weights[1] < weights[2]
    assert isinstance(module, PreferenceModule)
