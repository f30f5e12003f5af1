"""What every command but train_fed.py ends with."""

import sys
from collections.abc import Callable

from asr_fed.system.errors import UserError


def exit_status(program: str, action: Callable[[], object]) -> int:
    """Call `action`; 0 where it returns, 2 after a UserError, which is printed in one line, 130 after Ctrl-C."""
    try:
        action()
    except UserError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0
