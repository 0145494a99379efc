"""Looking at what a run kept: one HTML file, no server, no network."""

from lit_uniopd.view.page import page, write_page
from lit_uniopd.view.records import GROUPS_FILE, PAIRS_FILE, chosen_groups, group_record, pair_records, token_pieces

__all__ = [
    "GROUPS_FILE",
    "PAIRS_FILE",
    "chosen_groups",
    "group_record",
    "page",
    "pair_records",
    "token_pieces",
    "write_page",
]
