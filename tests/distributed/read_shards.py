"""Two ranks read models shard by shard, and say whether they are what one process loads.

    torchrun --nproc-per-node RANKS read_shards.py ROOT NAME ...

Rank 0 writes ROOT/NAME.json: the names of what differs from the model that one process loads, and whether every rank read
the whole. `limited` loads a large model with less memory than its weights take, then tries to read it whole.
"""

import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from tiny import make_tokenizer
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM

from lit_uniopd.distributed.sharding import ShardingArgs, full_tensor
from lit_uniopd.playground.untrained import write_tiny_vision
from lit_uniopd.policy import LoraArgs, Policy, PolicyArgs
from lit_uniopd.policy.backbone import unwrap

LENGTHS: dict[str, Any] = {
    "vocab_size": 101,  # not a multiple of the ranks
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
}
EXPERTS = {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
CONFIGS: dict[str, dict[str, Any]] = {
    "tied": {"model_type": "qwen3", "tie_word_embeddings": True},
    "untied": {"model_type": "llama", "tie_word_embeddings": False, "attention_bias": True},
    "gemma": {"model_type": "gemma2", "dtype": "bfloat16", "query_pre_attn_scalar": 8},
    "experts": {"model_type": "qwen3_moe", **EXPERTS, "norm_topk_prob": True},
    "few_experts": {"model_type": "qwen3_moe", **EXPERTS | {"num_experts": 1, "num_experts_per_tok": 1}},
    "grouped": {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2},
}
LORA = LoraArgs(rank=4, alpha=8)
CASES: dict[str, tuple[str, dict[str, Any], bool]] = {
    "frozen": ("tied", {}, False),
    "trained": ("tied", {}, True),
    "checkpointed": ("untied", {"gradient_checkpointing": True}, True),
    "several_files": ("untied", {"dtype": "bfloat16"}, False),
    "stored_in_16_bits": ("gemma", {}, False),
    "trained_from_16_bits": ("gemma", {}, True),
    "adapters": ("gemma", {"lora": LORA}, True),
    "adapters_on_tied": ("tied", {"lora": LORA}, True),
    "experts": ("experts", {}, False),
    "grouped": ("grouped", {}, False),
    "few_experts": ("few_experts", {}, False),
    "pictures": ("pictures", {}, True),
    "picture_adapters": ("pictures", {"lora": LORA}, True),
    "language_model_alone": ("pictures", {"freeze_vision": True}, True),
}
"""Name -> model, options, whether it is trained."""


LARGE = {
    "model_type": "qwen3",
    "vocab_size": 101,
    "hidden_size": 768,
    "intermediate_size": 1536,
    "num_hidden_layers": 14,
    "num_attention_heads": 12,
    "num_key_value_heads": 12,
    "head_dim": 64,
    "dtype": "bfloat16",
}
"""325 MB in float32, half of that on disk."""


def write_models(root: Path) -> None:
    """Random weights in the hub's format; the untied model in several files."""
    tokenizer = make_tokenizer()
    for seed, (name, settings) in enumerate(CONFIGS.items()):
        torch.manual_seed(seed)
        model: Any = AutoModelForCausalLM.from_config(_config(settings))
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.2)
        model.generation_config.eos_token_id = [7, 9]
        model.save_pretrained(root / name, max_shard_size="20KB" if name == "untied" else "1GB")
        tokenizer.save_pretrained(root / name)
    write_tiny_vision(root / "pictures", 0)
    large: Any = AutoModelForCausalLM.from_config(_config(LARGE), dtype=torch.bfloat16)
    large.save_pretrained(root / "large")
    tokenizer.save_pretrained(root / "large")


def _config(settings: dict[str, Any]) -> Any:
    from transformers import AutoConfig

    loader: Any = AutoConfig
    return loader.for_model(**LENGTHS | {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2} | settings)


def differences(shards: nn.Module, whole: nn.Module) -> list[str]:
    """Names of parameters and buffers whose values, types or gradients are other ones; all of them if names differ."""
    result = []
    for kind in ("named_parameters", "named_buffers"):
        actual, expected = (dict(getattr(model, kind)(remove_duplicate=False)) for model in (shards, whole))
        result += sorted(actual.keys() ^ expected.keys())
        for name in sorted(actual.keys() & expected.keys()):  # in one order on every rank
            tensor = full_tensor(actual[name])
            same = tensor.dtype == expected[name].dtype and torch.equal(tensor, expected[name])
            if not same or actual[name].requires_grad != expected[name].requires_grad:
                result.append(name)
    return result


def compare(root: Path, name: str, mesh: DeviceMesh) -> dict[str, Any]:
    model, options, trained = CASES[name]
    args = PolicyArgs(path=str(root / model), **options)
    torch.manual_seed(3)
    whole = Policy.load(args, trainable=trained)
    torch.manual_seed(3)
    shards = Policy.load(args, trainable=trained, ranks=mesh.size())
    read_whole = shards.unread is None
    if trained:
        shards.keep_reference()
    shards.shard(mesh, ShardingArgs())
    different = differences(shards.model, whole.model)
    for copy in shards.references:
        different += [f"reference: {n}" for n in differences(copy.model, whole.requires_grad_(False).model)]
    base: Any = unwrap(shards.model)
    expected: Any = unwrap(whole.model)
    for attribute in ("generation_config", "config", "name_or_path", "_weight_conversions"):
        if str(getattr(base, attribute, None)) != str(getattr(expected, attribute, None)):
            different.append(attribute)
    if shards.training != whole.training or shards._packing_works != _packing(whole):
        different.append("what was tried")
    if not all(isinstance(p, DTensor) for p in shards.parameters()):
        different.append("not sharded")
    prompts, tokens, mask = [[5, 6, 7]] * 2, torch.tensor([[8, 9], [4, 0]]), torch.tensor([[1, 1], [1, 0]]).bool()
    logps, _ = shards.token_logps(prompts, tokens, mask)
    if not torch.equal(logps, whole.token_logps(prompts, tokens, mask)[0]):
        different.append("log-probs")
    if _is_shared(expected) != _is_shared(base):
        different.append("tied weights")
    return {"different": different, "read_whole": read_whole}


def limited(root: Path, mesh: DeviceMesh) -> dict[str, Any]:
    """Load the large model for training where memory for 0.8 of its weights can be allocated, in shards and then whole.

    The files' mapping counts as allocated too, though its pages are the page cache's, so it comes on top.
    """
    args, file = PolicyArgs(path=str(root / "large")), root / "large/model.safetensors"
    status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    allocated, stored = 1024 * int(status["VmData"].split()[0]), file.stat().st_size
    limit = int(allocated + stored + 0.8 * 2 * stored)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.RLIM_INFINITY))
    shards = Policy.load(args, trainable=True, ranks=mesh.size())
    shards.shard(mesh, ShardingArgs())
    read = sum(p.to_local().nbytes for p in shards.parameters() if isinstance(p, DTensor))
    del shards
    try:
        Policy.load(args, trainable=True)
        whole = ""
    except (MemoryError, RuntimeError) as error:
        whole = f"{type(error).__name__}: {error}"
    resource.setrlimit(resource.RLIMIT_DATA, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return {"read": read, "weights": 2 * stored, "whole": whole}


def _is_shared(model: Any) -> bool:
    return model.get_input_embeddings().weight is model.get_output_embeddings().weight


def _packing(policy: Policy) -> dict[bool, bool]:
    policy.decide_packing()
    return policy._packing_works


def main(root: Path, names: list[str]) -> None:
    torch.set_num_threads(1)
    ranks = int(os.environ["WORLD_SIZE"])
    mesh = init_device_mesh("cpu", (ranks,))
    for name in names:
        result = limited(root, mesh) if name == "limited" else compare(root, name, mesh)
        if torch.distributed.get_rank() == 0:
            (root / f"{name}.json").write_text(json.dumps(result))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    os._exit(0)  # see scaling.py


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
