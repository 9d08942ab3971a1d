"""Signals: what asks a run to stop. Imports nothing that is slow, since they are heard before Lightning is there."""

import os
import signal
import threading
from types import FrameType
from typing import Any

STOPPED = 75
"""Exit code of "stopped, not finished" (EX_TEMPFAIL): the same command goes on."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Hearing:
    """The handlers of one process. They save nothing and call nothing: state is whole at step boundaries only.

    Until `defer()` there is nothing to save, and SIGTERM and SIGUSR1 end the process at once, with code 75. From then
    on a signal is noted in `received`. A second Ctrl-C does not wait.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.deferring = False
        self.process = 0
        self.previous: dict[int, Any] = {}

    def hear(self) -> None:
        """Put the handlers in place of whatever is there."""
        if threading.current_thread() is not threading.main_thread():
            return  # Python lets no other thread
        if not self.previous:
            self.previous = {number: signal.getsignal(number) for number in SIGNALS}
            self.received, self.deferring, self.process = None, False, os.getpid()
        for number in SIGNALS:
            # A shell lets what it starts with `&` ignore Ctrl-C, and so it stays.
            if self.previous[number] is not signal.SIG_IGN:
                signal.signal(number, self._handle)

    def defer(self) -> None:
        """Say that a step boundary will come at which `received` is looked at."""
        self.deferring = True
        self.hear()  # libraries may have put theirs there

    def stop(self) -> None:
        """Put back the handlers that were there before."""
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        self.previous, self.deferring = {}, False

    def __enter__(self) -> "Hearing":
        self.hear()
        return self

    def __exit__(self, *_: Any) -> None:
        self.stop()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self.process:
            _default(number, frame, is_ignored=self.deferring)
        elif number == signal.SIGINT and (not self.deferring or self.received == number):
            raise KeyboardInterrupt
        elif self.deferring:
            self.received = number
        else:
            os.write(
                2, f"\n{signal.Signals(number).name}: stopped before there was anything to save\n".encode()
            )
            # Not SystemExit: an import may catch that.
            os._exit(STOPPED)


def _default(number: int, frame: FrameType | None, is_ignored: bool) -> None:
    """Act in a forked process: what loads data for a training leaves it to the training when to stop."""
    if is_ignored:
        return
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


hearing = Hearing()
"""Handlers belong to a process, so there is one."""
