"""Tries every causal and image-text architecture of the installed transformers with tiny random weights.

    python -m benchmarks.architectures

For each: log-probs of a padded batch against single rows by the model's own logits; the gradient of a DPO step on two
pairs, in one batch against row by row; and a rollout of two answers to each prompt, whose log-probs are compared like
the first. Text only: ``tests/policy/test_architectures.py`` has the pictures. Prints a Markdown table; progress goes to
the other stream.
"""

import argparse
import logging
import signal
import sys
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers.models.auto import modeling_auto

from lit_uniopd.errors import UserError, first_line
from lit_uniopd.functional import dpo_loss
from lit_uniopd.policy import Policy, PolicyArgs
from lit_uniopd.policy.backbone import check_head
from lit_uniopd.policy.dropout import switch_off_dropout
from lit_uniopd.sampling import SamplingArgs, sample
from lit_uniopd.sampling.decode_loop import decodable

NAMES: dict[int, str] = {
    32: "hidden_size d_model n_embd dim embedding_size word_embed_proj_dim attention_hidden_size projection_dim "
    "out_hidden_size mamba_d_ssm lru_width embed_dim emb_dim hidden_size_global image_token_embed_dim base_channels "
    "latent_channels text_hidden_size encoder_hidden_size ple_embed_dim hc_lowrank",
    64: "intermediate_size ffn_dim ffn_hidden_size d_inner decoder_ffn_dim d_ff n_inner encoder_ffn_dim dim_ff "
    "vocab_size moe_intermediate_size shared_expert_intermediate_size vocab_size_per_layer_input n_words "
    "expert_ffn_hidden_size share_expert_dim codebook_size num_embeddings encoder_hash_byte_group_vocab "
    "ngram_vocab_size_base",
    128: "max_position_embeddings n_positions context_length attention_window_size",
    16: "global_head_dim",
    8: "head_dim kv_lora_rank q_lora_rank qk_rope_head_dim qk_nope_head_dim v_head_dim linear_key_head_dim rotary_dim "
    "linear_value_head_dim mamba_d_head mamba_head_dim hidden_size_per_layer_input linear_head_dim attention_head_dim "
    "router_hidden_size adapter_rank mamba_dt_rank laurel_rank",
    4: "num_attention_heads n_head n_heads num_heads decoder_attention_heads encoder_attention_heads num_experts "
    "num_local_experts n_routed_experts moe_num_experts linear_num_value_heads mamba_n_heads mamba_num_heads "
    "state_size mamba_d_state ssm_state_size mamba_state_dim linear_num_heads attention_heads "
    "num_sliding_attention_heads latent_query_num zero_expert_num",
    2: "num_key_value_heads num_kv_heads n_shared_experts num_hidden_layers n_layer n_layers num_layers decoder_layers "
    "encoder_layers depth num_experts_per_tok num_experts_per_token moe_k top_k_experts linear_num_key_heads expand "
    "mamba_n_groups n_groups eos_token_id layers moe_topk num_expert_group",
    1: "n_group topk_group first_k_dense_replace mamba_expand bos_token_id",
    0: "pad_token_id",
    60: "image_token_id image_token_index img_token_id boi_token_index image_patch_id",
    61: "video_token_id video_token_index eoi_token_index vision_start_token_id image_start_token_id "
    "low_res_image_start_token_id frame_start_token_id",
    62: "audio_token_id audio_token_index vision_end_token_id image_end_token_id frame_end_token_id",
}
SIZES = {name: size for size, names in NAMES.items() for name in names.split()}
"""By the names of configs; each takes those that it has."""
MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1], "partial_rotary_factor": 1.0}
BY_LAYER = {kind: {"rope_type": "default", "rope_theta": 10000.0} for kind in ("full_attention", "sliding_attention")}
SPECIAL: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "cohere_compass": {"text_config": {"rope_parameters": BY_LAYER}},
    "cohere_compass_text": {"rope_parameters": BY_LAYER},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 2, "num_experts_per_tok": 2},
    "ernie4_5_vl_moe": {
        "text_config": {"rope_parameters": MROPE | {"mrope_section": [1, 1, 2]}, "moe_num_experts": 8, "moe_k": 2}
    },
    "falcon_h1": {"mamba_d_ssm": 32, "mamba_n_heads": 4},
    "gemma3n_text": {"num_kv_shared_layers": 0, "intermediate_size": 64, "activation_sparsity_pattern": [0.0, 0.0]},
    "glm46v": {"text_config": {"rope_parameters": MROPE}},
    "glm4v": {"text_config": {"rope_parameters": MROPE}},
    "glm4v_moe": {"text_config": {"rope_parameters": MROPE}},
    "glm_ocr": {"text_config": {"rope_parameters": MROPE}},
    "glmga": {"text_config": {"rope_parameters": MROPE}},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "hunyuan_vl": {"text_config": {"rope_parameters": MROPE}},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 8},
    "molmo2": {"adapter_config": {"vision_feature_layer": [1, 0]}},
    "paddleocr_vl": {"text_config": {"rope_parameters": MROPE}},
    "qwen2_5_omni_thinker": {"text_config": {"rope_parameters": MROPE}},
    "qwen2_5_vl": {"text_config": {"rope_parameters": MROPE}},
    "qwen2_vl": {"text_config": {"rope_parameters": MROPE}},
    "recurrent_gemma": {"num_hidden_layers": 3, "num_key_value_heads": 1},
    "rwkv": {"rescale_every": 0},  # it divides weights in place
    "step3p7": {"text_config": {"sliding_window": 64}},
    "xmod": {"default_language": "en_XX"},
    "zamba": {
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
        "num_hidden_layers": 4,
        "num_key_value_heads": 4,
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
    },
    "zaya": {"head_dim": 16, "num_experts_per_tok": 1},
}
"""What some architectures need beside."""
PROMPTS = [[11, 12, 13], [4, 5, 6, 7, 8, 9, 30, 31, 32], [10, 4], [11, 12, 14]]
ANSWERS = [[15, 16, 2], [17, 2], [18, 19, 20], [5, 6, 7]]
MASK_BT = torch.tensor([[step < len(answer) for step in range(3)] for answer in ANSWERS])
MAX_PARAMETERS = 20_000_000
SECONDS = 30
TOLERANCE = 1e-3
"""Nats, or a share of the gradient; float32 rounding of two layers is a hundred times smaller."""


def small(config: Any) -> dict[str, Any]:
    """Arguments that make a config small, and the configs inside it."""
    inner = {name: value for name, value in vars(config).items() if isinstance(value, transformers.PreTrainedConfig)}
    stored = config.to_dict()
    sizes = {name: size for name, size in SIZES.items() if isinstance(stored.get(name), int)}
    sizes |= {name: SIZES[name] for name in ("head_dim", "num_key_value_heads") if name in stored}
    sizes |= {"num_key_value_heads": 4} if "kv_lora_rank" in stored else {}
    layers = stored.get("layer_types")
    if layers:  # one of each kind
        kinds = list(dict.fromkeys(layers))
        sizes |= {"layer_types": (kinds * 2)[: max(2, len(kinds))], "num_hidden_layers": max(2, len(kinds))}
    return sizes | {name: small(value) | {"model_type": value.model_type} for name, value in inner.items()}


def merged(sizes: dict[str, Any], special: dict[str, Any]) -> dict[str, Any]:
    """The one over the other, config within config."""
    inner = {
        key: merged(sizes[key], value) for key, value in special.items() if key in sizes and key.endswith("_config")
    }
    return sizes | special | inner


def tiny(name: str, auto: Any) -> Any:
    """A model with random weights, in eval mode.

    Raises:
        ValueError: if the config stays large.
    """
    arguments = merged(small(transformers.AutoConfig.for_model(name)), SPECIAL.get(name, {}))
    config = transformers.AutoConfig.for_model(name, **arguments)
    with torch.device("meta"):
        count = sum(p.numel() for p in auto.from_config(config).parameters())
    if count > MAX_PARAMETERS:
        raise ValueError(f"{count:,} parameters with the sizes that are known here")
    torch.manual_seed(0)
    model = auto.from_config(config, dtype=torch.float32)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.2)
    return model.eval()


def plain_logps(model: Any, prompt: Sequence[int], answer: Sequence[int]) -> Tensor:
    """Log-probs of an answer by the model's own logits, one row without padding."""
    types = {"token_type_ids": torch.tensor([[0] * len(prompt) + [1] * len(answer)])}  # of a prefix language model
    options: dict[str, Any] = types if model.config.model_type == "paligemma" else {}
    options |= {"use_cache": False} if model.config.model_type == "rwkv" else {}  # caches change in place
    logits = model(input_ids=torch.tensor([[*prompt, *answer]]), **options).logits[0, len(prompt) - 1 : -1].float()
    return logits.log_softmax(-1).gather(1, torch.tensor(answer)[:, None])[:, 0]


@torch.no_grad()
def scoring_error(model: Any) -> float:
    """Largest difference of a padded batch's log-probs from those of single rows, in nats."""
    expected = torch.cat([plain_logps(model, *row) for row in zip(PROMPTS, ANSWERS, strict=True)])
    return float((batch_logps(model, PROMPTS)[MASK_BT] - expected).abs().max())


def gradient_error(model: Any) -> float:
    """Distance of a DPO step's gradient on a padded batch, in training mode, from that of single rows, in evaluation
    mode, as a share of the latter.
    """
    prompts = [PROMPTS[0], PROMPTS[0], PROMPTS[1], PROMPTS[1]]  # chosen and rejected in turn

    def gradient(logps_B: Tensor) -> Tensor:
        chosen, rejected = logps_B[::2], logps_B[1::2]
        reference = 1.05 * chosen.detach(), 0.95 * rejected.detach()
        loss = dpo_loss(chosen, rejected, *reference, beta=0.1).loss
        weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
        grads = torch.autograd.grad(loss, weights, allow_unused=True)
        return torch.cat(
            [(weight * 0 if grad is None else grad).flatten() for weight, grad in zip(weights, grads, strict=True)]
        )

    rows = [plain_logps(model, *row).sum() for row in zip(prompts, ANSWERS, strict=True)]
    expected = gradient(torch.stack(rows))
    model.train()
    switch_off_dropout(model)
    error = float((gradient(batch_logps(model, prompts).sum(1)) - expected).norm() / expected.norm())
    model.eval()
    return error


def batch_logps(model: Any, prompts: Sequence[Sequence[int]]) -> Tensor:
    """Log-probs ``[4, 3]`` of the answers, each after its prompt, as the objectives take them."""
    processor = SimpleNamespace(tokenizer=SimpleNamespace(pad_token_id=0, eos_token_id=2))
    tokens_BT = torch.tensor([answer + [0] * (3 - len(answer)) for answer in ANSWERS])
    return Policy(model, processor, PolicyArgs()).token_logps(prompts, tokens_BT, MASK_BT)[0]


@torch.no_grad()
def rollout_error(model: Any) -> float:
    """Largest difference of a rollout's log-probs from those of single rows, in nats."""
    done = sample(model, PROMPTS, SamplingArgs(n=2, max_new_tokens=5), eos_ids=[2], pad_id=0, seed=1)
    rows = enumerate(zip(done.tokens_BT, done.mask_BT, strict=True))
    expected = torch.cat([plain_logps(model, PROMPTS[row // 2], tokens[mask].tolist()) for row, (tokens, mask) in rows])
    return float((done.logps_BT[done.mask_BT] - expected).abs().max())


def verdict(name: str, auto: Any) -> tuple[str, str]:
    """What came of an architecture, and why."""
    try:
        with time_limit():
            model = tiny(name, auto)
            model(input_ids=torch.tensor([[5, 6, 7]]))
    except Exception as error:  # whatever a config of unusual names runs into
        print(name, first_line(error), file=sys.stderr)
        if any(word in str(error) for word in ("pixel_values", "flattened_patches")):
            return "not covered", "takes no prompt without a picture"
        return "not covered", "its config stays large or contradicts itself with the sizes known to the script"
    try:
        with time_limit():
            check_head(model)
            errors = {
                "log-probs": scoring_error(model),
                "gradients": gradient_error(model),
                "rollouts": rollout_error(model),
            }
    except TimeoutError as error:
        return "not covered", str(error)
    except UserError as error:
        return "refused", str(error).removeprefix(type(model).__name__).split(";")[0].strip()
    except Exception as error:
        return "wrong", f"{type(error).__name__}: {first_line(error)[:90]}"
    wrong = [f"{what} differ by {error:.1e}" for what, error in errors.items() if not error <= TOLERANCE]
    if wrong:
        return "wrong", ", ".join(wrong)
    return ("right", "") if decodable(model) else ("right, by generate", "")


@contextmanager
def time_limit() -> Iterator[None]:
    """An alarm after `SECONDS`."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="model types; none: all")
    names = parser.parse_args().names
    warnings.simplefilter("ignore")
    logging.disable()
    transformers.logging.set_verbosity_error()
    tables: dict[str, tuple[Any, Any]] = {
        "causal": (modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, transformers.AutoModelForCausalLM),
        "image-text": (
            modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
            transformers.AutoModelForImageTextToText,
        ),
    }
    print(f"transformers {transformers.__version__}\n\n| architectures | outcome | which |\n|---|---|---|")
    for kind, (mapping, auto) in tables.items():
        outcomes: dict[tuple[str, str], list[str]] = defaultdict(list)
        for name in names or sorted(mapping):
            if name in mapping:
                result = verdict(name, auto)
                outcomes[result].append(name)
                print(name, *result, file=sys.stderr)
        for (outcome, reason), members in sorted(outcomes.items()):
            print(f"| {len(members)} {kind} | {outcome}{': ' * bool(reason)}{reason} | {', '.join(members)} |")


if __name__ == "__main__":
    main()
