"""Signs of life: bars on a terminal, lines elsewhere."""

import doctest
import os
import subprocess
import sys
import time
from typing import Any

import pytest
import torch

from lit_uniopd.playground.training import train_until
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
@pytest.mark.thinned(2)
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


def test_the_playground_says_what_it_makes_and_draws_nothing(lines, capfd):
    def loss(model: torch.nn.Module, _rng: Any, _step: int) -> torch.Tensor:
        time.sleep(0.02)
        return model(torch.ones(1, 2)).square().sum()

    options: dict[str, Any] = {"stop_at": 1.0, "learning_rate": 0.1, "averaging": 0.9, "seed": 0}
    options |= {"first_check": 10, "check_every": 10, "max_steps": 40, "label": "playground: a model learns"}
    scores = iter([0.25, 1.0])
    _, steps, _ = train_until(torch.nn.Linear(2, 1), loss, lambda _: next(scores), **options)  # type: ignore[arg-type]
    assert steps == 20
    texts = [line.split(" ", 1)[1] for line in lines]
    assert texts[0] == "playground: a model learns · 40 steps"
    assert all(text.startswith("playground: a model learns ") for text in texts)
    assert any("0.25, stops at 1.00" in text for text in texts)
    assert capfd.readouterr().err == ""
