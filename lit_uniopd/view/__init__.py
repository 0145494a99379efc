"""Looking at what a run kept: one HTML file, no server, no network. `view.records` writes what it shows."""

from lit_uniopd.view.page import GROUPS_FILE, PAIRS_FILE, page, write_page

__all__ = ["GROUPS_FILE", "PAIRS_FILE", "page", "write_page"]
