"""transformers' ``generate``, behind ``sampling.engine: generate``: slower than the loop, for comparison."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GenerationConfig

from lit_uniopd.policy.backbone import body_of, head_of, unwrap
from lit_uniopd.policy.multimodal import Vision, grid_positions, vision_inputs
from lit_uniopd.sampling.batches import PromptGroup, prompt_groups
from lit_uniopd.sampling.decode_loop import arguments, left_pad
from lit_uniopd.sampling.request import AnswerBuffer, GenerationRequest, Progress
from lit_uniopd.utils.seeding import derive_seed


def write(request: GenerationRequest) -> AnswerBuffer:
    """Answer a request; the log-probs are computed by a separate pass over prompts and answers."""
    buffer, progress, finished = AnswerBuffer(request), Progress(request), 0
    with torch.random.fork_rng(devices=[request.device] if request.device.type == "cuda" else []):
        # One generator for the whole call: ranks differ by their prompts' keys.
        torch.manual_seed(derive_seed(request.seed, "generate", request.keys[0]))
        for group in prompt_groups(request):
            ids_PL, mask_PL = left_pad(group.prompt_tokens, request.pad_id, request.device)
            out_RL = _generate(request, group, ids_PL, mask_PL)
            new_RT = out_RL[:, ids_PL.shape[1] :]
            mask_RL = F.pad(mask_PL.repeat_interleave(group.answers, dim=0), (0, new_RT.shape[1]), value=True)
            vision_R = [vision for vision in group.vision for _ in range(group.answers)]
            temperature = request.args.temperature or 1
            logps_RT = _response_logps(request.model, out_RL, mask_RL, new_RT, temperature, vision_R)
            buffer.tokens_BT[group.rows_R, : new_RT.shape[1]] = new_RT
            buffer.logps_BT[group.rows_R, : new_RT.shape[1]] = logps_RT
            finished += len(group.rows_R)
            progress(finished)
    return buffer


def _generate(request: GenerationRequest, group: PromptGroup, ids_PL: Tensor, mask_PL: Tensor) -> Tensor:
    """Prompts and answers ``[R, L]``."""
    base, config = unwrap(request.model), request.generation_config(group.answers)
    pictures = vision_inputs(request.model, ids_PL, group.vision)
    # Options that ours leaves open would come from the model's own (repetition penalties, say), so that is set aside.
    model_config, base.generation_config = base.generation_config, GenerationConfig()
    try:
        return base.generate(  # type: ignore[operator]
            ids_PL, attention_mask=mask_PL.long(), generation_config=config, **pictures
        )
    finally:
        base.generation_config = model_config


def _response_logps(
    model: nn.Module, ids_RL: Tensor, mask_RL: Tensor, new_RT: Tensor, temperature: float, vision: Sequence[Vision]
) -> Tensor:
    """Log-probs of the last tokens of each row, by one pass over prompt and answer."""
    body, head = body_of(model), head_of(model)
    pictures = vision_inputs(model, ids_RL, vision)
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
