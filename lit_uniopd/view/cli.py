"""``uniopd view RUN [RUN ...]``: chosen rollouts, pairs and captions of runs as one HTML file."""

import logging
from collections.abc import Sequence
from pathlib import Path

from lit_uniopd.utils.command_parser import CommandParser
from lit_uniopd.view.page import write_page
from lit_uniopd.view.sources import newest_version

log = logging.getLogger(__name__)


def main(argv: Sequence[str]) -> int:
    """Write the page.

    Args:
        argv: the arguments behind ``uniopd view``.

    Returns:
        The exit status.
    """
    parser = CommandParser(prog="uniopd view", description=__doc__)
    parser.add_argument(
        "runs",
        type=Path,
        nargs="+",
        metavar="RUN",
        help="directory of a run: runs/<name>/version_N, or runs/<name> for its newest version; several are shown side "
        "by side. Or a *.captions.jsonl file",
    )
    parser.add_argument("--out", type=Path, help="the HTML file; default: view.html beside what is shown first")
    args = parser.parse_args(argv)
    first = newest_version(args.runs[0])
    out = args.out or (first if first.is_dir() else first.parent) / "view.html"
    count = write_page(args.runs, out)
    log.info(
        "%s: %d answers in %d groups, %d preference pairs, %d captions. Open it in a browser.",
        out,
        count["answers"],
        count["groups"],
        count["pairs"],
        count["captions"],
    )
    return 0
