"""What can go wrong outside our own code, and how a script then ends: one line, no traceback."""

import errno
import functools
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any


class UserError(Exception):
    """A mistake that the user can mend. Its text says what was expected, what found, what to do."""


class RunStopped(Exception):
    """What ends a run that was asked for correctly: a loss that is not finite, a full disk."""


class NotFinite(RunStopped):
    """A loss or a weight that is infinite or not a number."""


class Interrupted(Exception):
    """The work was stopped by a signal, at a place from which it can go on."""

    def __init__(self, signal_number: int, note: str = "") -> None:
        super().__init__(note)
        self.signal_number = signal_number


class StopSignal:
    """Notes Ctrl-C and SIGTERM while it is entered, so that work stops where it can go on.

    A second signal ends the process at once, without saving. In a thread other than the main one,
    which receives no signals, nothing is noted.
    """

    def __init__(self) -> None:
        self.received: int | None = None

    def __enter__(self) -> "StopSignal":
        self.before = _handle_signals(dict.fromkeys((signal.SIGINT, signal.SIGTERM), self._note))
        return self

    def __exit__(self, *_: object) -> None:
        _handle_signals(self.before)

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

    The code is 0 when main returns, 2 for UserError and for a path that cannot be used, 1 for
    RunStopped, a full disk or too little memory, and 128 plus the signal's number for an
    interruption: 130 on Ctrl-C, 143 on SIGTERM. Anything else is a defect of ours and keeps its
    traceback.
    """

    @functools.wraps(main)
    def wrapped(argv: Sequence[str] | None = None) -> int:
        _prepare_streams()
        handlers = {signal.SIGTERM: _interrupt, signal.SIGINT: signal.default_int_handler}
        before = _handle_signals(handlers)
        sys.unraisablehook = _deliver_again
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
            return _end("stopped: the reader of the output has closed it", 1)
        except OSError as error:
            if error.errno not in _BAD_PATH + _BAD_DISK:
                raise
            kind, code = ("error", 2) if error.errno in _BAD_PATH else ("stopped", 1)
            place = f": {error.filename}" if error.filename else ""
            return _end(f"{kind}: {error.strerror}{place}", code)
        except (MemoryError, RuntimeError) as error:
            if not isinstance(error, MemoryError) and not _NO_MEMORY.search(str(error)):
                raise
            return _end("stopped: there is not enough memory for this size", 1)
        except SystemExit as error:
            return error.code
        finally:
            _handle_signals(before)
            sys.unraisablehook = sys.__unraisablehook__
        return 0

    return wrapped


_BAD_PATH = (errno.ENAMETOOLONG, errno.ELOOP, errno.EISDIR, errno.ENOTDIR, errno.EACCES)
_BAD_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
_NO_MEMORY = re.compile("out of memory|can't allocate memory", re.IGNORECASE)
"""in the messages of torch, on a GPU and on the CPU"""


def _handle_signals(handlers: Mapping[int, Any]) -> dict[int, Any]:
    """Set the handlers of signals; return those before. Only the main thread may set any."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.signal(number, handler) for number, handler in handlers.items()}


def _prepare_streams() -> None:
    """Make stdout and stderr take any text; if they are closed, open them on the null device."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            null = open(os.devnull, "w")  # noqa: SIM115  for the rest of the process
            # otherwise a file that is opened later gets the number, and libraries write to it
            os.dup2(null.fileno(), number)
            setattr(sys, name, null)
        if hasattr(getattr(sys, name), "reconfigure"):
            getattr(sys, name).reconfigure(errors="backslashreplace")  # names need not be UTF-8


def _interrupt(signal_number: int, _frame: object) -> None:
    # an exception, so that what is half written is removed on the way out
    raise Interrupted(signal_number, "no incomplete file was left")


def _deliver_again(unraisable: Any) -> None:
    """Send a signal again whose exception came in a destructor: there Python ignores it."""
    if isinstance(unraisable.exc_value, Interrupted | KeyboardInterrupt):
        number = getattr(unraisable.exc_value, "signal_number", signal.SIGINT)
        threading.Timer(0.01, os.kill, (os.getpid(), number)).start()
    else:
        sys.__unraisablehook__(unraisable)


def _end(text: str, code: int) -> int:
    # one line, even where a name that it cites has several
    print("\\n".join(text.splitlines()), file=sys.stderr)
    return code
