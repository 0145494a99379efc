"""Signs of life: bars on a terminal, lines elsewhere."""

import doctest
import os
import subprocess
import sys
import time

import pytest

from lit_uniopd.utils import progress, progress_text
from lit_uniopd.utils.progress import Heartbeat, PhaseLines, follow, progress_bar, track


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the process says, with a heartbeat of a tenth of a second."""
    said: list[str] = []
    monkeypatch.setattr(progress, "heartbeat", Heartbeat(0.1, said.append))
    return said


def test_the_words():
    results = doctest.testmod(progress_text)
    assert results.attempted >= 8
    assert results.failed == 0, "see the captured output"


def test_a_line_about_a_phase():
    clock = iter([100.0, 130.0])
    phase = PhaseLines(512, "writing answers", "answer", now=lambda: next(clock))
    phase.add_tokens(15000)
    phase.add_tokens(360)
    follow(phase)(128, 512)
    phase.set_postfix_str("0.41")
    # 15360 tokens / 30 s = 512; a quarter took 30 s, so three quarters take 90 s
    assert phase.line() == "writing answers 128/512 answers · 15360 tokens · 512 tok/s · 0.41 · 1 min left"


def test_a_call_that_blocks_is_told_of(lines):
    with progress_bar(3, "outer", "batch") as outer:
        outer.update()
        with progress_bar(None, "inner", "answer") as inner:
            inner.update(5)
            time.sleep(0.35)
    time.sleep(0.25)  # nothing is under way
    assert 2 <= len(lines) <= 3
    clock, text = lines[0].split(" ", 1)
    assert len(clock) == len("12:03:10")
    assert text == "outer 1/3 batches · inner 5 answers · for 0 s"


def test_phases_that_are_short_say_nothing_and_announced_ones_once(lines):
    assert list(track([1, 2], "rows")) == [1, 2]
    with pytest.raises(ValueError, match="broken"), progress_bar(2, "broken phase", announce=True):
        raise ValueError("broken")
    time.sleep(0.25)
    assert [line.split(" ", 1)[1] for line in lines] == ["broken phase · 2 rows"]


def test_a_terminal_gets_a_bar(monkeypatch, lines):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress_bar(2, "rows", announce=True) as bar:
        bar.add_tokens(7)
        bar.update(2)
    assert (type(bar).__name__, bar.n, bar.postfix, lines) == ("TerminalBar", 2, "7 tokens", [])


@pytest.mark.parametrize(
    ("variable", "expected"), [({}, "False False"), ({"HF_HUB_DISABLE_PROGRESS_BARS": "0"}, "True True")]
)
def test_other_libraries_draw_no_bars_into_a_file(variable, expected):
    """Before they are imported, and afterwards; who asks for them by the variable has them."""
    program = (
        "from lit_uniopd.utils.progress import silence_other_bars as silence\n"
        "import sys\n"
        "if sys.argv[1] == 'first': silence()\n"
        "import transformers, huggingface_hub.utils as hub, datasets\n"
        "silence()\n"
        "shown = transformers.utils.logging.is_progress_bar_enabled()\n"
        "print(shown, not hub.are_progress_bars_disabled(), datasets.are_progress_bars_disabled())\n"
    )
    clean = {name: value for name, value in os.environ.items() if "DISABLE_PROGRESS" not in name}
    for order in ("first", "afterwards"):
        done = subprocess.run(
            [sys.executable, "-c", program, order],
            env={**clean, **variable},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.split() == [*expected.split(), "True"], order
