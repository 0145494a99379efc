"""What the command line sets up around a run."""

import io
import logging
from contextlib import redirect_stderr

from lit_uniopd.cli.entry_point import show_our_log


def test_lines_of_the_log_go_to_what_is_standard_error_by_then(monkeypatch):
    logger = logging.getLogger("lit_uniopd")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "propagate", False)
    first, second = io.StringIO(), io.StringIO()
    with redirect_stderr(first):
        show_our_log()
        logger.info("of the first run")
    assert first.getvalue() == "of the first run\n"
    first.close()
    with redirect_stderr(second):
        show_our_log()
        logger.info("of the second")
    assert second.getvalue() == "of the second\n"
