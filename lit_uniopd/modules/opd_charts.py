"""The curves that a distillation is read by."""

from typing import TYPE_CHECKING

from lit_uniopd.board import Charts

if TYPE_CHECKING:
    from lit_uniopd.modules.uni_opd import UniOPD


def opd_charts(module: "UniOPD") -> Charts:
    """Are answers getting right, does the student come closer to its teachers, how long are answers, what was cut, and
    where does the time go?

    Args:
        module: as it is set up.
    """
    data = getattr(module.trainer, "datamodule", None)
    graded = any(prompt.grader for prompt in getattr(data, "train_prompts", ()))
    sampled = module.loss.kind == "sampled"
    heldout = module.heldout if module.trainer.enable_validation else ()
    charts = {
        "Right answers (share of those that were graded)": ["rollout/outcome_rate"] if graded else [],
        "Right answers by domain": [f"domain/{name}/outcome_rate" for name in module.domains] if graded else [],
        "Right answers to held-out prompts (share)": [f"val/{name}/accuracy" for name in heldout],
        "Reward: mean advantage of a token (nats)": ["rollout/reward"],
        "KL to the teachers (nats per token)": [f"teacher/{name}/kl" for name in module.teachers],
        "Loss": ["train/loss"],
        "Length of answers (tokens)": ["rollout/length"],
        "Shares: answers cut, answers left out, tokens clipped, tokens masked": [
            *("rollout/truncated", "rollout/removed"),
            *(("train/clip_fraction", "train/gap_fraction") if sampled else ()),
        ],
        "Entropy of the student (nats)": ["train/entropy"] if sampled else [],
        "Gradient norm": ["train/grad_norm"],
        "Seconds of a step": [
            f"time/{part}" for part in ("rollout", "score", "grade", "update", "wait", "overhead", "step")
        ],
    }
    return {title: tags for title, tags in charts.items() if tags}
