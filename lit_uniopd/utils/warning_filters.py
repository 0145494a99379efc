"""What other libraries say that no user can act on; each with its reason. All else is shown."""

import logging
import warnings

UNHELPFUL: dict[str, type[Warning]] = {
    # lightning-utilities 0.15 on torch 2.13.
    r"`isinstance\(treespec, LeafSpec\)` is deprecated": FutureWarning,
    # peft 0.21 asks transformers 5.23 by the old name of the property.
    "`is_gradient_checkpointing` is deprecated": FutureWarning,
    # A resumed run writes to a directory of its own; what Lightning forgets then is which old checkpoint to delete.
    "The dirpath has changed from": UserWarning,
    # In a notebook the process has arguments of its own. They stay: with several ranks Lightning starts the others by
    # the arguments that this process was started with.
    "LightningCLI's args parameter": UserWarning,
    # tqdm in a notebook without ipywidgets: its bars are text then, and all else is the same.
    "IProgress not found": Warning,
}
"""What a warning begins with (a regular expression), and its kind."""

UNASKED: dict[str, str] = {
    # Advertisements of Lightning's other products, with every trainer.
    "lightning.pytorch.utilities.rank_zero": "💡 Tip",
    # On CPUs with AVX-512 BF16 bitsandbytes looks for a kernel on the hub when it is imported, also by peft and
    # for runs without 4-bit weights. Ours do without it (`lit_uniopd.policy.loading`): it would repack them.
    "bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit_forward",
}
"""A logger, and what those of its lines begin with that are not about the run."""


def install_filters() -> None:
    """Leave them out, from here on; twice is once."""
    for message, category in UNHELPFUL.items():
        warnings.filterwarnings("ignore", message=message, category=category)
    for name in UNASKED:
        logging.getLogger(name).addFilter(is_about_the_run)


def is_about_the_run(record: logging.LogRecord) -> bool:
    """Whether a line of another library's log is about the run."""
    return not record.getMessage().startswith(UNASKED[record.name])
