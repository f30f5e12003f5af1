"""How every command ends: its exit status, and one line with the reason.

0: done. 1: done in part, not with the expected answer, or a part of it was lost, and starting again may help. 2: an
    error that the user can fix. 130: Ctrl-C. 141: nobody reads the output any more, as with `| head`. 143: SIGTERM.
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
    """A signal that ends the command, raised in the main thread. `status` is the exit status."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.status = 128 + signal_number


def exit_status(program: str, action: Callable[[], object]) -> int:
    """Call `action` and return the exit status: its result if that is a number, else 0.

    A UserError, or a system error about a file, is printed in one line on stderr, after the name of the program.
    """
    try:
        with _stopped_by(signal.SIGTERM):
            returned = action()
        sys.stdout.flush()  # here a closed pipe is handled; at the exit of Python it is not
        return returned if isinstance(returned, int) else 0
    except UserError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return error.status
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
    """While the context lasts, this signal raises Stopped, unless it has another handler."""
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
    """Whether stdout is the broken pipe; if so, the rest of its buffer is discarded."""
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
