"""``uniopd export``: a checkpoint as a Hugging Face directory, for `from_pretrained` and vLLM."""

import logging
import math
from argparse import ArgumentTypeError
from pathlib import Path

from lit_uniopd.utils.checkpoint_directory import newest_checkpoint
from lit_uniopd.utils.command_parser import CommandParser

log = logging.getLogger(__name__)


def main(argv: list[str]) -> int:
    """The command line of ``uniopd export``."""
    parser = CommandParser(prog="uniopd export", description=__doc__)
    parser.add_argument("source", metavar="RUN_OR_CHECKPOINT", type=Path, help="runs/NAME/version_N, or a checkpoint")
    parser.add_argument("directory", metavar="OUT", type=Path, help="the directory to write")
    add_export_options(parser)
    options = parser.parse_args(argv)
    options.source = newest_checkpoint(options.source)

    from lit_uniopd.cli.export import export_run  # torch and transformers: not before the arguments are right

    exported = export_run(**vars(options))
    what = "The adapter" if options.adapter else "The policy"
    log.info("%s of %s is in %s.", what, exported.checkpoint, options.directory)
    return 0


def add_export_options(parser: CommandParser) -> None:
    """What is written of a run."""
    parser.add_argument("--adapter", action="store_true", help="write the LoRA adapter alone, as a PEFT directory")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], help="default: as the weights were held")
    parser.add_argument("--model", help="where the model that training began with is now, if it was moved")
    parser.add_argument(
        "--extrapolation",
        type=_number,
        default=0.0,
        metavar="ALPHA",
        help="go on beyond the trained weights, by ALPHA of their way from the first ones (ExPO); default: 0",
    )
    parser.add_argument("--config", type=Path, help="the run's config.yaml, if the checkpoint was moved away from it")


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ArgumentTypeError(f"{text!r} is no finite number")
    return value
