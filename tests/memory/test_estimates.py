"""KV cache and activations, against what really is held."""

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from lit_uniopd.memory.estimates import (
    autocast_copies_bytes,
    cached_positions,
    dimensions,
    head_bytes,
    kv_cache_bytes,
    layer_units_bytes,
    numerics,
    saved_bytes,
)
from lit_uniopd.policy import LoraArgs, cascade_attention
from lit_uniopd.policy.backbone import body_of
from lit_uniopd.policy.lora import with_adapters
from lit_uniopd.sampling.decode_loop import Decoder

SHAPE: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 1024,
}


def model(kind: str = "qwen3", layers: int = 4, dtype: torch.dtype = torch.float32, lora: bool = False, **more: Any):
    config = AutoConfig.for_model(kind, **SHAPE, num_hidden_layers=layers, **more)
    built: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)
    return with_adapters(built, LoraArgs(rank=4, alpha=8), "policy") if lora else built


# --- KV cache ------------------------------------------------------------------------------------------------------------


def decoded(built: Any, prompts: list[list[int]], answers: int, new: int, autocast: bool = False) -> Decoder:
    decoder = Decoder(built.eval(), new)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
        decoder.prefill(prompts, answers, pad_id=0)
        for _ in range(new - 1):  # the last token is drawn and not read
            decoder.step(torch.ones(len(prompts) * answers, dtype=torch.long))
    return decoder


@pytest.mark.parametrize(("prompt", "new"), [(5, 1), (5, 60), (5, 70), (70, 140), (3, 66)])
def test_the_formula_is_the_decoding_caches_bytes(prompt, new):
    built = model()
    decoder = decoded(built, [list(range(3, 3 + prompt))] * 2, 3, new)
    size = kv_cache_bytes(dimensions(built), numerics(built, autocast=False), rows=6, prompt=prompt, new=new)
    assert size == decoder.cache_bytes()


@pytest.mark.parametrize(("prompt", "new"), [(70, 1), (70, 66), (70, 67), (70, 110)])
def test_shared_prompts_are_counted_once(prompt, new, monkeypatch):
    built, prompts, rows = model(), 2, 6
    options = {"prompts": prompts, "rows": rows, "prompt": prompt, "new": new}
    dims, types = dimensions(built), numerics(built, autocast=False)
    repeated = kv_cache_bytes(dims, types, **options)
    monkeypatch.setattr(cascade_attention, "SPARED_BYTES_CPU", 0)
    decoder = decoded(built, [list(range(3, 3 + prompt))] * prompts, rows // prompts, new)
    assert decoder.shared is not None
    assert kv_cache_bytes(dims, types, **options) == decoder.cache_bytes() < repeated
    windowed = replace(dims, windows=(None, prompt + new - 1))
    assert kv_cache_bytes(windowed, types, **options) > kv_cache_bytes(
        replace(dims, windows=(None,) * 2), types, **options
    )


def test_sliding_windows_are_no_longer_than_they_are():
    options = {"layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 16}
    built = model("gemma3_text", query_pre_attn_scalar=32, **options)
    decoder = decoded(built, [list(range(3, 43))], 2, 50)
    dims = dimensions(built)
    assert dims.windows == (16, None, 16, None)
    assert kv_cache_bytes(dims, numerics(built, autocast=False), rows=2, prompt=40, new=50) == decoder.cache_bytes()


@pytest.mark.parametrize("kind", ["qwen3", "llama"])
def test_under_autocast_keys_keep_the_type_of_the_residual_stream(kind):
    built = model(kind)
    decoder = decoded(built, [[5, 6, 7]], 4, 10, autocast=True)
    types = numerics(built, autocast=True)
    assert kv_cache_bytes(dimensions(built), types, rows=4, prompt=3, new=10) == decoder.cache_bytes()


def test_positions_by_hand():
    assert cached_positions(100, 1) == 164
    assert cached_positions(100, 65) == 164  # 164 tokens are read, and there is room for them
    assert cached_positions(100, 66) == 229
    assert cached_positions(100, 1000, window=512) == 512


# --- activations ---------------------------------------------------------------------------------------------------------


def measured(built: Any, tokens: int, rows: int, autocast: bool) -> int:
    """Bytes of all that the graph of one forward pass holds, weights apart."""
    weights = {p.untyped_storage().data_ptr() for p in built.parameters()}
    saved: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    ids = torch.randint(0, 300, (rows, tokens // rows))
    casts = torch.autocast("cpu", torch.bfloat16, cache_enabled=False) if autocast else nullcontext()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), casts:
        states = body_of(built)(input_ids=ids, use_cache=False).last_hidden_state
    assert states.requires_grad
    return sum(tensor.untyped_storage().nbytes() for key, tensor in saved.items() if key not in weights)


CASES = {
    "full": {},
    "full, llama": {"kind": "llama"},
    "full, bfloat16": {"dtype": torch.bfloat16},
    "full, autocast": {"autocast": True},
    "full, eager": {"attn_implementation": "eager"},
    "lora": {"lora": True},
    "lora, bfloat16": {"lora": True, "dtype": torch.bfloat16},
    "lora, bfloat16, autocast": {"lora": True, "dtype": torch.bfloat16, "autocast": True},
    "lora, autocast": {"lora": True, "autocast": True},
    "lora, llama": {"lora": True, "kind": "llama"},
}


def bfloat16_attention_runs() -> bool:
    """Not where ATEN_CPU_CAPABILITY hides AVX-512 from torch and oneDNN finds it: the kernel is chosen by the latter."""
    states_BHTD = torch.ones(4, 4, 128, 32, dtype=torch.bfloat16)
    try:
        torch.nn.functional.scaled_dot_product_attention(states_BHTD, states_BHTD, states_BHTD)
    except RuntimeError as error:
        if "avx512" not in str(error):
            raise
        return False
    return True


@pytest.mark.parametrize("case", CASES)
def test_a_layer_keeps_what_the_formula_says(case):
    """The difference between 4 and 2 layers; docs/memory.md has each case."""
    if ("bfloat16" in case or "autocast" in case) and not bfloat16_attention_runs():
        pytest.skip("torch cannot run attention in bfloat16 with ATEN_CPU_CAPABILITY below what this processor has")
    options = dict(CASES[case])
    autocast = bool(options.pop("autocast", False))
    tokens, rows = 512, 4
    four, two = (model(layers=layers, **options).train() for layers in (4, 2))
    per_layer = (measured(four, tokens, rows, autocast) - measured(two, tokens, rows, autocast)) / 2
    types = numerics(four, autocast=autocast)
    copies = autocast_copies_bytes(four, dimensions(four), checkpointing=True) if autocast else 0
    estimate = tokens * layer_units_bytes(dimensions(four), types, tokens // rows) + copies
    assert estimate == pytest.approx(per_layer, rel=0.015)


def test_checkpointing_keeps_the_inputs_of_layers():
    built = model(layers=6).train()
    enable: Any = getattr(built, "activation_checkpointing_enable", None) or built.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    types, dims = numerics(built, autocast=False), dimensions(built)
    saved = measured(built, 512, 4, autocast=False)
    layer = 512 * layer_units_bytes(dims, types)
    # The layer that is computed again is not among what the forward pass holds.
    assert saved_bytes(dims, types, tokens=512, checkpointing=True) - layer == pytest.approx(saved, rel=0.015)


def test_by_hand_for_real_models():
    """Qwen3-4B: 36 layers, 8 key heads of 128; Qwen3-0.6B: 28 layers, the same heads, hidden 1024."""
    shapes = {
        "0.6B": {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16},
        "4B": {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32},
    }
    common = {"vocab_size": 151936, "head_dim": 128, "num_key_value_heads": 8, "tie_word_embeddings": True}
    with torch.device("meta"):
        models = {
            name: AutoModelForCausalLM.from_config(
                AutoConfig.for_model("qwen3", **common, **shape), dtype=torch.bfloat16
            )
            for name, shape in shapes.items()
        }
    per_token = {
        name: kv_cache_bytes(dimensions(m), numerics(m, autocast=False), rows=1, prompt=64, new=1)
        for name, m in models.items()
    }
    # 2 x 8 x 128 numbers of 2 bytes per layer and position, for 64 + 64 positions
    assert per_token["4B"] == 128 * 36 * 2 * 8 * 128 * 2 == 128 * 144 * 1024
    assert per_token["0.6B"] == 128 * 28 * 2 * 8 * 128 * 2 == 128 * 112 * 1024
    dims = dimensions(models["4B"])
    types = numerics(models["4B"], autocast=False)
    # 4B in bfloat16, trained in full: norms 2 x 2560 x (4 + 2), q and k norms 5120 x (4 + 2), attention (2 x 4096 +
    # 2 x 1024) x 2 and a float32 per head, gate, silu, up and product 4 x 9728 x 2, shared inputs 2 x 2560 x 2.
    by_hand = 2 * 2560 * 6 + 5120 * 6 + 10240 * 2 + 32 * 4 + 4 * 9728 * 2 + 2 * 2560 * 2
    assert layer_units_bytes(dims, types) == by_hand
    # The head on a GPU: one tile of 2^26 float32, the states twice, and its gradient anew.
    assert head_bytes(dims, types, tokens=4096, cuda=True, training=True) == 2**28 + 2 * 4096 * 2560 * 2 + (
        151936 * 2560 * 2
    )
