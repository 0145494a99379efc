"""``uniopd``: the command line."""

from lit_uniopd.cli.app import UniOPDCLI, main

__all__ = ["UniOPDCLI", "main"]
