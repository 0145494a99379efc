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
}
"""What a warning begins with (a regular expression), and its kind."""
ADVERTISED = "💡 Tip"
"""What Lightning's advertisements of its other products begin with; they come with every trainer."""


def hush() -> None:
    """Leave them out, from here on."""
    for message, category in UNHELPFUL.items():
        warnings.filterwarnings("ignore", message=message, category=category)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(is_no_advertisement)


def is_no_advertisement(record: logging.LogRecord) -> bool:
    """Whether a line of Lightning's log is about the run."""
    return not record.getMessage().startswith(ADVERTISED)
