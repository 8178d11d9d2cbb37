import errno
import os
import signal

import pytest

from vae.errors import Interrupted, RunStopped, UserError, script


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("no such face"), 2, "error: no such face\n"),
        (RunStopped("kl became inf"), 1, "stopped: kl became inf\n"),
        (Interrupted(signal.SIGINT, "saved"), 130, "interrupted: saved\n"),
        (Interrupted(signal.SIGTERM, "saved"), 143, "interrupted: saved\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (SystemExit(2), 2, ""),
        (OSError(errno.ENOSPC, "No space left"), 1, "stopped: No space left\n"),
    ],
)
def test_each_end_has_its_exit_code_and_one_line(error, code, line, capsys):
    @script
    def main(argv):
        raise error

    assert main([]) == code
    assert capsys.readouterr().err == line


def test_a_defect_of_ours_keeps_its_traceback():
    @script
    def main(argv):
        raise ValueError("a defect")

    with pytest.raises(ValueError, match="a defect"):
        main([])


def test_sigterm_unwinds_what_is_half_done():
    undone = []

    @script
    def main(argv):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            undone.append("went on")
        finally:
            undone.append("cleaned")

    before = signal.getsignal(signal.SIGTERM)
    assert main([]) == 143
    assert undone == ["cleaned"]
    assert signal.getsignal(signal.SIGTERM) == before
