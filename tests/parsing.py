"""The parser of `uniopd`, without a run."""

from contextlib import suppress
from functools import cache
from typing import Any

from lightning import LightningDataModule, LightningModule

from lit_uniopd.cli.app import TRAINER_DEFAULTS, UniOPDCLI
from lit_uniopd.cli.arguments import configure_parsing
from lit_uniopd.cli.error_messages import OneSentenceParser, check_configs


class Built(Exception):
    """The parser is there; nothing more is wanted."""


@cache
def uniopd_parser() -> OneSentenceParser:
    """As `lit_uniopd.cli.app.run` makes it; once a process, since it takes seconds."""
    built: list[Any] = []

    class Unparsed(UniOPDCLI):
        def parse_arguments(self, parser: Any, args: Any) -> None:
            built.append(parser)
            raise Built

    configure_parsing()
    with suppress(Built):
        Unparsed(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            seed_everything_default=0,
            trainer_defaults=TRAINER_DEFAULTS,
            parser_class=OneSentenceParser,
            args=[],
        )
    return built[0]


def parsed(*arguments: str) -> Any:
    """The options of ``uniopd fit`` as a namespace, with sections ``model``, ``data`` and ``trainer``."""
    check_configs(arguments, {"model", "data", "trainer", "seed_everything", "ckpt_path"})
    return uniopd_parser().parse_args(["fit", *arguments]).fit
