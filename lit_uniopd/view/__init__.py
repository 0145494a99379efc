"""Runs' rollouts, pairs and captions in one HTML file; `view.records` makes the rows that it shows."""

from lit_uniopd.view.page import page, write_page
from lit_uniopd.view.sources import GROUPS_FILE, PAIRS_FILE

__all__ = ["GROUPS_FILE", "PAIRS_FILE", "page", "write_page"]
