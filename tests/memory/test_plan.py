"""The plan against models, optimizers and runs that were really built."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import bitsandbytes
import pytest
import torch
from bitsandbytes.optim.adamw import AdamW8bit, PagedAdamW8bit
from tiny import Memory, Prompts, adam, make_model, module, prompts, trainer
from transformers import AutoConfig, AutoModelForCausalLM

from lit_uniopd.errors import UserError
from lit_uniopd.memory import (
    Allocation,
    MemoryPlan,
    Setup,
    Workload,
    build_meta_model,
    check_fits,
    model_size,
    optimizer_bytes,
    parameter_table,
    plan_memory,
    suggest_savings,
)
from lit_uniopd.memory.estimates import dimensions
from lit_uniopd.memory.optimizer_states import state_bytes
from lit_uniopd.memory.parameter_counts import packed_4bit_bytes
from lit_uniopd.memory.suggestions import _changes
from lit_uniopd.playground.untrained import write_tiny_vision
from lit_uniopd.policy import LoraArgs, Policy, PolicyArgs
from lit_uniopd.sampling import SamplingArgs

LORA = LoraArgs(rank=4, alpha=8)
QWEN3: dict[str, Any] = {
    "model_type": "qwen3",
    "vocab_size": 151936,
    "head_dim": 128,
    "num_key_value_heads": 8,
    "tie_word_embeddings": True,
}
QWEN3_06B = QWEN3 | {
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
}
QWEN3_4B = QWEN3 | {
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
}
# Embedding; per layer q and o, k and v, three of the MLP, two norms, q and k norm; the last norm. Heads are tied.
BY_HAND_06B = 151936 * 1024 + 28 * (2 * 1024 * 2048 + 2 * 1024 * 1024 + 3 * 1024 * 3072 + 2 * 1024 + 256) + 1024
BY_HAND_4B = 151936 * 2560 + 36 * (2 * 2560 * 4096 + 2 * 2560 * 1024 + 3 * 2560 * 9728 + 2 * 2560 + 256) + 2560


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> str:
    return str(make_model(tmp_path_factory.mktemp("memory") / "model", width=64))


def held(model: torch.nn.Module) -> int:
    """Bytes of every tensor that hangs on the modules, found without knowing any layer."""
    tensors: dict[int, int] = {}

    def collect(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            storage = value.untyped_storage()
            tensors[storage._cdata] = storage.nbytes()
        if isinstance(value, dict):
            for item in value.values():
                collect(item)
        elif type(value).__module__.startswith("bitsandbytes") and not isinstance(value, torch.nn.Module):
            # Packed weights and their scales; but not the columns that were outliers in the last forward pass.
            collect({key: item for key, item in vars(value).items() if key != "idx"})

    for layer in model.modules():
        collect(layer._parameters)
        collect(layer._buffers)
        collect(vars(layer).get("state"))  # of 8-bit layers
    return sum(tensors.values())


# --- what a model weighs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quantization", ["none", "4bit", "8bit"])
@pytest.mark.parametrize("lora", [None, LORA])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_outline_weighs_what_the_loaded_model_does(stored, quantization, lora, dtype):
    args = PolicyArgs(path=stored, quantization=quantization, lora=lora, dtype=dtype)
    trainable = lora is not None or quantization == "none"
    planned = model_size(build_meta_model(args, trainable=trainable, flag="policy"))
    policy = Policy.load(args, trainable=trainable)
    loaded = model_size(policy.model)
    assert planned.bytes == loaded.bytes == held(policy.model)
    assert replace(planned, devices=()) == replace(loaded, devices=())
    assert loaded.devices == ("cpu",)
    exact = Policy.load(PolicyArgs(path=stored), trainable=False)
    adapters = sum(p.numel() for name, p in policy.named_parameters() if "lora_" in name)
    assert loaded.parameters == sum(p.numel() for p in exact.model.parameters()) + adapters  # packed ones count in full


def test_tied_weights_count_once(tmp_path):
    path = make_model(tmp_path / "tied")
    model = AutoModelForCausalLM.from_pretrained(path)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model_size(model).parameters == sum(p.numel() for p in model.parameters())
    assert model_size(model).bytes == held(model)


def test_real_shapes_by_hand():
    for config, parameters in ((QWEN3_06B, BY_HAND_06B), (QWEN3_4B, BY_HAND_4B)):
        full = model_size(build_meta_model(PolicyArgs(config=config), trainable=True, flag="policy"))
        assert (full.parameters, full.trainable_bytes) == (parameters, 4 * parameters)
    assert pytest.approx(0.596e9, rel=0.01) == BY_HAND_06B  # what the models are called by
    assert pytest.approx(4.02e9, rel=0.01) == BY_HAND_4B
    rank = 64
    args = PolicyArgs(config=QWEN3_4B, dtype="bfloat16", quantization="4bit", lora=LoraArgs(rank=rank))
    small = model_size(build_meta_model(args, trainable=True, flag="policy"))
    ends = (2560 + 4096) * 2 + (2560 + 1024) * 2 + (2560 + 9728) * 3  # in + out of the seven layers
    assert small.trainable == 36 * rank * ends
    assert small.trainable_bytes == 4 * small.trainable  # float32, whatever the base is
    quantised = 36 * (2 * 2560 * 4096 + 2 * 2560 * 1024 + 3 * 2560 * 9728)
    assert small.quantised == quantised
    unquantised = BY_HAND_4B - quantised
    # 4.127 bits: a nibble, 8 bits per 64, 32 bits per 64 x 256
    assert small.frozen_bytes == pytest.approx(quantised * 4.127 / 8 + 2 * unquantised, rel=1e-4)


SMALL = {"vocab_size": 500, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "gpt2": {"vocab_size": 500, "n_embd": 64, "n_layer": 2, "n_head": 4, "bos_token_id": 0, "eos_token_id": 0},
    "gemma2": SMALL | {"intermediate_size": 128, "head_dim": 16, "num_key_value_heads": 2},
    "qwen3_moe": SMALL
    | {"head_dim": 16, "moe_intermediate_size": 32, "num_experts": 8, "num_experts_per_tok": 2, "eos_token_id": 0},
}


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_other_architectures_have_a_plan(kind):
    policy = PolicyArgs(config={"model_type": kind, **ARCHITECTURES[kind]})
    built = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **ARCHITECTURES[kind]))
    plan = plan_memory(setup(policy=policy))
    assert allocation(plan, "policy: weights").bytes == held(built)
    dims = dimensions(built)
    assert (dims.gated, dims.inner, dims.experts, dims.eager) == {
        "gpt2": (False, 256, 0, False),
        "gemma2": (True, 128, 0, True),  # it caps its attention
        "qwen3_moe": (True, 64, 2, False),
    }[kind]
    assert allocation(plan, "KV cache").bytes > 0
    assert allocation(plan, "activations").bytes > 0


@pytest.mark.parametrize("quantization", ["none", "4bit"])
def test_image_text_models_are_counted_with_their_tower(tmp_path, quantization):
    write_tiny_vision(tmp_path / "model", 0)
    args = PolicyArgs(path=str(tmp_path / "model"), quantization=quantization)
    planned = model_size(build_meta_model(args, trainable=False, flag="policy"))
    assert planned.bytes == held(Policy.load(args, trainable=False).model)


def test_packed_bytes_by_hand():
    assert packed_4bit_bytes(64 * 256) == 64 * 128 + 256 + 4 + 4 + 64 + 1024


# --- what an optimizer keeps ---------------------------------------------------------------------------------------------

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "AdamW": lambda params: torch.optim.AdamW(params, lr=1e-3),
    "AdamW, amsgrad": lambda params: torch.optim.AdamW(params, lr=1e-3, amsgrad=True),
    "SGD": lambda params: torch.optim.SGD(params, lr=1e-3),
    "SGD, momentum": lambda params: torch.optim.SGD(params, lr=1e-3, momentum=0.9),
    "Adafactor": lambda params: torch.optim.Adafactor(params, lr=1e-3),
    "AdamW8bit": lambda params: AdamW8bit(params, lr=1e-3),
    "AdamW8bit, small tensors too": lambda params: AdamW8bit(params, lr=1e-3, min_8bit_size=64),
    "PagedAdamW8bit": lambda params: PagedAdamW8bit(params, lr=1e-3),
    "Lion8bit": lambda params: bitsandbytes.optim.Lion8bit(params, lr=1e-3),  # pyright: ignore[reportPrivateImportUsage]
}


@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("lora", [None, LORA])
def test_an_optimizer_keeps_what_it_says(stored, name, lora):
    policy = Policy.load(PolicyArgs(path=stored, lora=lora), trainable=True)
    trained = [p for p in policy.parameters() if p.requires_grad]
    planned, exact = optimizer_bytes(OPTIMIZERS[name], trained)
    for parameter in trained:
        parameter.grad = torch.ones_like(parameter)
    optimizer = OPTIMIZERS[name](trained)
    optimizer.step()
    assert exact
    assert planned == state_bytes(optimizer)


def test_an_optimizer_that_refuses_the_meta_device_is_tried_on_the_cpu(stored):
    policy = Policy.load(PolicyArgs(path=stored), trainable=True)
    trained = list(policy.parameters())
    planned, exact = optimizer_bytes(lambda params: torch.optim.AdamW(params, lr=1e-3, fused=True), trained)
    assert not exact
    assert planned == pytest.approx(8 * sum(p.numel() for p in trained), rel=0.01)


# --- the plan ------------------------------------------------------------------------------------------------------------

LOAD = Workload(
    train_tokens=4096,
    longest_row=1024,
    tokens_flag="--model.micro_batch_tokens {tokens}",
    score_tokens=4096,
    rows=64,
    rows_flag="model.sampling.max_rows",
    prompts=4,
    prompt_tokens=512,
    new_tokens=512,
)


def setup(**changes: Any) -> Setup:
    policy = PolicyArgs(config=QWEN3_06B, gradient_checkpointing=True)
    return replace(Setup(policy, "model.student", adam, LOAD), **changes)


def allocation(plan: MemoryPlan, name: str) -> Allocation:
    return next(each for each in plan.allocations if each.name.startswith(name))


def test_a_plan_by_hand():
    plan = plan_memory(setup(teachers={"math": PolicyArgs(config=QWEN3_4B, dtype="bfloat16")}))
    tables = 4 * 64  # of rotary positions: 64 frequencies, kept twice
    assert allocation(plan, "policy: weights").bytes == 4 * BY_HAND_06B + 2 * tables
    assert allocation(plan, "gradients").bytes == 4 * BY_HAND_06B
    assert (
        allocation(plan, "optimizer states").bytes == 8 * BY_HAND_06B + 4 * 310
    )  # a step count for each of 310 tensors
    assert allocation(plan, "teacher math: weights").bytes == 2 * BY_HAND_4B + 2 * tables
    # (4 prompts x 512 + 64 rows x 8 x 65) positions x 28 layers x 1024 x (4 + 4) bytes
    assert allocation(plan, "KV cache").bytes == (4 * 512 + 64 * 8 * 65) * 28 * 1024 * 8
    phases = [plan.held(phase) for phase in ("rollout", "score", "update", "step")]
    assert plan.total == plan.held("always") + max(phases)
    assert plan.peak == ("rollout", "score", "update", "step")[phases.index(max(phases))]
    assert all(name in plan.table() for name in ("policy: weights", "KV cache of 64 rows", "total at the peak"))


def test_fsdp_shares_what_it_shards():
    single, sharded = plan_memory(setup()), plan_memory(setup(shards=4))
    for name in ("policy: weights", "gradients", "optimizer states"):
        assert allocation(sharded, name).bytes == pytest.approx(allocation(single, name).bytes / 4, rel=0.001)
    assert (
        allocation(sharded, "KV cache").bytes == allocation(single, "KV cache").bytes
    )  # each device writes its own answers
    assert allocation(sharded, "weights gathered for the rollout").bytes == 4 * BY_HAND_06B


def test_quantised_weights_stay_whole_under_fsdp():
    policy = PolicyArgs(config=QWEN3_06B, quantization="4bit", lora=LORA, dtype="bfloat16")
    single, sharded = (plan_memory(setup(policy=policy, shards=shards)) for shards in (1, 4))
    quantised = 28 * (2 * 1024 * 2048 + 2 * 1024 * 1024 + 3 * 1024 * 3072)
    saved = allocation(single, "policy: weights").bytes - allocation(sharded, "policy: weights").bytes
    adapters = allocation(single, "gradients").bytes
    assert saved == pytest.approx(0.75 * (2 * (BY_HAND_06B - quantised) + adapters), rel=0.01)


def test_gathered_weights_have_the_type_of_the_strategy():
    plan = plan_memory(setup(shards=4, gathered_bytes=2, whole_gradients=True))
    assert allocation(plan, "weights gathered for the rollout").bytes == 2 * BY_HAND_06B
    assert allocation(plan, "gradients kept whole").bytes == 4 * BY_HAND_06B
    assert allocation(plan, "KV cache").bytes == allocation(plan_memory(setup()), "KV cache").bytes / 2


def test_ddp_holds_gradients_twice():
    plan = plan_memory(setup(buckets=True))
    assert allocation(plan, "gradients: buckets").bytes == allocation(plan, "gradients").bytes


def test_precision_casts_what_it_casts():
    true = plan_memory(setup(precision="bf16-true"))
    assert allocation(true, "policy: weights").bytes == pytest.approx(2 * BY_HAND_06B, rel=1e-4)
    mixed = plan_memory(setup(precision="bf16-mixed"))
    assert allocation(mixed, "policy: weights").bytes == allocation(plan_memory(setup()), "policy: weights").bytes
    # Every matrix but the embedding, to which the head is tied; of one layer, under checkpointing.
    matrices = BY_HAND_06B - 151936 * 1024 - 28 * (2 * 1024 + 256) - 1024
    assert allocation(mixed, "16-bit copies").bytes == 2 * matrices / 28
    unchecked = plan_memory(setup(precision="bf16-mixed", policy=PolicyArgs(config=QWEN3_06B)))
    assert allocation(unchecked, "16-bit copies").bytes == 2 * matrices


def test_what_fits_says_nothing_and_what_may_not_fit_warns():
    plan = plan_memory(setup())
    assert check_fits(setup(), plan, plan.total, "cuda:0") is None
    warning = check_fits(setup(), plan, plan.total - 1, "cuda:0")
    assert warning is not None
    assert warning.startswith("This run may not fit: about")
    assert "cuda:0" in warning


def test_what_cannot_fit_is_refused_with_the_levers_that_help():
    plan = plan_memory(setup())
    with pytest.raises(
        UserError, match=r"cannot fit: it holds at least .* \(optimizer states .*; set --model\."
    ) as error:
        check_fits(setup(), plan, plan.least - 1, "cuda:0")
    assert str(error.value).count("saves") >= 1
    # A smaller rollout would not help, and is not named.
    assert "max_rows" not in str(error.value)
    assert check_fits(setup(), plan, plan.least, "cuda:0") is not None  # exactly enough is no reason to refuse


def test_levers_are_pulled_until_it_fits_the_strongest_first():
    policy = PolicyArgs(config=QWEN3_06B)
    heavy = setup(policy=policy, workload=replace(LOAD, rows=256, prompts=16))
    plan = plan_memory(heavy)
    path, remaining = suggest_savings(heavy, 8 * 2**30, lambda plan: plan.total)
    assert remaining <= 8 * 2**30
    assert plan.total - sum(lever.saves for lever in path) == remaining
    flags = " ".join(lever.flags for lever in path)
    assert path[0].flags.startswith("--model.sampling.max_rows")  # 28 GB of cache
    assert "--model.student.gradient_checkpointing true" in flags
    path, remaining = suggest_savings(heavy, 1, lambda plan: plan.total)
    assert remaining > 1
    assert all(lever.saves > 0 for lever in path)


def test_8bit_states_are_advised_that_can_step_on_the_weights(monkeypatch):
    def offered(**changes: Any) -> list[str]:
        return [flags for flags, _ in _changes(setup(cuda=True, **changes), 1) if "8bit" in flags]

    assert offered() == ["--model.optimizer bitsandbytes.optim.AdamW8bit"]
    for there, advice in ((None, []), (object(), ["--model.optimizer lit_uniopd.optimizers.AdamW8bit"])):
        monkeypatch.setattr("lit_uniopd.memory.suggestions.find_spec", lambda name: there)  # noqa: B023
        assert offered(shards=8, devices=8) == advice


def test_offloaded_inputs_of_layers_are_on_the_host():
    """28 layers x 4096 tokens x 1024 numbers of 4 bytes; one layer's stays."""
    checkpointed = setup(cuda=True)
    offloading = PolicyArgs(config=QWEN3_06B, gradient_checkpointing=True, activation_offloading=True)
    plan = plan_memory(replace(checkpointed, policy=offloading))
    spared = plan_memory(checkpointed).held("update") - plan.held("update")
    one = LOAD.train_tokens * 1024 * 4
    assert spared == 27 * one
    assert allocation(plan, "inputs of layers, offloaded").phase == "host"
    assert allocation(plan, "inputs of layers, offloaded").bytes == 28 * one
    on_cpu = plan_memory(setup(policy=offloading))
    assert on_cpu.held("update") == plan_memory(setup()).held("update")  # there is nowhere else
    path, _ = suggest_savings(checkpointed, 1, lambda plan: plan.held("update"))
    assert "--model.student.activation_offloading true" in " ".join(lever.flags for lever in path)


def test_placements_take_their_teachers_off_the_device():
    """Whatever class a teacher's arguments are of."""
    from dataclasses import dataclass

    @dataclass
    class Placed(PolicyArgs):
        placement: str = "resident"

    def teacher(placement: str) -> MemoryPlan:
        placed = Placed(config=QWEN3_06B, dtype="bfloat16", placement=placement)
        return plan_memory(setup(teachers={"math": placed}))

    resident = allocation(teacher("resident"), "teacher math: weights")
    moved = allocation(teacher("cpu_offload"), "teacher math: weights")
    assert (resident.phase, moved.phase) == ("always", "score")
    assert resident.bytes == moved.bytes
    assert allocation(teacher("quantized"), "teacher math: weights").bytes < 0.7 * resident.bytes
    assert not [p for p in teacher("http").allocations if p.name.startswith("teacher")]


@pytest.mark.parametrize(
    ("protocol", "expected"), [("vllm", 20 * (3 * 70 * 340 + 6 * 30 * 8)), ("sglang", 20 * (3 * 30 * 160 + 6 * 30 * 8))]
)
def test_servers_that_name_tokens_take_the_hosts_memory(protocol, expected):
    """Three requests at a time of six answers; on a CPU that is the device's."""
    from lit_uniopd.teachers import HttpArgs, TeacherArgs

    served = TeacherArgs(placement="http", http=HttpArgs(urls=["http://h"], protocol=protocol, requests=3))
    load = Workload.of_rollouts(
        SamplingArgs(max_new_tokens=30),
        answers=6,
        longest_prompt=40,
        micro_batch_tokens=100,
        here=True,
        cuda=False,
        top_k=20,
    )
    for cuda, phase in ((False, "score"), (True, "host")):
        plan = plan_memory(setup(teachers={"math": served}, workload=load, cuda=cuda))
        replies = allocation(plan, "teacher math: replies")
        assert (replies.phase, replies.bytes, replies.exact) == (phase, expected, False)
    sampled = plan_memory(setup(teachers={"math": served}, workload=replace(load, top_k=0)))
    assert not [p for p in sampled.allocations if p.name.startswith("teacher")]


def test_states_that_wait_for_other_teachers_of_a_mixture():
    """64 answers of 30 tokens, 1024 wide in 16 bits, and the head that they go through."""
    load = Workload(train_tokens=100, longest_row=60, score_tokens=100, new_tokens=30, answers=64)
    teachers = {"math": PolicyArgs(config=QWEN3_06B, dtype="bfloat16")}
    plan = plan_memory(setup(teachers=teachers, waiting=frozenset(teachers), workload=load, cuda=True))
    states, head = (allocation(plan, f"teacher math: {part} that wait") for part in ("states", "output head"))
    assert (states.bytes, states.phase) == (64 * 30 * 1024 * 2, "host")
    assert (head.bytes, head.phase, head.turn) == (151936 * 1024 * 2, "score", "")
    assert not [a for a in plan_memory(setup(teachers=teachers)).allocations if "wait" in a.name]


def test_teachers_that_take_turns_are_not_added_up():
    from lit_uniopd.teachers import TeacherArgs

    def of(*configs: Any, placement: Any, **changes: Any) -> MemoryPlan:
        teachers = [TeacherArgs(config=config, dtype="bfloat16", placement=placement) for config in configs]
        return plan_memory(setup(teachers={f"t{i}": args for i, args in enumerate(teachers)}, **changes))

    small, large = (of(config, placement="cpu_offload") for config in (QWEN3_06B, QWEN3_4B))
    both = of(QWEN3_06B, QWEN3_4B, placement="cpu_offload")
    assert both.held("score") == large.held("score") > small.held("score")
    assert (
        both.held("score")
        == allocation(both, "teacher t1: weights").bytes + allocation(both, "teacher t1: scoring").bytes
    )
    assert "score, in turn" in both.table()
    assert (
        of(QWEN3_06B, QWEN3_06B, placement="resident").held("score") == allocation(small, "teacher t0: scoring").bytes
    )
    # An offloaded one is whole on every device; a resident one is sharded, and gathered when its turn comes.
    assert allocation(of(QWEN3_06B, placement="cpu_offload", shards=4), "teacher t0: weights") == allocation(
        small, "teacher t0: w"
    )
    sharded = of(QWEN3_06B, placement="resident", shards=4, gathered_bytes=2)
    assert allocation(sharded, "teacher t0: weights gathered").bytes == 2 * BY_HAND_06B


def test_a_large_teacher_is_gathered_layer_by_layer():
    """Of the shape of Qwen3-30B-A3B: per layer attention, router, 128 experts, norms; two tables; the last norm."""
    from lit_uniopd.teachers import TeacherArgs

    config = QWEN3_06B | {
        "model_type": "qwen3_moe",
        "hidden_size": 2048,
        "num_hidden_layers": 48,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
        "tie_word_embeddings": False,
    }
    layer = 2 * 2048 * 4096 + 2 * 2048 * 512 + 128 * 2048 + 128 * 3 * 2048 * 768 + 2 * 2048 + 2 * 128
    outside = 2 * 151936 * 2048 + 2048

    def gathered(how: Any) -> MemoryPlan:
        teacher = TeacherArgs(config=config, dtype="bfloat16", gather=how)
        return plan_memory(setup(teachers={"big": teacher}, shards=8, gathered_bytes=2))

    whole, layers = gathered("whole"), gathered("layers")
    assert allocation(whole, "teacher big: weights gathered").bytes == 2 * (outside + 48 * layer)
    assert allocation(layers, "teacher big: weights gathered").bytes == 2 * (outside + 2 * layer)
    scoring = [sum(a.bytes for a in plan.allocations if a.phase == "score") for plan in (whole, layers)]
    assert scoring[0] - scoring[1] == 2 * 46 * layer  # 57 GB; the rollout is the peak then
    assert whole.total - layers.total > 55e9
    as_is = setup(teachers={"big": TeacherArgs(config=config, dtype="bfloat16")}, shards=8, gathered_bytes=2)
    changes, remaining = suggest_savings(as_is, layers.total, lambda plan: plan.total)
    assert ([change.flags for change in changes], remaining) == (["--model.teachers.big.gather layers"], layers.total)


def test_offloaded_shards_are_in_the_hosts_memory():
    teachers = {"math": PolicyArgs(config=QWEN3_06B, dtype="bfloat16")}
    sharded = setup(shards=4, gathered_bytes=2, whole_gradients=True, cuda=True, teachers=teachers)
    here, away = plan_memory(sharded), plan_memory(replace(sharded, offloaded=True))
    assert here.held("host") == 0
    assert away.held("always") == 2 * 2 * 4 * 64  # of each model two tables of rotary positions, which are not sharded
    moved = [
        allocation(here, name).bytes for name in ("policy: weights", "gradients", "optimizer", "teacher math: weights")
    ]
    assert away.held("host") == sum(moved) - away.held("always")
    assert away.held("rollout") == here.held("rollout")
    assert away.held("update") == here.held("update")
    assert here.held("step") > away.held("step") == 0  # the optimizer steps there
    path, _ = suggest_savings(replace(sharded, workload=replace(LOAD, rows=1)), 2**30, lambda plan: plan.held("always"))
    assert "--trainer.strategy.init_args.cpu_offload true" in [lever.flags for lever in path]
    adapted = PolicyArgs(config=QWEN3_06B, quantization="4bit", lora=LORA, dtype="bfloat16")
    quantised = plan_memory(replace(sharded, policy=adapted, teachers={}, offloaded=True))
    assert (
        quantised.held("always") > 28 * (2 * 1024 * 2048 + 2 * 1024 * 1024 + 3 * 1024 * 3072) / 2
    )  # a nibble a weight


# --- in a run ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [None, LORA])
def test_a_run_holds_what_its_plan_says(model_dirs, tmp_path, lora):
    run = module(model_dirs, student=PolicyArgs(path=model_dirs["student"], lora=lora), optimizer=adam)
    fit = trainer(tmp_path, max_steps=2, logger=Memory())
    fit.fit(run, Prompts(prompts(8)))
    plan = run.memory.plan
    assert plan is not None
    trained = [p for p in run.parameters() if p.requires_grad]
    assert allocation(plan, "policy: weights").bytes == held(run.policy.model)
    assert allocation(plan, "gradients").bytes == sum(p.grad.nbytes for p in trained if p.grad is not None)
    assert allocation(plan, "optimizer states").bytes == state_bytes(fit.optimizers[0])
    for name in ("math", "code"):
        assert allocation(plan, f"teacher {name}: weights").bytes == held(run.teachers[name].model)


def test_the_plan_comes_before_the_weights(model_dirs, tmp_path, monkeypatch):
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr("lit_uniopd.policy.policy.load_model", refuse)
    monkeypatch.setattr("lit_uniopd.memory.planner.free_bytes", lambda *_: 1000)
    run = module(model_dirs)
    with pytest.raises(UserError, match=r"cannot fit: .* cpu has 0\.98 KiB free; set --model"):
        trainer(tmp_path, max_steps=1).fit(run, Prompts(prompts(4)))


def test_a_plan_that_cannot_be_made_stops_nothing(model_dirs, tmp_path, monkeypatch, caplog):
    def fail(*_: Any) -> None:
        raise NotImplementedError("no such layer")

    monkeypatch.setattr("lit_uniopd.memory.planner.plan_memory", fail)
    trainer(tmp_path, max_steps=1, logger=Memory()).fit(module(model_dirs), Prompts(prompts(4)))
    assert "no memory plan for this model (NotImplementedError: no such layer)" in caplog.text


def test_both_tables_are_in_tensorboard(model_dirs, tmp_path):
    from lightning.pytorch.loggers import TensorBoardLogger
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = module(model_dirs)
    run_logger = TensorBoardLogger(tmp_path, name="run", default_hp_metric=False)
    trainer(tmp_path, max_steps=1, logger=run_logger).fit(run, Prompts(prompts(4)))
    events = EventAccumulator(run_logger.log_dir)
    events.Reload()
    tags = [tag for tag in events.Tags()["tensors"] if tag.startswith("memory/")]
    texts = {tag: events.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in tags}
    assert "policy: weights" in texts["memory/plan/text_summary"]
    table = texts["memory/parameters/text_summary"]
    assert [row.split("|")[1].strip() for row in table.splitlines()[2:]] == ["policy", "teacher math", "teacher code"]


def test_the_table_of_a_quantised_policy(stored):
    policy = Policy.load(PolicyArgs(path=stored, quantization="4bit", lora=LORA, dtype="bfloat16"), trainable=True)
    row = [cell.strip() for cell in parameter_table({"policy": policy.model}).splitlines()[2].split("|")[1:-1]]
    size = model_size(policy.model)
    assert row[:5] == [
        "policy",
        *(f"{n:,}" for n in (size.parameters, size.trainable, size.frozen, size.quantised)),
    ]
    assert "4bit" in row[6]
    assert "bfloat16" in row[6]
    assert "float32" in row[6]  # the adapters
    assert row[7] == "cpu"


def test_sampling_rows_are_those_of_a_batch(model_dirs, tmp_path):
    run = module(model_dirs, sampling=SamplingArgs(n=3, max_new_tokens=6, max_rows=5))
    trainer(tmp_path, max_steps=1).fit(run, Prompts(prompts(8), batch_size=4))
    load = run.workload()
    assert (load.rows, load.new_tokens) == (5, 6)
    longest = max(len(run.policy.render(prompt)) for prompt in prompts(8))
    assert load.prompt_tokens == longest
    assert load.train_tokens == 12 * (longest + 6)  # the whole rollout is less than the budget


def test_what_the_playground_must_build_first_has_a_plan_too(tmp_path, monkeypatch):
    """The outline is made on the meta device; a model that is trained for it must not be."""
    monkeypatch.chdir(tmp_path)
    meta = build_meta_model(PolicyArgs(path="playground:tiny_text"), trainable=True, flag="model.policy")
    assert all(parameter.is_meta for parameter in meta.parameters())
    loaded = Policy.load(PolicyArgs(path="playground:tiny_text"), trainable=False)
    sizes = [sum(p.numel() for p in model.parameters()) for model in (loaded.model, meta)]
    assert sizes[0] == sizes[1] > 0
