"""The request to stop, and where long work looks for it: SIGTERM may come in the middle of ten minutes of sampling.

Work that takes long inside one phase of a step calls ``poll`` now and then. That does nothing until a signal has come
and the phase may be left (see ``lit_uniopd.distributed.preemption.together``); then it raises ``Stopped``.
"""


class Stopped(SystemExit):
    """The run ends on request; ``code`` is the exit status, 128 plus the signal's number."""


class StopRequest:
    """Passes a signal from its handler to the main thread.

    Attributes:
        signum: number of the first signal; 0: none has come.
        interruptible: whether one rank alone may leave the current phase.
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
"""The only instance: signals belong to a process."""


def poll() -> None:
    """Leave a phase of a step early.

    Raises:
        Stopped: if a signal has come and the phase may be left.
    """
    if request.signum and request.interruptible:
        raise Stopped(128 + request.signum)
