"""Pre-training of the playground's models: next-token loss on written answers, until they are good enough."""

import copy
import random
from collections.abc import Callable, Sequence

import torch
from transformers import PreTrainedModel

from lit_uniopd.errors import UserError
from lit_uniopd.playground.models import BOS, EOS, PAD, encode, make_tokenizer
from lit_uniopd.policy.multimodal import Vision, vision_inputs
from lit_uniopd.sampling.args import SamplingArgs
from lit_uniopd.sampling.engines import sample
from lit_uniopd.utils.progress import progress_bar

IGNORED = -100
Row = tuple[str, str]
"""A prompt and the answer to learn."""


def answers_of(
    model: PreTrainedModel,
    prompts: Sequence[str],
    *,
    temperature: float,
    seed: int = 0,
    encoded: Sequence[tuple[list[int], Vision]] | None = None,
) -> list[str]:
    """One answer to each prompt; ``encoded`` has their tokens and pictures, if there are any."""
    training = model.training
    model.eval()
    args = SamplingArgs(n=1, max_new_tokens=40, temperature=temperature, max_rows=len(prompts))
    inputs = encoded if encoded is not None else [([BOS, *encode(prompt)], {}) for prompt in prompts]
    tokens, vision = [ids for ids, _ in inputs], [pictures for _, pictures in inputs]
    completions = sample(model, tokens, args, eos_ids={EOS}, pad_id=PAD, seed=seed, vision=vision)
    model.train(training)
    rows = [row[mask].tolist() for row, mask in zip(completions.tokens_BT, completions.mask_BT, strict=True)]
    return make_tokenizer().batch_decode(rows, skip_special_tokens=True)


def answer_loss(
    model: PreTrainedModel,
    rows: Sequence[Row],
    encoded: Sequence[tuple[list[int], Vision]] | None = None,
) -> torch.Tensor:
    """Mean negative log-prob of the answers' tokens; ``encoded`` as in ``answers_of``."""
    inputs = encoded if encoded is not None else [([BOS, *encode(prompt)], {}) for prompt, _ in rows]
    starts = [ids for ids, _ in inputs]
    ends = [[*encode(answer), EOS] for _, answer in rows]
    width = max(len(start) + len(end) for start, end in zip(starts, ends, strict=True))
    ids = [start + end + [PAD] * (width - len(start) - len(end)) for start, end in zip(starts, ends, strict=True)]
    labels = [
        [IGNORED] * len(start) + end + [IGNORED] * (width - len(start) - len(end))
        for start, end in zip(starts, ends, strict=True)
    ]
    # Padding is on the right and attention causal: no mask needed.
    ids_RL = torch.tensor(ids)
    pictures = vision_inputs(model, ids_RL, [vision for _, vision in inputs])
    return model(input_ids=ids_RL, labels=torch.tensor(labels), use_cache=False, **pictures).loss


def train_until(
    model: PreTrainedModel,
    loss: Callable[[PreTrainedModel, random.Random, int], torch.Tensor],
    score: Callable[[PreTrainedModel], float],
    *,
    stop_at: float,
    learning_rate: float,
    first_check: int,
    check_every: int,
    max_steps: int,
    averaging: float,
    seed: int,
    label: str,
) -> tuple[PreTrainedModel, int, float]:
    """Train until ``score`` of the averaged weights reaches ``stop_at``.

    The number of steps until a tiny transformer grasps a rule varies threefold with the seed, so a fixed number would
    leave some seeds without the skill.

    Args:
        model: trained in place.
        loss: (model, random source, step) -> loss of a batch.
        score: in [0, 1], on prompts that are neither trained on nor held out.
        stop_at: score that ends the training.
        learning_rate: of AdamW, after 20 steps of warm-up.
        first_check: step of the first score.
        check_every: steps between scores.
        max_steps: give up.
        averaging: decay of the exponential average of the weights, which is the result.
        seed: of the data.
        label: for signs of life and the error message.

    Returns:
        The averaged model, the steps taken, the last score.

    Raises:
        UserError: if the score is still below ``stop_at`` after ``max_steps``.
    """
    rng = random.Random(seed)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    average = copy.deepcopy(model)
    trained, averaged = list(model.parameters()), list(average.parameters())
    reached = 0.0
    with progress_bar(max_steps, label, "step", announce=True) as bar:
        for step in range(max_steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * min(1.0, (step + 1) / 20)
            optimizer.zero_grad()
            loss(model, rng, step).backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            with torch.no_grad():
                for mean, value in zip(averaged, trained, strict=True):
                    mean.lerp_(value, max(1 - averaging, 1 / (step + 1)))
            bar.update()
            if step + 1 >= first_check and (step + 1 - first_check) % check_every == 0:
                reached = score(average)
                bar.set_postfix_str(f"{reached:.2f}, stops at {stop_at:.2f}")
                if reached >= stop_at:
                    return average, step + 1, reached
    raise UserError(
        f"{label}, but reached {reached:.2f} instead of {stop_at:.2f} in {max_steps} steps; choose another "
        "--seed_everything."
    )
