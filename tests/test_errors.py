import errno
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from vae.errors import Interrupted, RunStopped, StopSignal, UserError, script

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("no such face"), 2, "error: no such face\n"),
        (UserError("no file a\nb"), 2, "error: no file a\\nb\n"),
        (RunStopped("kl became inf"), 1, "stopped: kl became inf\n"),
        (Interrupted(signal.SIGINT, "saved"), 130, "interrupted: saved\n"),
        (Interrupted(signal.SIGTERM, "saved"), 143, "interrupted: saved\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (SystemExit(2), 2, ""),
        (OSError(errno.ENOSPC, "No space left"), 1, "stopped: No space left\n"),
        (OSError(errno.EIO, "Bad disk", "a.pt"), 1, "stopped: Bad disk: a.pt\n"),
        (OSError(errno.ENAMETOOLONG, "Too long", "xx"), 2, "error: Too long: xx\n"),
        (OSError(errno.ELOOP, "A loop", "xx"), 2, "error: A loop: xx\n"),
        (MemoryError(), 1, "stopped: there is not enough memory for this size\n"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory"),
            1,
            "stopped: there is not enough memory for this size\n",
        ),
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


def test_a_script_runs_in_a_thread(capsys):
    @script
    def main(argv):
        with StopSignal() as stop:
            stop.check()
        raise UserError("no such face")

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(main, []).result() == 2
    assert capsys.readouterr().err == "error: no such face\n"


@pytest.mark.parametrize("encoding", ["ascii:strict", "utf-8:strict"])
@pytest.mark.parametrize("closed", ["", ">&-", "2>&-", ">&- 2>&-"])
def test_any_text_goes_to_streams_that_are_strict_or_closed(encoding, closed, tmp_path):
    code = (
        "import os, sys; from vae.errors import UserError, script\n"
        "@script\n"
        "def main(argv):\n"
        "    file = open('own', 'wb'); assert file.fileno() > 2\n"
        "    os.write(2, b'of a library'); file.close()\n"
        "    print('caf\\udce9 \\xe9'); raise UserError('caf\\udce9 \\xe9')\n"
        "sys.exit(main())"
    )
    environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONPATH": str(ROOT)}
    command = f"exec '{sys.executable}' -c \"$0\" {closed}"
    ended = subprocess.run(
        ["sh", "-c", command, code], capture_output=True, env=environment, cwd=tmp_path
    )
    assert ended.returncode == 2
    assert b"Traceback" not in ended.stderr
    assert (tmp_path / "own").read_bytes() == b""


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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_within_a_destructor_ends_the_script_too(number, capfd):
    class Signals:
        def __del__(self):
            signal.raise_signal(number)

    @script
    def main(argv):
        Signals()
        time.sleep(20)

    start = time.monotonic()
    assert main() == 128 + number
    assert time.monotonic() - start < 10
    assert capfd.readouterr().err.startswith("interrupted")
