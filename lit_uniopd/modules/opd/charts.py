"""The curves that a distillation is read by."""

from typing import Any

from lit_uniopd.monitoring.tensorboard_layout import Charts


def opd_charts(module: Any) -> Charts:
    """Are answers getting right, does the student come closer to its teachers, how long are answers, what was cut, and
    where does the time go?

    Args:
        module: ``UniOPD``, before its first step.
    """
    heldout = list(module.validation.heldout) if module.trainer.enable_validation else []
    graded = any(prompt.grader for prompt in module.trainer_data.prompts("train"))
    sampled, teachers = module.loss.kind == "sampled", list(module.teachers)
    charts = {
        "Right answers (share of those that were graded)": ["rollout/outcome_rate"] if graded else [],
        "Right answers by domain": [f"domain/{name}/outcome_rate" for name in module.domains] if graded else [],
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
            f"teacher/{name}/{share}" for name in module.teachers.aligners for share in ("one_to_one", "unaligned")
        ],
        "Entropy of the student (nats)": ["train/entropy"] if sampled else [],
        "Gradient norm": ["train/grad_norm"],
        "Seconds of a step": [
            f"time/{part}" for part in ("rollout", "score", "grade", "update", "wait", "overhead", "step")
        ]
        + ["time/rollout_overlapped"] * module.sampling.lag,
        **module.work.charts,
    }
    return {title: tags for title, tags in charts.items() if tags}
