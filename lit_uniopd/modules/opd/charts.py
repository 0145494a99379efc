"""The curves that a distillation is read by."""

from collections.abc import Sequence

from lit_uniopd.monitoring.tensorboard_layout import Charts


def opd_charts(
    *,
    domains: Sequence[str],
    heldout: Sequence[str],
    teachers: Sequence[str],
    graded: bool,
    sampled: bool,
    aligned: Sequence[str] = (),
) -> Charts:
    """Are answers getting right, does the student come closer to its teachers, how long are answers, what was cut, and
    where does the time go?

    Args:
        domains: of the training prompts.
        heldout: names of the held-out prompts that are validated.
        teachers: their names.
        graded: whether training answers are graded.
        sampled: whether the loss is that of the sampled tokens.
        aligned: teachers with other tokenizers.
    """
    charts = {
        "Right answers (share of those that were graded)": ["rollout/outcome_rate"] if graded else [],
        "Right answers by domain": [f"domain/{name}/outcome_rate" for name in domains] if graded else [],
        "Right answers to held-out prompts (share)": [f"val/{name}/accuracy" for name in heldout],
        "Reward: mean advantage of a token (nats)": ["rollout/reward"],
        "KL to the teachers (nats per token)": [f"teacher/{name}/kl" for name in teachers],
        "Loss": ["train/loss"],
        "KL to the teachers over all tokens, also masked ones (nats)": ["train/kl_all_tokens"] if teachers else [],
        "Length of answers (tokens)": ["rollout/length"],
        "Shares: answers cut, answers left out, tokens clipped, tokens masked": [
            *("rollout/truncated", "rollout/removed"),
            *(("train/clip_fraction", "train/gap_fraction", "train/gap_fraction_eos") if sampled else ()),
        ],
        "Tokens alone with one of the teacher's, and with none (shares)": [
            f"teacher/{name}/{share}" for name in aligned for share in ("one_to_one", "unaligned")
        ],
        "Entropy of the student (nats)": ["train/entropy"] if sampled else [],
        "Gradient norm": ["train/grad_norm"],
        "Seconds of a step": [
            f"time/{part}" for part in ("rollout", "score", "grade", "update", "wait", "overhead", "step")
        ],
    }
    return {title: tags for title, tags in charts.items() if tags}
