"""A class is read once, however many commands and options take it."""

import docstring_parser
from jsonargparse import ArgumentParser
from lightning import Trainer

from lit_uniopd.cli.arguments import configure_parsing
from lit_uniopd.modules import UniOPD


def reads() -> int:
    return docstring_parser.parse_from_object.cache_info().misses  # type: ignore[attr-defined]


def test_a_class_is_read_once():
    helps = []
    for _ in range(3):
        configure_parsing()  # as each command line does
        parser = ArgumentParser()
        parser.add_class_arguments(Trainer, "trainer")
        parser.add_class_arguments(UniOPD, "model", skip={"optimizer", "scheduler"})
        helps.append((parser.format_help(), reads()))
    assert helps[0] == helps[1] == helps[2]
    assert "Stop training once this number of epochs is reached." in helps[0][0]  # Trainer's Args section
    assert "Answers per prompt." in helps[0][0]  # the string beneath a field
