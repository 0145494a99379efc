"""A wish to stop, and the places that look for it: SIGTERM may come in the middle of ten minutes of sampling.

Whoever works for long inside one part of a step calls ``poll`` now and then. It does nothing until a signal has come
and the part may be left (see ``lit_uniopd.distributed.preemption.together``); then it raises ``Stopped``.
"""


class Stopped(SystemExit):
    """A run leaves because it was asked to; ``code`` is the exit status, 128 and the signal's number."""


class StopRequest:
    """What the signal handlers tell the main thread.

    Attributes:
        signum: number of the first signal; 0: none has come.
        interruptible: whether the part under way may be left by one rank alone.
    """

    def __init__(self) -> None:
        self.signum = 0
        self.interruptible = False

    def ask(self, signum: int) -> None:
        """Remember the first signal."""
        self.signum = self.signum or signum

    def clear(self) -> None:
        """Forget it: a new run begins."""
        self.signum, self.interruptible = 0, False


request = StopRequest()
"""The only one: signals belong to a process."""


def poll() -> None:
    """Leave a part of a step early.

    Raises:
        Stopped: if a signal has come and the part may be left.
    """
    if request.signum and request.interruptible:
        raise Stopped(128 + request.signum)
