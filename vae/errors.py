"""What can go wrong outside our own code, and how a script then ends: one line, no traceback."""

import errno
import functools
import os
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType


class UserError(Exception):
    """A mistake that the user can mend. Its text says what was expected, what found, what to do."""


class RunStopped(Exception):
    """What ends a run that was asked for correctly: a loss that is not finite, a full disk."""


class Interrupted(Exception):
    """The work was stopped by a signal, at a place from which it can go on."""

    def __init__(self, signal_number: int, note: str = "") -> None:
        super().__init__(note)
        self.signal_number = signal_number


class StopSignal:
    """Notes Ctrl-C and SIGTERM while it is entered, so that work stops where it can go on.

    A second signal ends the process at once, without saving.
    """

    def __init__(self) -> None:
        self.received: int | None = None

    def __enter__(self) -> "StopSignal":
        numbers = (signal.SIGINT, signal.SIGTERM)
        self.before = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.received is not None:
            # in the middle of a step: what is half done must not be saved
            raise SystemExit(128 + number)
        self.received = number

    def check(self, note: str = "") -> None:
        """Raise Interrupted, with a note for the user, if a signal came."""
        if self.received is not None:
            raise Interrupted(self.received, note)


def script(main: Callable[[Sequence[str] | None], None]) -> Callable[..., int]:
    """Return main as a function that turns the errors above into one line and an exit code.

    The code is 0 when main returns, 2 for UserError, 1 for RunStopped, and 128 plus the signal's
    number for an interruption: 130 on Ctrl-C, 143 on SIGTERM. Anything else is a defect of ours
    and keeps its traceback.
    """

    @functools.wraps(main)
    def wrapped(argv: Sequence[str] | None = None) -> int:
        before = signal.signal(signal.SIGTERM, _interrupt)
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="backslashreplace")  # file names need not be UTF-8
        try:
            main(argv)
        except UserError as error:
            return _end(f"error: {error}", 2)
        except RunStopped as error:
            return _end(f"stopped: {error}", 1)
        except Interrupted as error:
            return _end(f"interrupted: {error}", 128 + error.signal_number)
        except KeyboardInterrupt:
            return _end("interrupted", 130)
        except BrokenPipeError:
            # the reader closed the pipe: Python's last flush must not fail
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return _end("stopped: nobody reads the output any more", 1)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.ENAMETOOLONG):
                raise
            what = f" {error.filename}" if error.filename else ""
            return _end(f"stopped: {error.strerror}{what}", 1)
        except SystemExit as error:
            return error.code
        finally:
            signal.signal(signal.SIGTERM, before)
        return 0

    return wrapped


def _interrupt(signal_number: int, _frame: object) -> None:
    # an exception, so that what is half written is removed on the way out
    raise Interrupted(signal_number, "no incomplete file was left")


def _end(line: str, code: int) -> int:
    print(line, file=sys.stderr)
    return code
