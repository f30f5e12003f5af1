"""How every command ends: its exit status, and the one line that says why.

0: done. 1: done in part, or another answer than expected. 2: there is something that the user can put right.
130: Ctrl-C. 141: nobody reads the output any more, as behind `| head`. 143: SIGTERM.
"""

import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from asr_fed.system.errors import UserError
from asr_fed.system.files import in_words


class Stopped(KeyboardInterrupt):
    """A signal that ends the command, raised wherever the main thread is. `status` is what to exit with."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.status = 128 + signal_number


def exit_status(program: str, action: Callable[[], object]) -> int:
    """Call `action` and return the status to exit with: what it returns if that is a number, else 0.

    A UserError, and what the system says of a file that cannot be used, is printed in one line on stderr, after the
    name of the program.
    """
    try:
        with _stopped_by(signal.SIGTERM):
            returned = action()
        sys.stdout.flush()  # here, where a reader that is gone is no surprise, rather than while Python ends
        return returned if isinstance(returned, int) else 0
    except UserError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        if not _reader_is_gone():
            raise
        return 128 + signal.SIGPIPE
    except OSError as error:
        told = in_words(error)
        if told is None:
            raise
        print(f"{program}: {told}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        return stop.status if isinstance(stop, Stopped) else 128 + signal.SIGINT


@contextmanager
def _stopped_by(number: signal.Signals) -> Iterator[None]:
    """Where nobody else handles this signal, it raises Stopped while the context lasts."""
    if signal.getsignal(number) is not signal.SIG_DFL:
        yield
        return

    def stop(number: int, _frame: object) -> None:
        raise Stopped(number)

    signal.signal(number, stop)
    try:
        yield
    finally:
        signal.signal(number, signal.SIG_DFL)


def _reader_is_gone() -> bool:
    """Whether stdout is the pipe that broke; if so, what is left in its buffer goes nowhere."""
    try:
        descriptor = sys.stdout.fileno()
    except OSError:  # as in a test, not a file
        return False
    poll = select.poll()
    poll.register(descriptor, 0)
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
    return True
