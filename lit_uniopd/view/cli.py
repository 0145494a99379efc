"""``uniopd view RUN``: chosen rollouts, pairs and captions of a run as one HTML file."""

import logging
from collections.abc import Sequence
from pathlib import Path

from lit_uniopd.utils.command_parser import CommandParser
from lit_uniopd.view.page import write_page

log = logging.getLogger(__name__)


def main(argv: Sequence[str]) -> int:
    """Write the page.

    Args:
        argv: the arguments behind ``uniopd view``.

    Returns:
        The exit status.
    """
    parser = CommandParser(prog="uniopd view", description=__doc__)
    parser.add_argument("run", type=Path, help="directory of a run (runs/<name>/version_N), or a *.captions.jsonl file")
    parser.add_argument("--out", type=Path, help="the HTML file; default: view.html beside what is shown")
    args = parser.parse_args(argv)
    directory = args.run if args.run.is_dir() else args.run.parent
    out = args.out or directory / "view.html"
    count = write_page(args.run, out)
    log.info(
        "%s: %d answers in %d groups, %d preference pairs, %d captions. Open it in a browser.",
        out,
        count["answers"],
        count["groups"],
        count["pairs"],
        count["captions"],
    )
    return 0
