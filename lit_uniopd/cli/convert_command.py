"""``uniopd convert``: a GGUF file as a Hugging Face directory, which every `path` of a model takes."""

import logging
from pathlib import Path

from lit_uniopd.utils.command_parser import CommandParser
from lit_uniopd.utils.new_directory import new_directory

log = logging.getLogger(__name__)


def main(argv: list[str]) -> int:
    """The command line of ``uniopd convert``."""
    parser = CommandParser(prog="uniopd convert", description=__doc__)
    parser.add_argument("source", metavar="FILE.gguf", type=Path, help="a GGUF file, or a folder with one")
    parser.add_argument("directory", metavar="OUT", type=Path, help="the directory to write")
    parser.add_argument(
        "--original",
        help="directory or hub id of the model that the file was made from, for its config and tokenizer; default: "
        "what the file tells of them, if it tells enough",
    )
    parser.add_argument(
        "--dtype",
        choices=["float32", "bfloat16", "float16"],
        default="float32",
        help="of the written weights; default: float32, the very numbers that the file stands for",
    )
    options = parser.parse_args(argv)

    import torch  # not before the arguments are right

    from lit_uniopd.policy.gguf import choose, convert

    file = choose(options.source)
    with new_directory(options.directory) as partial:
        convert(file, partial, dtype=getattr(torch, options.dtype), original=options.original)
    log.info("The model of %s is in %s.", file, options.directory)
    return 0
