"""Settings of pair losses that never act, always act, or cannot be reached with these scores and lengths."""

import math
from array import array
from collections.abc import Iterator, Sequence

from lit_uniopd.modules.lengths import beyond_positions
from lit_uniopd.modules.preference.losses import PairLossArgs
from lit_uniopd.policy.args import PolicyArgs
from lit_uniopd.types import EncodedPair
from lit_uniopd.utils.objections import Objection

LEAST_WEIGHT = 0.01
"""A performance weight of an undecided pair below this leaves nothing to learn."""
FAR = 5.0
"""Nats per token that the mean log-probs of two answers are hardly ever apart."""
WEAK = 0.1
"""A beta of means up to this is one of sums."""
SHARES_FLIPS = ("dpo", "simpo", "dpo_positive", "robust")


def loss_objections(args: PairLossArgs) -> Iterator[Objection]:
    """What speaks against a loss whatever the pairs are."""
    if args.kind == "omni_dpo":
        yield from _performance(args)
    if not args.takes_means and args.beta >= 1:
        yield Objection(
            "settings",
            f"--model.loss.beta {args.beta} multiplies sums of log-probs, for which 0.01 to 0.1 is usual; lower it, or "
            "set --model.loss.average true.",
        )
    if args.takes_means and args.beta <= WEAK and args.kind not in ("ipo", "orpo"):
        yield Objection(
            "settings",
            f"--model.loss.beta {args.beta} multiplies means of token log-probs, for which 2 to 10 is usual; raise "
            "it, or set --model.loss.average false.",
        )
    margin = {"simpo": args.gamma_beta_ratio, "ipo": 1 / (2 * args.beta), "hinge": 1 / args.beta}.get(args.kind, 0.0)
    if args.takes_means and margin > FAR:
        yield Objection(
            "settings",
            f"--model.loss.kind {args.kind} wants a margin of {margin:g} nats per token, which mean log-probs hardly "
            "ever reach: every pair is pushed for ever; change "
            f"--model.loss.{'gamma_beta_ratio' if args.kind == 'simpo' else 'beta'}.",
        )
    unused = {
        "label_smoothing": args.label_smoothing != 0 and args.kind not in SHARES_FLIPS,
        "penalty": args.penalty != PairLossArgs.penalty and args.kind != "dpo_positive",
        "gamma_beta_ratio": args.gamma_beta_ratio != PairLossArgs.gamma_beta_ratio and args.kind != "simpo",
    }
    for name in (name for name, is_unused in unused.items() if is_unused):
        yield Objection(
            "settings",
            f"--model.loss.{name} {getattr(args, name):g} is not used by --model.loss.kind {args.kind}; leave it out, "
            "or choose a kind that has it.",
        )
    idle = {"robust": ("label_smoothing", args.label_smoothing), "dpo_positive": ("penalty", args.penalty)}
    name, value = idle.get(args.kind, ("", 1.0))
    if value == 0:
        yield Objection(
            "settings",
            f"--model.loss.kind {args.kind} with {name} 0 is plain DPO; set --model.loss.{name} above 0, or kind dpo.",
        )


def _performance(args: PairLossArgs) -> Iterator[Objection]:
    """Omni-DPO's weight of what the policy has mastered, for a pair that it finds equally likely."""
    if args.performance == "off":
        return
    logit = args.tau_ref if args.performance == "calibrated" else 0.0
    weight = math.exp(-args.gamma * math.log1p(math.exp(min(-logit, 700.0))))
    if weight < LEAST_WEIGHT:
        yield Objection(
            "settings",
            f"With --model.loss.gamma {args.gamma:g} and tau_ref {args.tau_ref:g} a pair that the policy finds equally "
            f"likely weighs {weight:.1e}, so hardly anything is learned; lower gamma, or raise tau_ref.",
        )
    elif args.gamma == 0 or (args.performance == "calibrated" and args.tau_ref - args.beta * FAR > FAR):
        yield Objection(
            "settings",
            f"With --model.loss.gamma {args.gamma:g} and tau_ref {args.tau_ref:g} the performance weight is 1 for "
            "every pair; set --model.loss.performance off if that is meant, or choose a tau_ref near beta times the "
            "margin of a mastered pair.",
        )


def score_objections(args: PairLossArgs, pairs: Sequence[EncodedPair], eta: float | None) -> Iterator[Objection]:
    """What speaks against a loss with the scores of these pairs.

    Args:
        args: the loss.
        pairs: to train on, with scores on the scale of the loss.
        eta: slope of the quality weights; None: unknown.
    """
    if not args.needs_scores or not pairs:
        return
    chosen = sorted(array("d", (encoded.pair.score_chosen for encoded in pairs)))
    if any(score != score for score in chosen):
        yield Objection(
            "settings",
            "Omni-DPO needs scores, and the pairs have none; take plain DPO by --model.loss.kind dpo, keep the weight "
            "that needs none by --model.loss.use_quality false --model.loss.use_nll false, or name columns of scores "
            "by --data.train.score_chosen_column and score_rejected_column.",
            refused=True,
        )
        return
    if args.use_quality and eta == 0:
        yield Objection(
            "settings",
            "With --data.weighting.eta 0 every pair weighs 0.5, whatever its scores; set --model.loss.use_quality "
            "false if that is meant, or raise eta.",
        )
    if not args.use_nll or args.lam == 0 or args.tau_good == -math.inf:
        return
    least, median, best = chosen[0], chosen[len(chosen) // 2], chosen[-1]
    if best < args.tau_good:
        yield Objection(
            "settings",
            f"The NLL can never act: no chosen answer scores --model.loss.tau_good {args.tau_good} (the best has "
            f"{best:.3g}); lower it to the scale of your scores, or set use_nll false.",
        )
    elif least >= args.tau_good and len(chosen) > 1 and (least < best or args.tau_good == PairLossArgs.tau_good):
        # Chosen answers that all score alike are right ones, which a threshold below them was set for.
        yield Objection(
            "settings",
            f"The NLL holds on to every chosen answer: all score --model.loss.tau_good {args.tau_good} or more (the "
            f"least has {least:.3g}, the median {median:.3g}); raise it to the scale of your scores, or set it to "
            "-.inf if all are meant.",
        )


def pair_length_objections(pairs: Sequence[EncodedPair], args: PolicyArgs, flag: str) -> Iterator[Objection]:
    """Pairs beyond the model's positions; those with pictures, whose prompts are not counted yet, are passed over.

    Args:
        pairs: to train on.
        args: of the policy.
        flag: the option that ``args`` came from.
    """
    lengths = ((len(p.prompt_tokens), max(len(p.chosen_tokens), len(p.rejected_tokens))) for p in pairs)
    prompt, answer = max((row for row in lengths if row[0]), key=sum, default=(0, 0))
    yield from beyond_positions(args, flag, prompt=prompt, answer=answer, option="--data.max_length")
