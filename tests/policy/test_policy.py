"""Policies against the plain forward pass of transformers."""

from typing import Any

import pytest
import torch
from tiny import make_model, make_tokenizer
from transformers import AutoModelForCausalLM

from lit_uniopd.errors import UserError
from lit_uniopd.policy import LoraArgs, Policy, PolicyArgs
from lit_uniopd.types import Prompt

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13]]
TOKENS_BT = torch.tensor([[14, 15, 2, 0], [16, 2, 0, 0], [17, 18, 19, 20]])
MASK_BT = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]], dtype=torch.bool)


def prompt(*contents: str, role: str = "user") -> Prompt:
    return Prompt(id="p", messages=tuple({"role": role, "content": content} for content in contents))


def naive_logps(model: torch.nn.Module, temperature: float) -> torch.Tensor:
    """One row at a time, without padding, through the model's own logits."""
    out = torch.zeros(MASK_BT.shape)
    for row, start in enumerate(PROMPTS):
        response = TOKENS_BT[row][MASK_BT[row]]
        ids = torch.cat([torch.tensor(start), response])[None]
        logits = model(input_ids=ids).logits[0, len(start) - 1 : -1].float() / temperature
        logps = logits.log_softmax(-1).gather(1, response[:, None])[:, 0]
        out[row, : len(response)] = logps
    return out


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_token_logps_equal_the_models_own_logits_row_by_row(model_dirs, temperature):
    policy = Policy.load(PolicyArgs(path=model_dirs["student"]), trainable=True)
    logps_BT, _ = policy.token_logps(PROMPTS, TOKENS_BT, MASK_BT, temperature=temperature)
    torch.testing.assert_close(logps_BT, naive_logps(policy.model, temperature), atol=2e-5, rtol=1e-5)


def test_gradients_equal_those_of_the_models_own_logits(model_dirs):
    policy = Policy.load(PolicyArgs(path=model_dirs["student"]), trainable=True)
    weights_BT = torch.linspace(-1, 1, MASK_BT.numel()).view_as(MASK_BT) * MASK_BT
    (policy.token_logps(PROMPTS, TOKENS_BT, MASK_BT)[0] * weights_BT).sum().backward()
    gradients = {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}
    policy.zero_grad()
    (naive_logps(policy.model, 1.0) * weights_BT).sum().backward()
    assert gradients
    for name, p in policy.named_parameters():
        torch.testing.assert_close(gradients[name], p.grad, atol=3e-4, rtol=1e-3)


def test_entropy(model_dirs):
    policy = Policy.load(PolicyArgs(path=model_dirs["student"]), trainable=False)
    _, entropy_BT = policy.token_logps(PROMPTS, TOKENS_BT, MASK_BT, return_entropy=True)
    logits = policy.model(input_ids=torch.tensor([[8]])).logits[0, -1]
    assert entropy_BT is not None
    assert float(entropy_BT[1, 0]) == pytest.approx(
        float(torch.distributions.Categorical(logits=logits).entropy()), abs=1e-4
    )
    assert not entropy_BT[~MASK_BT].any()


def test_a_frozen_policy_has_nothing_to_train(model_dirs):
    policy = Policy.load(PolicyArgs(path=model_dirs["student"]), trainable=False)
    assert not any(p.requires_grad for p in policy.parameters())
    assert not policy.training


def test_answering_restores_every_flag_even_after_an_error(model_dirs):
    policy = Policy.load(PolicyArgs(path=model_dirs["student"], gradient_checkpointing=True), trainable=True)
    policy.train()
    policy.model.model.layers[1].eval()  # a module that was meant to stay in eval mode
    policy.model.config.use_cache = False
    with pytest.raises(RuntimeError, match="boom"), policy.answering():  # noqa: PT012
        assert not policy.model.training
        assert not torch.is_grad_enabled()
        assert policy.model.config.use_cache
        raise RuntimeError("boom")
    assert policy.model.training
    assert not policy.model.model.layers[1].training
    assert not policy.model.config.use_cache
    assert torch.is_grad_enabled()


def test_gradient_checkpointing_changes_no_gradient(model_dirs):
    gradients = []
    for checkpointing in (False, True):
        args = PolicyArgs(path=model_dirs["student"], gradient_checkpointing=checkpointing)
        policy = Policy.load(args, trainable=True).train()
        policy.token_logps(PROMPTS, TOKENS_BT, MASK_BT)[0].sum().backward()
        gradients.append([p.grad for p in policy.parameters() if p.grad is not None])
    for expected, actual in zip(*gradients, strict=True):
        torch.testing.assert_close(expected, actual)


def test_the_reference_is_the_policy_before_training(model_dirs):
    policy = Policy.load(PolicyArgs(path=model_dirs["student"]), trainable=True)
    with pytest.raises(RuntimeError, match="keep_reference"), policy.reference():
        pass
    before, _ = policy.token_logps(PROMPTS, TOKENS_BT, MASK_BT)
    policy.keep_reference()
    with torch.no_grad():
        next(policy.model.parameters()).add_(0.5)
    with policy.reference() as reference:
        reference_logps, _ = reference.token_logps(PROMPTS, TOKENS_BT, MASK_BT)
    torch.testing.assert_close(reference_logps, before.detach())
    assert not torch.allclose(policy.token_logps(PROMPTS, TOKENS_BT, MASK_BT)[0], reference_logps)
    assert not any("_reference" in name for name in policy.state_dict())
    assert len(policy.state_dict()) == len(policy.model.state_dict())


def lora_policy(path: str) -> Policy:
    policy = Policy.load(PolicyArgs(path=path, lora=LoraArgs(rank=4, alpha=8)), trainable=True)
    with torch.no_grad():  # B starts at 0: an untrained adapter would prove nothing
        for name, p in policy.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(p, std=0.2)
    return policy


def test_with_adapters_off_a_lora_policy_is_its_reference(model_dirs):
    plain = Policy.load(PolicyArgs(path=model_dirs["student"]), trainable=False)
    policy = lora_policy(model_dirs["student"])
    trained = [name for name, p in policy.named_parameters() if p.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
    expected, _ = plain.token_logps(PROMPTS, TOKENS_BT, MASK_BT)
    with policy.reference() as reference:
        logps, _ = reference.token_logps(PROMPTS, TOKENS_BT, MASK_BT)
    torch.testing.assert_close(logps, expected)
    assert not torch.allclose(policy.token_logps(PROMPTS, TOKENS_BT, MASK_BT)[0], expected, atol=0.1)


def test_every_adapter_counts(model_dirs):
    policy = lora_policy(model_dirs["student"])
    before, _ = policy.token_logps(PROMPTS, TOKENS_BT, MASK_BT)
    adapters = {name: p for name, p in policy.named_parameters() if p.requires_grad}
    assert len(adapters) == 2 * 2 * 7  # two matrices for each of seven layers in two blocks
    for name, parameter in adapters.items():
        with torch.no_grad():
            parameter += 0.1
            moved = policy.token_logps(PROMPTS, TOKENS_BT, MASK_BT)[0] - before
            parameter -= 0.1
        assert moved.abs().max() > 1e-4, name


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings")
def test_an_adapter_that_would_be_ignored_is_refused(model_dirs):
    lora = LoraArgs(rank=4, target_modules=["q_proj", "lm_head"])
    with pytest.raises(UserError, match=r"take lm_head out of lora\.target_modules"):
        Policy.load(PolicyArgs(path=model_dirs["student"], lora=lora), trainable=True)


def test_a_merged_export_answers_like_the_unmerged_policy(model_dirs, tmp_path):
    policy = lora_policy(model_dirs["student"])
    before = {name: p.clone() for name, p in policy.named_parameters()}
    policy.save(tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(naive_logps(merged, 1.0), naive_logps(policy.model, 1.0), atol=1e-5, rtol=1e-5)
    assert (tmp_path / "merged" / "model.safetensors").exists()
    assert not any("lora" in name for name in merged.state_dict())
    assert all(torch.equal(before[name], p) for name, p in policy.named_parameters())  # the live weights are untouched


def test_an_adapter_export_loads_with_peft(model_dirs, tmp_path):
    from peft import PeftModel

    policy = lora_policy(model_dirs["student"])
    policy.save_adapter(tmp_path / "adapter")
    base = AutoModelForCausalLM.from_pretrained(model_dirs["student"])
    again = PeftModel.from_pretrained(base, str(tmp_path / "adapter"))
    torch.testing.assert_close(naive_logps(again, 1.0), naive_logps(policy.model, 1.0))


def test_a_full_export_round_trips(model_dirs, tmp_path):
    policy = Policy.load(PolicyArgs(path=model_dirs["student"]), trainable=True)
    policy.save(tmp_path / "export")
    again = Policy.load(PolicyArgs(path=str(tmp_path / "export")), trainable=False)
    assert again.eos_ids == policy.eos_ids
    torch.testing.assert_close(naive_logps(again.model, 1.0), naive_logps(policy.model, 1.0))


def test_random_weights_from_a_config(model_dirs):
    config = {
        "model_type": "qwen3",
        "vocab_size": 80,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
    }
    config |= {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    policy = Policy.load(PolicyArgs(config=config, tokenizer=model_dirs["student"]), trainable=True)
    assert policy.model.config.hidden_size == 16


def test_an_image_text_model_serves_text_prompts(model_dirs, tmp_path):
    """The interface is one for both kinds; a processor wraps the tokenizer."""
    pytest.importorskip("PIL")
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    text = AutoModelForCausalLM.from_pretrained(model_dirs["student"]).config
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=8, patch_size=4
    )
    model = LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=text, image_token_index=3))
    model.save_pretrained(tmp_path / "vlm")
    processor = LlavaProcessor(
        CLIPImageProcessor(), make_tokenizer(), patch_size=4, vision_feature_select_strategy="default"
    )
    processor.save_pretrained(tmp_path / "vlm")
    policy = Policy.load(PolicyArgs(path=str(tmp_path / "vlm")), trainable=True)
    logps_BT, _ = policy.token_logps(PROMPTS, TOKENS_BT, MASK_BT)
    torch.testing.assert_close(logps_BT, naive_logps(policy.model, 1.0), atol=1e-4, rtol=1e-4)
    assert policy.tokenizer.decode(policy.render(prompt("1+1"))) == "<bos>u:1+1<end><bos>a:"


@pytest.mark.parametrize("quantization", ["8bit", "4bit"])
def test_quantised_teachers_load_and_score(new_model, quantization):
    pytest.importorskip("bitsandbytes")
    path = new_model(width=64)  # a block of 4-bit weights has 64 of them
    exact = Policy.load(PolicyArgs(path=path), trainable=False)
    teacher = Policy.load(PolicyArgs(path=path, quantization=quantization), trainable=False)
    kinds = {type(module).__name__ for module in teacher.modules()}
    assert kinds & {"Linear4bit", "Linear8bitLt"}
    logps, _ = teacher.token_logps(PROMPTS, TOKENS_BT, MASK_BT)
    expected, _ = exact.token_logps(PROMPTS, TOKENS_BT, MASK_BT)
    assert logps.isfinite().all()
    assert 0 < (logps - expected).abs().mean() < 2.0


# --- prompts -------------------------------------------------------------------------------------------------------------


def test_prompts_are_rendered_in_the_models_own_template(model_dirs, new_model):
    chat = Policy.load(PolicyArgs(path=model_dirs["student"]), trainable=False)
    assert chat.tokenizer.decode(chat.render(prompt("1+1"))) == "<bos>u:1+1<end><bos>a:"
    plain = Policy.load(PolicyArgs(path=new_model(tokenizer=make_tokenizer(None))), trainable=False)
    assert plain.tokenizer.decode(plain.render(prompt("1+1"))) == "1+1"
    with pytest.raises(UserError, match="no chat template"):
        plain.render(prompt("1+1", "2+2"))


def test_every_end_of_sequence_id_is_known(model_dirs, new_model):
    import json
    from pathlib import Path

    path = Path(new_model())
    settings = json.loads((path / "generation_config.json").read_text())
    (path / "generation_config.json").write_text(json.dumps({**settings, "eos_token_id": [3, 9]}))
    policy = Policy.load(PolicyArgs(path=str(path)), trainable=False)
    assert policy.eos_ids == {
        2,
        3,
        9,
    }  # <eos> of the tokenizer and the model config, <end> and 9 of the generation config


# --- mistakes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (PolicyArgs(), r"--model\.student\.path is empty; give a hub id or a model directory"),
        (PolicyArgs(path="./nowhere"), r"--model\.student\.path \./nowhere: there is no such directory"),
        (PolicyArgs(path="{tmp}"), r"--model\.student\.path .*: it is not a complete model directory"),
        (PolicyArgs(path="{student}", quantization="4bit"), r"--model\.student\.quantization 4bit freezes the weights"),
        (
            PolicyArgs(path="{student}", lora=LoraArgs(target_modules=["nope"])),
            r"--model\.student\.lora\.target_modules",
        ),
        (
            PolicyArgs(config={"model_type": "nope"}, tokenizer="{student}"),
            r"--model\.student\.config needs a `model_type`",
        ),
    ],
)
def test_mistakes_are_answered_in_one_sentence_that_names_the_flag(model_dirs, tmp_path, args, message):
    fill = {"{tmp}": str(tmp_path), "{student}": model_dirs["student"]}
    args.path = fill.get(args.path, args.path)
    args.tokenizer = fill.get(args.tokenizer or "", args.tokenizer)
    with pytest.raises(UserError, match=message):
        Policy.load(args, trainable=True, flag="model.student")


def test_pickled_weights_are_refused(tmp_path):
    path = make_model(tmp_path / "m")
    model = AutoModelForCausalLM.from_pretrained(path)
    (path / "model.safetensors").unlink()
    torch.save(model.state_dict(), path / "pytorch_model.bin")
    with pytest.raises(UserError, match="safetensors"):
        Policy.load(PolicyArgs(path=str(path)), trainable=False)


def test_a_processor_whose_package_is_missing_is_one_sentence(model_dirs, monkeypatch):
    def refuse(*args: Any, **options: Any) -> None:
        raise ImportError("\nFancyVideoProcessor requires the Torchvision library but it was not found.\nMore text.")

    monkeypatch.setattr("lit_uniopd.policy.loading.AutoTokenizer.from_pretrained", refuse)
    with pytest.raises(UserError, match=r"--policy\.path .* needs a package .* requires the Torchvision library"):
        Policy.load(PolicyArgs(path=model_dirs["student"]), trainable=False)
