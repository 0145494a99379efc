"""transformers' ``generate``, behind ``sampling.engine: generate``: slower than the loop, for comparison."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GenerationConfig

from lit_uniopd.policy.backbone import body_of, head_of, unwrap
from lit_uniopd.policy.multimodal import Vision, grid_positions, vision_inputs
from lit_uniopd.sampling.batches import prompt_groups
from lit_uniopd.sampling.decode_loop import arguments, left_pad
from lit_uniopd.sampling.request import AnswerBuffer, GenerationRequest, Progress
from lit_uniopd.utils.seeding import derive_seed


def write(request: GenerationRequest) -> AnswerBuffer:
    """Answer a request; the log-probs are computed by a separate pass over prompts and answers."""
    buffer, progress, finished = AnswerBuffer(request), Progress(request), 0
    with torch.random.fork_rng(devices=[request.device] if request.device.type == "cuda" else []):
        # One generator for the whole call: ranks differ by their prompts' keys, or write other answers to them.
        torch.manual_seed(derive_seed(request.seed, "generate", request.keys[0], request.first))
        for group in prompt_groups(request, first_logits):
            # Repeated here: generate repeats picture by picture, and so mixes up those of a prompt with several.
            prompts = [tokens for tokens in group.prompt_tokens for _ in range(group.answers)]
            vision = [pictures for pictures in group.vision for _ in range(group.answers)]
            ids_RL, mask_RL = left_pad(prompts, request.pad_id, request.device)
            out_RL = _generate(request.model, ids_RL, mask_RL, request.generation_config(), vision).sequences
            new_RT = out_RL[:, ids_RL.shape[1] :]
            mask_RL = F.pad(mask_RL, (0, new_RT.shape[1]), value=True)
            logps_RT = _response_logps(request.model, out_RL, mask_RL, new_RT, request.args.temperature or 1, vision)
            buffer.tokens_BT[group.rows_R, : new_RT.shape[1]] = new_RT
            buffer.logps_BT[group.rows_R, : new_RT.shape[1]] = logps_RT
            finished += len(group.rows_R)
            progress(finished)
    return buffer


def first_logits(model: nn.Module, prompts: list[list[int]], pad_id: int) -> Tensor:
    """Logits ``[P, 2, V]`` of the first two tokens of greedy answers."""
    ids_PL, mask_PL = left_pad(prompts, pad_id, head_of(model).weight_VH.device)
    config = GenerationConfig(max_new_tokens=2, pad_token_id=pad_id, return_dict_in_generate=True, output_logits=True)
    return torch.stack(_generate(model, ids_PL, mask_PL, config, [{}] * len(prompts)).logits, dim=1).float()


def _generate(
    model: nn.Module, ids_RL: Tensor, mask_RL: Tensor, config: GenerationConfig, vision: Sequence[Vision]
) -> Any:
    """Transformers' own output; its ``sequences`` ``[R, L]`` are prompts and answers."""
    base, pictures = unwrap(model), vision_inputs(model, ids_RL, vision)
    config.return_dict_in_generate = True
    # Options that ours leaves open would come from the model's own (repetition penalties, say), so that is set aside.
    model_config, base.generation_config = base.generation_config, GenerationConfig()
    try:
        return base.generate(  # type: ignore[operator]
            ids_RL, attention_mask=mask_RL.long(), generation_config=config, **pictures
        )
    finally:
        base.generation_config = model_config


def _response_logps(
    model: nn.Module, ids_RL: Tensor, mask_RL: Tensor, new_RT: Tensor, temperature: float, vision: Sequence[Vision]
) -> Tensor:
    """Log-probs of the last tokens of each row, by one pass over prompt and answer."""
    body, head = body_of(model), head_of(model)
    answers_RL = torch.arange(ids_RL.shape[1], device=ids_RL.device) >= ids_RL.shape[1] - new_RT.shape[1]
    pictures = vision_inputs(model, ids_RL, vision, answers_RL)
    grid = grid_positions(model, ids_RL, mask_RL, pictures)
    positions_RL = (mask_RL.cumsum(dim=1) - 1).clamp(min=0) if grid is None else grid[0]
    positions = {"position_ids": positions_RL} if "position_ids" in arguments(body) else {}
    hidden_RLH = body(
        input_ids=ids_RL, attention_mask=mask_RL, use_cache=False, **positions, **pictures
    ).last_hidden_state
    hidden_RTH = hidden_RLH[:, -new_RT.shape[1] - 1 : -1]
    logps_RT = torch.empty(new_RT.shape, dtype=torch.float32, device=new_RT.device)
    for t in range(new_RT.shape[1]):  # a column at a time: [R, T, V] may not fit
        logits_RV = head.logits(hidden_RTH[:, t]) / temperature
        logps_RT[:, t] = logits_RV.log_softmax(dim=-1).gather(1, new_RT[:, t, None])[:, 0]
    return logps_RT
