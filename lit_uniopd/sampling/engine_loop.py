"""Our own decoding, behind ``sampling.engine: loop``: one prefill per prompt, and finished answers leave the batch."""

import torch
from torch import Tensor

from lit_uniopd.sampling.args import SamplingArgs
from lit_uniopd.sampling.batches import prompt_groups
from lit_uniopd.sampling.decode_loop import Decoder, decode, first_logits
from lit_uniopd.sampling.request import AnswerBuffer, GenerationRequest, Progress
from lit_uniopd.sampling.token_sampler import CounterRNG, sample_token


def write(request: GenerationRequest) -> AnswerBuffer:
    """Answer a request; each answer's noise is keyed by its prompt's key and its number alone."""
    args, buffer, progress = request.args, AnswerBuffer(request), Progress(request)
    keys_P = torch.tensor(list(request.keys), dtype=torch.long, device=request.device)
    answer_B = torch.arange(request.first, request.first + request.answers, device=request.device).repeat(len(keys_P))
    uniforms = CounterRNG(request.seed, keys_P.repeat_interleave(request.answers), answer_B)

    def choose(step: int, rows_R: Tensor, logits_RV: Tensor) -> tuple[Tensor, Tensor]:
        if request.banned:
            return _sample_allowed(logits_RV, uniforms(step, rows_R), args, request.banned)
        return sample_token(logits_RV, uniforms(step, rows_R), args.temperature, args.top_k, args.top_p)

    finished = 0
    for group in prompt_groups(request, first_logits):
        decoder = Decoder(request.model, args.max_new_tokens)
        logits_RV = decoder.prefill(group.prompt_tokens, group.answers, request.pad_id, group.vision)
        before = finished
        decode(
            decoder,
            logits_RV,
            group.rows_R,
            choose,
            request.eos_E,
            buffer.tokens_BT,
            buffer.logps_BT,
            lambda done, tokens, before=before: progress(before + done, tokens),
        )
        finished += len(group.rows_R)
    return buffer


def _sample_allowed(
    logits_RV: Tensor, uniform_R: Tensor, args: SamplingArgs, banned: list[int]
) -> tuple[Tensor, Tensor]:
    """Sample no banned token; log-probs stay those over all tokens, as everywhere."""
    logps_RV = (logits_RV / (args.temperature or 1)).log_softmax(dim=-1)
    logits_RV[:, banned] = -torch.inf
    tokens_R, _ = sample_token(logits_RV, uniform_R, args.temperature, args.top_k, args.top_p)
    return tokens_R, logps_RV.gather(1, tokens_R[:, None])[:, 0]
