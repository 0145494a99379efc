"""QLoRA, 8-bit weights and 8-bit optimizer states, on the CPU."""

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.nn.modules import Linear4bit, Linear8bitLt
from bitsandbytes.optim.adamw import AdamW8bit, PagedAdamW8bit
from lightning.pytorch.callbacks import ModelCheckpoint
from peft import PeftModel
from tiny import Memory, adam, make_model, module, prompts, trainer
from transformers import AutoModelForCausalLM

from datamodules import PromptDataModule, SourceArgs
from lit_uniopd.cli import main
from lit_uniopd.errors import UserError
from lit_uniopd.memory.optimizer_states import state_bytes
from lit_uniopd.policy import LoraArgs, Policy, PolicyArgs

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13]]
TOKENS_BT = torch.tensor([[14, 15, 2, 0], [16, 2, 0, 0], [17, 18, 19, 20]])
MASK_BT = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]], dtype=torch.bool)
QUANTISED = ["4bit", "8bit"]


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> dict[str, str]:
    """Models 64 wide: bitsandbytes' kernels want whole blocks."""
    root = tmp_path_factory.mktemp("quantised")
    return {name: str(make_model(root / name, seed=i, width=64)) for i, name in enumerate(["student", "math", "code"])}


def adapted(path: str, quantization: Any, *, checkpointing: bool = False) -> Policy:
    args = PolicyArgs(
        path=path, quantization=quantization, lora=LoraArgs(rank=4, alpha=8), gradient_checkpointing=checkpointing
    )
    torch.manual_seed(0)
    policy = Policy.load(args, trainable=True)
    with torch.no_grad():  # B starts at 0, and then A has no gradient
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.05)
    return policy


def bits(parameter: torch.Tensor) -> torch.Tensor:
    return parameter.detach().contiguous().view(torch.uint8)


def loss_of(policy: Policy) -> torch.Tensor:
    return -policy.token_logps(PROMPTS, TOKENS_BT, MASK_BT)[0].sum() / MASK_BT.sum()


@pytest.mark.parametrize("quantization", QUANTISED)
def test_training_lowers_the_loss_also_after_answering(stored, quantization):
    """bitsandbytes repacks 4-bit weights in eval mode on some CPUs, and no gradient passes through those."""
    policy = adapted(stored["student"], quantization)
    # As bytes: packed weights that pose as bfloat16 may look like NaN.
    frozen = {name: bits(p).clone() for name, p in policy.named_parameters() if not p.requires_grad}
    optimizer = torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad], lr=5e-3)
    losses = []
    for _ in range(20):
        with policy.answering():
            policy.token_logps(PROMPTS, TOKENS_BT, MASK_BT)
        loss = loss_of(policy)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is None or p.grad.abs().max() > 0 for p in policy.parameters())
        with_gradient = {name for name, p in policy.named_parameters() if p.grad is not None}
        assert with_gradient == {name for name, p in policy.named_parameters() if ".lora_" in name}
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.2 * losses[0]
    assert all(torch.equal(bits(p), frozen[name]) for name, p in policy.named_parameters() if name in frozen)


@pytest.mark.parametrize("quantization", QUANTISED)
def test_gradients_are_those_of_the_dequantised_model(stored, quantization):
    """The independent reference: the same adapters on a plain model whose weights are the dequantised ones."""
    from bitsandbytes.functional import dequantize_4bit, int8_vectorwise_dequant

    quantised, plain = adapted(stored["student"], quantization), adapted(stored["student"], "none")
    modules = dict(plain.named_modules())
    for name, layer in quantised.named_modules():
        if not isinstance(layer, Linear4bit | Linear8bitLt):
            continue
        weight: Any = layer.weight
        if isinstance(layer, Linear4bit):
            modules[name].weight.data = dequantize_4bit(weight.data, weight.quant_state)
        elif isinstance(layer, Linear8bitLt):
            scales: Any = layer.state.SCB if weight.SCB is None else weight.SCB
            modules[name].weight.data = int8_vectorwise_dequant(weight.data, scales)
    gradients = []
    for policy in (quantised, plain):
        loss_of(policy).backward()
        gradients.append({n: p.grad for n, p in policy.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        error = (gradient - gradients[1][name]).norm() / gradients[1][name].norm()
        assert error < 0.02, name


@pytest.mark.parametrize("quantization", QUANTISED)
def test_gradient_checkpointing_changes_no_gradient(stored, quantization):
    """Adapters of the first layer included, whose input needs no gradient."""
    gradients = []
    for checkpointing in (False, True):
        policy = adapted(stored["student"], quantization, checkpointing=checkpointing)
        loss_of(policy).backward()
        gradients.append({name: p.grad for name, p in policy.named_parameters() if p.requires_grad})
    assert any("layers.0" in name for name in gradients[0])
    for name, gradient in gradients[0].items():
        assert gradient is not None
        torch.testing.assert_close(gradients[1][name], gradient)


def test_4bit_storage_can_be_sharded_and_adapters_are_float32(stored):
    policy = Policy.load(
        PolicyArgs(path=stored["student"], dtype="bfloat16", quantization="4bit", lora=LoraArgs(rank=4)), trainable=True
    )
    packed = [p for p in policy.parameters() if type(p).__name__ == "Params4bit"]
    assert packed
    assert all(p.dtype == torch.bfloat16 for p in packed)
    assert all(p.dtype == torch.float32 for p in policy.parameters() if p.requires_grad)
    with policy.answering():
        policy.token_logps(PROMPTS, TOKENS_BT, MASK_BT)
    assert all(p.dtype == torch.bfloat16 for p in packed)  # answering repacks nothing


@pytest.mark.parametrize("quantization", QUANTISED)
def test_a_quantised_teacher_is_close(stored, tmp_path, quantization):
    model = AutoModelForCausalLM.from_pretrained(stored["math"])
    for name, parameter in model.named_parameters():
        if "proj" in name:  # the other tests' weights are so large that every rounding shows
            parameter.data /= 3
    model.save_pretrained(tmp_path / "teacher")
    args = PolicyArgs(path=str(tmp_path / "teacher"), tokenizer=stored["math"])
    exact = Policy.load(args, trainable=False)
    teacher = Policy.load(replace(args, quantization=quantization), trainable=False)
    tokens_BT, mask_BT = torch.arange(4, 52).view(4, 12), torch.ones(4, 12, dtype=torch.bool)
    logps, expected = (p.token_logps([[5, 6]] * 4, tokens_BT, mask_BT)[0] for p in (teacher, exact))
    assert logps.isfinite().all()
    spread = expected.std()
    assert spread > 0.5
    # nf4 moves each weight by a tenth of their spread (that log-probs are those of the moved weights is tested above);
    # int8 by a hundredth.
    assert 0 < (logps - expected).abs().mean() < (0.3 if quantization == "4bit" else 0.05) * spread


@pytest.mark.parametrize("quantization", QUANTISED)
def test_adapters_are_saved_alone_and_load_again(stored, tmp_path, quantization):
    policy = adapted(stored["student"], quantization).eval()
    expected, _ = policy.token_logps(PROMPTS, TOKENS_BT, MASK_BT)
    policy.save_adapter(tmp_path / "adapter")
    base = Policy.load(PolicyArgs(path=stored["student"], quantization=quantization), trainable=False)
    again = Policy(PeftModel.from_pretrained(base.model, str(tmp_path / "adapter")), base.processor, policy.args).eval()
    logps, _ = again.token_logps(PROMPTS, TOKENS_BT, MASK_BT)
    torch.testing.assert_close(logps, expected)
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    assert weights.stat().st_size < 50_000
    with pytest.raises(UserError, match=rf"cannot be merged into {quantization} weights; .* quantization 'none'"):
        policy.save(tmp_path / "merged")


def test_quantisation_of_random_weights_is_refused(stored):
    config = {"model_type": "qwen3", "vocab_size": 80, "hidden_size": 64, "num_hidden_layers": 1}
    args = PolicyArgs(config=config, tokenizer=stored["student"], quantization="4bit")
    with pytest.raises(UserError, match=r"--policy\.quantization 4bit needs stored weights"):
        Policy.load(args, trainable=False)


# --- 8-bit optimizer states ----------------------------------------------------------------------------------------------


def adamw_8bit(params: Any) -> torch.optim.Optimizer:
    return AdamW8bit(params, lr=1e-3, min_8bit_size=128)  # so that tiny tensors have 8-bit states too


def paged_8bit(params: Any) -> torch.optim.Optimizer:
    return PagedAdamW8bit(params, lr=1e-3, min_8bit_size=128)


def shuffled_prompts(directory: Path) -> PromptDataModule:
    """10 rows in batches of 4: step 3 crosses into the second epoch."""
    rows = [{"prompt": p.messages[0]["content"], "answer": p.gold, "domain": p.domain} for p in prompts(10)]
    directory.mkdir(exist_ok=True)
    (directory / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return PromptDataModule(train=SourceArgs(path=str(directory / "train.jsonl"), grader="exact"), batch_size=4, seed=3)


def fitted(paths: dict[str, str], directory: Path, steps: int, student: PolicyArgs, optimizer: Any, **options: Any):
    run = module(paths, student=student, optimizer=optimizer)
    keep = ModelCheckpoint(directory / "ckpt", save_last=True, every_n_train_steps=1)
    loop = trainer(
        directory, max_steps=steps, max_epochs=9, callbacks=[keep], enable_checkpointing=True, logger=Memory()
    )
    loop.fit(run, shuffled_prompts(directory), weights_only=True, **options)
    return run, loop


@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
@pytest.mark.parametrize("optimizer", [adamw_8bit, paged_8bit])
@pytest.mark.parametrize("quantization", ["none", "4bit"])
@pytest.mark.thinned(2)
def test_a_resumed_run_equals_an_unbroken_one(stored, tmp_path, optimizer, quantization):
    student = PolicyArgs(path=stored["student"])
    if quantization != "none":
        student = PolicyArgs(path=stored["student"], quantization=quantization, lora=LoraArgs(rank=4, alpha=8))
    unbroken, loop = fitted(stored, tmp_path / "whole", 4, student, optimizer)
    states = loop.optimizers[0].state
    assert any(value["state1"].dtype == torch.uint8 for value in states.values())
    fitted(stored, tmp_path / "first", 2, student, optimizer)
    last = tmp_path / "first/ckpt/last.ckpt"
    again, _ = fitted(stored, tmp_path / "second", 4, student, optimizer, ckpt_path=last)
    trained = {name: p for name, p in unbroken.named_parameters() if p.requires_grad}
    start = dict(fresh(student).named_parameters())
    assert all(torch.equal(p, trained[name]) for name, p in again.named_parameters() if p.requires_grad)
    assert any(not torch.equal(p, start[name.removeprefix("policy.")]) for name, p in trained.items())
    checkpoint = torch.load(last, weights_only=True)
    assert set(checkpoint["state_dict"]) == set(trained)


def fresh(student: PolicyArgs) -> Policy:
    torch.manual_seed(0)
    return Policy.load(student, trainable=True)


def test_8bit_states_learn_as_float32_ones_do(stored):
    """A quarter of the memory, and nearly the same loss."""
    ends, sizes = [], []
    for make in (adam, adamw_8bit):
        policy = Policy.load(PolicyArgs(path=stored["student"]), trainable=True)
        optimizer = make(list(policy.parameters()))
        losses = []
        for _ in range(15):
            loss = loss_of(policy)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        assert losses[-1] < 0.5 * losses[0]
        ends.append(losses[-1])
        sizes.append(state_bytes(optimizer))
    assert ends[1] == pytest.approx(ends[0], rel=0.1)
    assert sizes[1] < 0.3 * sizes[0]


def test_the_example_in_the_docs_is_accepted(stored, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(Path(__file__).parents[2])
    configs = ["-c", "configs/uni_opd/multi_teacher.yaml", "-c", "configs/optimizer/adamw_8bit.yaml"]
    with pytest.raises(SystemExit) as stopped:
        main(["fit", *configs, "--print_config"])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    optimizer = printed.split("optimizer:\n", 1)[1].split("lr_scheduler", 1)[0]
    for line in ("bitsandbytes.optim.PagedAdamW8bit", "min_8bit_size: 4096", "weight_decay: 0.1", "lr: 1.0e-06"):
        assert line in optimizer


def test_the_lever_keeps_the_configured_numbers(monkeypatch, capsys):
    """What the plan proposes, on the command line: settings that both optimizers have stay as they are."""
    monkeypatch.chdir(Path(__file__).parents[2])
    with pytest.raises(SystemExit) as stopped:
        main(
            [
                "fit",
                "-c",
                "configs/uni_opd/multi_teacher.yaml",
                "--model.optimizer",
                "bitsandbytes.optim.AdamW8bit",
                "--print_config",
            ]
        )
    assert stopped.value.code == 0
    optimizer = capsys.readouterr().out.split("optimizer:\n", 1)[1].split("lr_scheduler", 1)[0]
    assert "bitsandbytes.optim.AdamW8bit" in optimizer
    assert "lr: 1.0e-06" in optimizer
    assert "weight_decay: 0.1" in optimizer


def sharded_step(make: Callable[[Any], torch.optim.Optimizer]) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    from lit_uniopd.modules import SFT

    run = SFT(PolicyArgs(path="none"), optimizer=make)
    run.layer = torch.nn.Linear(8, 8)
    fully_shard(run.layer, mesh=init_device_mesh("cpu", (1,)))
    run.configure_optimizers()


def test_8bit_states_of_sharded_weights_are_refused(monkeypatch, tmp_path):
    store = torch.distributed.HashStore()  # pyright: ignore[reportPrivateImportUsage]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
        sharded_step(adam)
        with pytest.raises(UserError, match=r"--model\.optimizer AdamW8bit cannot step on weights that FSDP shards"):
            sharded_step(adamw_8bit)
        theirs = type("AdamW8bit", (torch.optim.AdamW,), {"__module__": "torchao.optim.adam"})
        with pytest.raises(UserError, match=r"save its states of weights that FSDP shards \(torchao's\); use"):
            sharded_step(theirs)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="pages of optimizer states exist on GPUs only")
def test_paged_states_train_on_a_gpu(stored):
    policy = Policy.load(PolicyArgs(path=stored["student"]), trainable=True).to("cuda")
    optimizer = paged_8bit(list(policy.parameters()))
    before = float(loss_of(policy).detach())
    for _ in range(5):
        optimizer.zero_grad()
        loss_of(policy).backward()
        optimizer.step()
    assert float(loss_of(policy).detach()) < before
