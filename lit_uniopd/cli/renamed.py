"""Modules that have moved: the `config.yaml` of an earlier run still names their classes where they were."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path

log = logging.getLogger(__name__)

MOVED = {
    "datamodules.pictures": "datamodules.images",
    "lit_uniopd.checkpoint_io": "lit_uniopd.distributed.atomic_checkpoint",
    "lit_uniopd.difficulty": "lit_uniopd.scorers.pass_rates",
    "lit_uniopd.engines.server": "lit_uniopd.sampling.args",
    "lit_uniopd.fsdp": "lit_uniopd.distributed.fsdp",
    "lit_uniopd.modules.advantages": "lit_uniopd.modules.opd.advantages",
    "lit_uniopd.modules.evaluation": "lit_uniopd.modules.evaluate_only",
    "lit_uniopd.modules.omni_dpo": "lit_uniopd.modules.preference.omni_dpo",
    "lit_uniopd.modules.opd_losses": "lit_uniopd.modules.opd.losses",
    "lit_uniopd.modules.pair_losses": "lit_uniopd.modules.preference.losses",
    "lit_uniopd.modules.sentence_bootstrap": "lit_uniopd.modules.sentinel_bootstrap",
    "lit_uniopd.modules.sentinel": "lit_uniopd.modules.preference.sentinel",
    "lit_uniopd.modules.uni_opd": "lit_uniopd.modules.opd.uni_opd",
    "lit_uniopd.pairing": "lit_uniopd.scorers.pairing",
}
"""Those with classes that a config can name: where they were -> where they are."""

_MOVED_CLASS = re.compile(rf"(?<![\w.])({'|'.join(map(re.escape, MOVED))})(?=\.[A-Z])")


def current_class_paths(text: str, source: str) -> str:
    """Name moved classes where they are now, with a line of log if there are any.

    Args:
        text: of a config file, or an argument.
        source: the file or the option, for the log.
    """
    modules = dict.fromkeys(_MOVED_CLASS.findall(text))
    if modules:
        log.info("%s: %s.", source, "; ".join(f"{module} is now {MOVED[module]}" for module in modules))
    return _MOVED_CLASS.sub(lambda match: MOVED[match[1]], text)


def with_current_class_paths(argv: Sequence[str]) -> list[str]:
    """The arguments, with moved classes named where they are now.

    A config file that names one is replaced by its text, which the parser takes as well.

    Args:
        argv: what stands behind `uniopd`.
    """
    updated: list[str] = []
    for i, arg in enumerate(argv):
        option, equals, value = arg.partition("=") if arg.startswith("-") and "=" in arg else ("", "", arg)
        flag = option or (argv[i - 1] if i else "")
        is_config = flag in ("-c", "--config") and Path(value).is_file()
        text = Path(value).read_text(encoding="utf-8") if is_config else value
        current = current_class_paths(text, value if is_config else flag)
        updated.append(arg if current == text else option + equals + current)
    return updated
