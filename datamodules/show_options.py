"""The options of ``uniopd data show``: those of a source, with and without their prefix."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from docstring_parser import parse_from_object

from datamodules.formats import PairFormat, PromptFormat
from datamodules.pair_sources import PairSourceArgs
from datamodules.sentence_pairs import SentencePairSourceArgs
from datamodules.sources import SourceArgs
from lit_uniopd.errors import UserError
from lit_uniopd.utils.command_parser import CommandParser
from lit_uniopd.utils.strict_yaml import parse_yaml

Kind = Literal["prompts", "pairs", "sentence_pairs"]
SOURCES = {"prompts": SourceArgs, "pairs": PairSourceArgs, "sentence_pairs": SentencePairSourceArgs}
FLAG = "--data.train"


@dataclass(frozen=True, slots=True)
class ShowArgs:
    """What to show."""

    path: str
    kind: Kind | None
    """None: as the columns say."""
    rows: int
    tokenizer: str | None
    max_prompt_tokens: int | None
    options: dict[str, Any]
    """Options of the source that were given."""

    def source(self, kind: Kind) -> SourceArgs | PairSourceArgs:
        """The table as a source of a kind.

        Raises:
            UserError: for an option that sources of this kind do not have.
        """
        known = {field.name for field in fields(SOURCES[kind])}
        options = self.options
        if kind == "prompts" and self.kind is None:  # read to find out what it is
            options = {name: value for name, value in options.items() if name in known}
        if unknown := sorted(set(options) - known):
            raise UserError(
                f"{FLAG}.{unknown[0]} is no option of {kind.replace('_', ' ')}; leave it out, or say by --as what the "
                "rows are."
            )
        return SOURCES[kind](self.path, **options)


def parse(argv: Sequence[str]) -> ShowArgs:
    """Read the command line.

    Raises:
        UserError: naming the argument that is wrong.
    """
    parser = CommandParser(
        prog="uniopd data show",
        description="Print what the rows of a table become, and counts of all rows.",
        usage="uniopd data show PATH [--rows N] [--tokenizer MODEL] [options of --data.train]",
        allow_abbrev=False,
    )
    parser.add_argument("path", metavar="PATH", help="as --data.train.path: a file, glob, folder or hub data set")
    parser.add_argument("--as", dest="kind", choices=get_args(Kind), help="what rows are; default: by their columns")
    parser.add_argument("--rows", type=int, default=3, metavar="N", help="rows to print (default: 3)")
    parser.add_argument("--tokenizer", metavar="MODEL", help="show texts in the chat template of this model")
    parser.add_argument("--max_prompt_tokens", type=int, metavar="N", help="count the prompts that are longer")
    group = parser.add_argument_group("options of --data.train", "each also with this prefix")
    for name, (hint, text) in _fields().items():
        formats = (*get_args(PromptFormat), *get_args(PairFormat))
        group.add_argument(
            *(f"--{name}", f"{FLAG}.{name}"),
            dest=f"source.{name}",
            default=argparse.SUPPRESS,
            metavar=name.upper() if name != "format" else "{" + ",".join(formats) + "}",
            choices=formats if name == "format" else None,
            type=_reader(hint),
            help=text.replace("%", "%%"),
        )
    values = vars(parser.parse_args(argv))
    given = {name.removeprefix("source."): values.pop(name) for name in [*values] if name.startswith("source.")}
    if values["rows"] < 0:
        raise UserError(f"--rows must not be negative, got {values['rows']}.")
    return ShowArgs(**values, options=given)


def _fields() -> dict[str, tuple[Any, str]]:
    """Name of an option of any kind of source -> its type and help."""
    found: dict[str, tuple[Any, str]] = {}
    for source in (SourceArgs, SentencePairSourceArgs):
        hints, texts = get_type_hints(source), dict[str, str]()
        for base in source.__mro__[:-1]:  # each has the texts of its own fields
            texts = {p.arg_name: p.description or "" for p in parse_from_object(base).params} | texts
        for field in fields(source):
            if field.default is not MISSING:  # all but the path
                found.setdefault(field.name, (hints[field.name], texts.get(field.name, "")))
    return found


def _reader(hint: Any) -> Callable[[str], Any]:
    """From the word of a command line to a value of a type."""
    if str in get_args(hint) or any(get_origin(choice) is Literal for choice in get_args(hint)) or hint is str:
        return lambda text: None if text in ("null", "None") else text
    return _value


def _value(text: str) -> Any:
    return parse_yaml(text, "A value")
