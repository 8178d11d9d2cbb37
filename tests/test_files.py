import errno
import resource

import pytest

from vae.errors import RunStopped
from vae.files import whole_file, write_text


def test_a_file_that_fails_half_way_leaves_the_old_one_and_nothing_else(tmp_path):
    path = tmp_path / "numbers.txt"
    write_text(path, "old")
    with pytest.raises(ZeroDivisionError), whole_file(path) as partial:
        partial.write_text("half")
        _ = 1 / 0
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_before_can_be_kept(tmp_path):
    path, previous = tmp_path / "a.txt", tmp_path / "a.prev.txt"
    write_text(path, "first")
    with whole_file(path, previous) as partial:
        partial.write_text("second")
    assert (path.read_text(), previous.read_text()) == ("second", "first")


def test_a_full_disk_is_one_line_and_the_earlier_file_is_untouched(tmp_path):
    path = tmp_path / "weights.pt"
    write_text(path, "old")
    with pytest.raises(RunStopped) as caught, whole_file(path) as partial:
        partial.write_text("x")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert str(caught.value) == (
        f"could not write {path}: no space left; the earlier file is untouched"
    )
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_limit_met_in_writing_leaves_the_earlier_file(tmp_path):
    path = tmp_path / "big.txt"
    write_text(path, "old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(RunStopped, match="larger than this place allows"):
            write_text(path, "x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_a_file_is_one_line(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(RunStopped, match="a part of the path is a file"):
        write_text(tmp_path / "runs" / "a.txt", "x")
