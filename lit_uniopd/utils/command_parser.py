"""The parser of a command that needs no trainer."""

import argparse
from typing import NoReturn

from lit_uniopd.errors import UserError


class CommandParser(argparse.ArgumentParser):
    """Reports a wrong argument in one sentence, where argparse would print its usage and exit."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog}: {message}; see `{self.prog} --help`.")
