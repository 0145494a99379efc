"""Filters for the messages of other libraries that no user can act on, each with its reason. All others are shown."""

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
    # Said of every score of every benchmark (`@`): the names are documented, and nothing can be done about them.
    "MLFlow only allows": RuntimeWarning,
    # tqdm in a notebook without ipywidgets: its bars are text then, and nothing else changes.
    "IProgress not found": Warning,
}
"""Regular expression for the beginning of a warning -> its category."""

UNHELPFUL_LOG_LINES: dict[str, str] = {
    # Advertisements of Lightning's other products, with every trainer.
    "lightning.pytorch.utilities.rank_zero": "💡 Tip",
    # On CPUs with AVX-512 BF16 bitsandbytes looks for a kernel on the hub when it is imported, also by peft and
    # for runs without 4-bit weights. Ours do without it (`lit_uniopd.policy.loading`): it would repack them.
    "bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit_forward",
}
"""Logger -> how those of its lines begin that are not about the run."""


def install_filters() -> None:
    """Hide these messages from now on; a second call changes nothing."""
    for message, category in UNHELPFUL.items():
        warnings.filterwarnings("ignore", message=message, category=category)
    for name in UNHELPFUL_LOG_LINES:
        logging.getLogger(name).addFilter(is_about_the_run)


def is_about_the_run(record: logging.LogRecord) -> bool:
    """Whether a line of another library's log is about the run."""
    return not record.getMessage().startswith(UNHELPFUL_LOG_LINES[record.name])
