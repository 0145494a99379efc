"""The curves that preference learning is read by."""

from collections.abc import Sequence

from lit_uniopd.monitoring.tensorboard_layout import Charts


def preference_charts(splits: Sequence[str], *, weighted: bool) -> Charts:
    """Are pairs ranked right and by what margin, and do chosen answers stay likely?

    Args:
        splits: `train`, and `val` if pairs are validated.
        weighted: whether the loss is Omni-DPO's, with weights and an NLL of its own.
    """
    charts = {
        "Loss": [f"{split}/loss" for split in splits],
        "Pairs ranked right (share)": [f"{split}/accuracy" for split in splits],
        "Reward margin": [f"{split}/margin" for split in splits],
        "Rewards of chosen and rejected answers": ["train/chosen_reward", "train/rejected_reward"],
        "Log-probs per token of chosen and rejected answers": ["train/chosen_logp", "train/rejected_logp"],
        "Gradient norm": ["train/grad_norm"],
    }
    if weighted:
        charts["Weights: quality, performance, and how many pairs they are worth (share)"] = [
            *("train/w_quality", "train/w_performance", "train/effective_share"),
        ]
        charts["Mastery of the pairs"] = [f"{split}/mastery" for split in splits]
        charts["Loss: the NLL's part, and the share of pairs on which it acts"] = [
            *("train/nll_loss", "train/nll_active")
        ]
    return charts
