"""From prompts to rollouts: the policy writes the answers."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace

import torch

from lit_uniopd.distributed.sharding import can_gather_in_turn
from lit_uniopd.grade import NO_GRADER
from lit_uniopd.policy.chat_template import EncodedPrompt
from lit_uniopd.policy.policy import Policy
from lit_uniopd.sampling.args import SamplingArgs
from lit_uniopd.sampling.engine_vllm_server import PendingAnswers
from lit_uniopd.sampling.engines import Completions, answer, begin, collect
from lit_uniopd.sampling.request import GenerationRequest
from lit_uniopd.types import Prompt, Rollouts
from lit_uniopd.utils.progress import follow, progress_bar


def write_answers(
    policy: Policy,
    prompts: Sequence[Prompt],
    args: SamplingArgs,
    *,
    seed: int,
    keys: Sequence[int] | None = None,
    encoded: Sequence[EncodedPrompt] | None = None,
    first: int = 0,
) -> Rollouts:
    """Let the policy write ``args.n`` answers to every prompt.

    Args:
        policy: writes the answers.
        prompts: at least one.
        args: how to sample.
        seed: of the sampling noise; equal seeds give equal answers.
        keys: a number for each prompt: its answers form the group of that number, and their noise depends on it. None:
            0, 1, ...
        encoded: the prompts as the policy is to read them. None: as it reads them by itself.
        first: number of the first of these answers to each prompt, of which others are written elsewhere.

    Returns:
        Rollouts of ``len(prompts) * args.n`` samples, answers to a prompt side by side, not graded and not scored yet.
    """
    keys = range(len(prompts)) if keys is None else keys
    encoded = [policy.encode(prompt) for prompt in prompts] if encoded is None else encoded
    request = _request(policy, encoded, args, seed=seed, keys=keys, first=first)
    rows, reading = len(prompts) * args.n, policy.gathered()
    if args.colocates and can_gather_in_turn(policy):
        request, reading = replace(request, read_weights=policy.layer_by_layer), nullcontext()
    with reading, policy.answering(), progress_bar(rows, "writing answers", unit="answer") as bar:
        answers = answer(replace(request, on_progress=follow(bar), on_tokens=bar.add_tokens))
    return rollouts_of(policy, prompts, encoded, answers, keys)


def begin_answers(
    policy: Policy, encoded: Sequence[EncodedPrompt], args: SamplingArgs, *, seed: int, keys: Sequence[int]
) -> PendingAnswers:
    """Have servers write what ``write_answers`` would return by the weights of now, and go on.

    Args:
        policy: whose weights they are brought before this returns. It may be trained meanwhile.
        encoded: the prompts as it reads them.
        args: how to sample, with ``server``.
        seed: as in ``write_answers``.
        keys: likewise.
    """
    with policy.gathered(), policy.answering():
        return begin(_request(policy, encoded, args, seed=seed, keys=keys))


def _request(
    policy: Policy,
    encoded: Sequence[EncodedPrompt],
    args: SamplingArgs,
    *,
    seed: int,
    keys: Sequence[int],
    first: int = 0,
) -> GenerationRequest:
    return GenerationRequest(
        model=policy.model,
        prompt_tokens=[prompt.tokens for prompt in encoded],
        args=args,
        eos_ids=sorted(policy.eos_ids),
        pad_id=policy.pad_id,
        seed=seed,
        keys=keys,
        first=first,
        vision=[prompt.vision for prompt in encoded],
        unprocessed=[prompt.unprocessed for prompt in encoded],
        processor=policy.processor,
    )


def collect_answers(pending: PendingAnswers) -> Completions:
    """Wait for what ``begin_answers`` has begun."""
    rows = len(pending.request.prompt_tokens) * pending.request.args.n
    with progress_bar(rows, "waiting for answers", unit="answer") as bar:
        return collect(pending, follow(bar), bar.add_tokens)


def rollouts_of(
    policy: Policy,
    prompts: Sequence[Prompt],
    encoded: Sequence[EncodedPrompt],
    answers: Completions,
    keys: Sequence[int],
) -> Rollouts:
    """Answers as rollouts that are not graded and not scored yet.

    Args:
        policy: that has written them.
        prompts: that they answer, equally many each, side by side.
        encoded: the prompts as the policy has read them.
        answers: ``[B, T]``.
        keys: the number of each prompt's group.
    """
    rows = len(answers.finish)
    n = rows // len(prompts)
    device = answers.tokens_BT.device
    ids = [row[mask].tolist() for row, mask in zip(answers.tokens_BT.cpu(), answers.mask_BT.cpu(), strict=True)]
    return Rollouts(
        prompts=[prompt for prompt in prompts for _ in range(n)],
        prompt_tokens=[prompt.tokens for prompt in encoded for _ in range(n)],
        tokens_BT=answers.tokens_BT,
        mask_BT=answers.mask_BT,
        student_logps_BT=answers.logps_BT,
        group_B=torch.tensor(list(keys), device=device).repeat_interleave(n),
        finish=answers.finish,
        text=policy.tokenizer.batch_decode(ids, skip_special_tokens=True),
        outcome_B=torch.full((rows,), -1, device=device),
        grades=[NO_GRADER] * rows,
        teacher_logps_BT=torch.zeros_like(answers.logps_BT),
        teacher_ok_B=torch.zeros(rows, dtype=torch.bool, device=device),
        advantages_BT=torch.zeros_like(answers.logps_BT),
        keep_B=torch.ones(rows, dtype=torch.bool, device=device),
        vision=[prompt.vision for prompt in encoded for _ in range(n)],
    )
