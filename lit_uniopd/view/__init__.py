"""A run's rollouts, pairs and captions in one HTML file; `view.records` makes the rows that it shows."""

from lit_uniopd.view.page import GROUPS_FILE, PAIRS_FILE, page, write_page

__all__ = ["GROUPS_FILE", "PAIRS_FILE", "page", "write_page"]
