"""The words of a line about work under way; nothing here knows the time, a trainer or a terminal.

Three units count the steps of a run, by the same names everywhere:

- ``rollout``: a batch of prompts of Uni-OPD, answered by the student. TensorBoard's x axis has its number, from 0;
- ``step``: an optimizer step, ``trainer.global_step``. Callbacks' ``every_n_steps`` and ``--trainer.max_steps`` count
  these. Of objectives without rollouts they are TensorBoard's x axis;
- ``prompts``: rows that were trained on, over all ranks; of pairs too.
"""

import math

SEPARATOR = " · "


def joined(*texts: str) -> str:
    """Those that are not empty, in one line.

    Example:
        >>> joined("rollout 3/100", "", "step 12/400")
        'rollout 3/100 · step 12/400'
    """
    return SEPARATOR.join(text for text in texts if text)


def counted(name: str, done: int, total: int | None = None) -> str:
    """How much of a unit of steps is done.

    Example:
        >>> counted("step", 12, 400), counted("prompts", 96)
        ('step 12/400', 'prompts 96')
    """
    return f"{name} {done}" if total is None else f"{name} {done}/{total}"


def share(done: int | None, total: int | None, unit: str) -> str:
    """How much of a phase is done.

    Example:
        >>> share(384, 512, "answer"), share(1, None, "row"), share(None, 1, "batch")
        ('384/512 answers', '1 row', '1 batch')
    """
    number = total if done is None else done if total is None else f"{done}/{total}"
    last = total if total is not None else done
    plural = unit if last == 1 else f"{unit}es" if unit.endswith(("ch", "s")) else f"{unit}s"
    return f"{number} {plural}"


def number(value: float) -> str:
    """Three digits, without powers of ten where they can be done without.

    Example:
        >>> [number(value) for value in (0.8123, 12.0, 1234.5, 0.00002, -0.5)]
        ['0.812', '12', '1234', '2e-05', '-0.5']
    """
    return f"{value:.0f}" if abs(value) >= 1000 and math.isfinite(value) else f"{value:.3g}"


def rate(per_second: float, unit: str) -> str:
    """So many in a second.

    Example:
        >>> rate(512.3, "tok"), rate(0.25, "rows")
        ('512 tok/s', '0.25 rows/s')
    """
    return f"{number(per_second)} {unit}/s"


def duration(seconds: float) -> str:
    """A time, in the two units that matter.

    Example:
        >>> [duration(s) for s in (0.3, 42, 61, 3599, 7800, 200000)]
        ['0 s', '42 s', '1 min', '59 min', '2 h 10 min', '2 d 7 h']
    """
    minutes = int(seconds // 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"


def time_left(done: int, total: int | None, seconds: float) -> str:
    """How long the rest takes at this pace; empty where that cannot be told.

    Example:
        >>> time_left(25, 100, 60.0)
        '3 min left'
    """
    if not done or total is None or total <= done:
        return ""
    return f"{duration(seconds / done * (total - done))} left"


def left_of(left_s: float, whole_s: float, *, at_most: bool) -> str:
    """How long a run still takes, and how long from its first step to its last.

    Args:
        left_s: seconds that are left.
        whole_s: seconds of the whole run.
        at_most: something may end it earlier.

    Example:
        >>> left_of(1800, 7200, at_most=False), left_of(1800, 7200, at_most=True)
        ('30 min left of 2 h 0 min', 'at most 30 min left of 2 h 0 min')
    """
    return f"{'at most ' if at_most else ''}{duration(left_s)} left of {duration(whole_s)}"


def phase_text(
    description: str, done: int, total: int | None, unit: str, *, seconds: float, tokens: int = 0, note: str = ""
) -> str:
    """A line about a phase of the work.

    Args:
        description: of the phase.
        done: how much of it, in ``unit``.
        total: of all; None: unknown.
        unit: in the singular.
        seconds: since it began.
        tokens: written so far; 0: none are.
        note: what else to say.

    Example:
        >>> phase_text("writing answers", 128, 512, "answer", seconds=30.0, tokens=15360)
        'writing answers 128/512 answers · 15360 tokens · 512 tok/s · 1 min left'
    """
    pace = rate(tokens / seconds, "tok") if tokens and seconds > 0 else ""
    left = time_left(done, total, seconds) or f"for {duration(seconds)}"
    return joined(f"{description} {share(done, total, unit)}", f"{tokens} tokens" if tokens else "", pace, note, left)
