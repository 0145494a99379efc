"""``uniopd push``: what a run trained as a repository of the Hugging Face hub, with a card written from the run."""

import logging
from pathlib import Path

from lit_uniopd.cli.export_command import add_export_options
from lit_uniopd.utils.checkpoint_directory import newest_checkpoint
from lit_uniopd.utils.command_parser import CommandParser

log = logging.getLogger(__name__)


def main(argv: list[str]) -> int:
    """The command line of ``uniopd push``."""
    parser = CommandParser(prog="uniopd push", description=__doc__)
    parser.add_argument("source", metavar="RUN_OR_CHECKPOINT", type=Path, help="runs/NAME/version_N, or a checkpoint")
    parser.add_argument("repository", metavar="OWNER/NAME", help="on the hub; made if it is not there")
    parser.add_argument(
        "--dry_run", metavar="OUT", type=Path, help="write the directory that would be sent, and send nothing"
    )
    parser.add_argument("--private", action="store_true", help="make the repository private, if it is made")
    parser.add_argument(
        "--license", dest="licence", help="of the weights, as the hub names it (apache-2.0, llama3.1, other)"
    )
    add_export_options(parser)
    options = parser.parse_args(argv)
    options.source = newest_checkpoint(options.source)

    from lit_uniopd.cli.push import push_run  # torch and transformers: not before the arguments are right

    place = push_run(**vars(options))
    if options.licence is None:
        log.warning("The model card names no licence; add --license with that which the base model and data leave you.")
    log.info("%s is %s.", place, "what would be sent" if options.dry_run else f"what {options.repository} holds now")
    return 0
