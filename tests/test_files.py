import errno
import os
import resource
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from vae.errors import RunStopped, UserError
from vae.files import (
    locked_folder,
    require_writable,
    whole_file,
    write_csv,
    write_text,
    write_whole,
)
from vae.pictures.figures import save_labelled_grid
from vae.pictures.images import save_gif, save_grid, save_pictures

ROOT = Path(__file__).parent.parent


@contextmanager
def largest_file(size):
    """Refuse to write files of more than size bytes, as a full disk or a quota would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "numbers.txt"
    write_text(path, "old")
    with pytest.raises(ZeroDivisionError), whole_file(path) as partial:
        partial.write_text("half")
        _ = 1 / 0
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_reported_in_one_line_and_the_earlier_file_is_untouched(tmp_path):
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


def test_a_size_limit_reached_while_writing_leaves_the_earlier_file(tmp_path):
    path = tmp_path / "big.txt"
    write_text(path, "old")
    with largest_file(4096), pytest.raises(RunStopped, match="larger than this place allows"):
        write_text(path, "x" * 100_000)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


NOISE = torch.rand(2, 3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
PICTURES = {
    "grid.png": lambda path: save_grid(NOISE[0], path, columns=3),
    "grid.jpg": lambda path: save_grid(NOISE[0], path, columns=3),
    "grid.webp": lambda path: save_grid(NOISE[0], path, columns=3),
    "sweep.gif": lambda path: save_gif(list(NOISE), path, columns=3),
    "face.png": lambda path: save_pictures(NOISE[0, :1], path.parent, ["face"]),
    "labelled.png": lambda path: save_labelled_grid(NOISE, path, list("abc"), list("de")),
    "labelled.jpeg": lambda path: save_labelled_grid(NOISE, path, list("abc"), list("de")),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_never_left_truncated(tmp_path, name):
    path = tmp_path / name
    PICTURES[name](path)
    whole = path.read_bytes()
    path.write_bytes(b"earlier")
    with largest_file(len(whole) - 1), pytest.raises(RunStopped, match=f"could not write {path}"):
        PICTURES[name](path)
    assert path.read_bytes() == b"earlier"
    with largest_file(len(whole)):
        PICTURES[name](path)
    assert path.read_bytes() == whole
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_a_file_is_reported(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(RunStopped, match="a part of the path is a file"):
        write_text(tmp_path / "runs" / "a.txt", "x")


def test_the_line_to_print_says_whether_a_file_was_replaced(tmp_path):
    for number, (name, write) in enumerate(
        {
            "bytes": lambda path: write_whole(path, b"x"),
            "text": lambda path: write_text(path, "x"),
            "table": lambda path: write_csv(path, [{"epoch": 1}]),
        }.items()
    ):
        path = tmp_path / str(number) / name
        assert write(path) == str(path)
        assert write(path) == f"{path} (replaced)"


def test_a_table_has_a_header_and_a_line_for_each_row(tmp_path):
    write_csv(tmp_path / "a.csv", [{"epoch": 1, "kl": 0.5}, {"epoch": 2, "kl": 0.25}])
    assert (tmp_path / "a.csv").read_text() == "epoch,kl\n1,0.5\n2,0.25\n"


@pytest.mark.parametrize("path", ["new.png", "old.png", "not/yet/there/new.png"])
def test_a_path_that_can_be_written_passes_and_nothing_is_left_behind(tmp_path, path):
    (tmp_path / "old.png").write_text("old")
    require_writable(tmp_path / path)
    assert list(tmp_path.rglob("*")) == [tmp_path / "old.png"]
    assert (tmp_path / "old.png").read_text() == "old"


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("folder", "it is a folder"),
        ("file/new.png", "a part of the path is a file"),
        ("file/not/there/new.png", "a part of the path is a file"),
        ("nowhere/new.png", "no such folder"),
        (f"{'x' * 300}.png", "the name is too long"),
    ],
)
def test_a_path_that_cannot_be_written_is_refused_in_one_line(tmp_path, path, reason):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "nowhere").symlink_to(tmp_path / "missing")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError) as caught:
        require_writable(tmp_path / path)
    assert str(caught.value) == f"cannot write {tmp_path / path}: {reason}"
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="permission denied"):
        require_writable(tmp_path / "new.png")


def test_a_relative_path_is_checked_from_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    require_writable(Path("new.png"))
    require_writable(Path("not/there/new.png"))
    assert not list(tmp_path.iterdir())


def test_temporary_files_of_killed_processes_are_removed_and_no_others(tmp_path):
    left = [tmp_path / name for name in (".last.1.partial.pt", ".faces.999999.partial.npy")]
    for path in left:
        path.write_bytes(b"half")
    others = [tmp_path / name for name in (".last.partial.pt", "last.1.partial.pt", "notes.txt")]
    for path in others:
        path.write_bytes(b"mine")
    used = tmp_path / ".best.77.partial.pt"
    # a child holds a temporary file as a training would
    code = "import sys; from vae.files import lock; f = open(sys.argv[1], 'wb'); lock(f.fileno())"
    code += "; print('ready', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(used)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as child:
        child.stdout.readline()
        write_text(tmp_path / "metrics.csv", "1")
        child.stdin.close()
    assert sorted(tmp_path.iterdir()) == sorted([*others, used, tmp_path / "metrics.csv"])


def test_a_folder_is_locked_until_its_owner_ends(tmp_path):
    folder = tmp_path / "runs/a"
    with locked_folder(folder) as ours:
        assert ours
        with locked_folder(folder) as second:
            assert not second
        assert folder.exists()
        (folder / "last.pt").write_text("")
    assert (folder / "last.pt").exists()
    with locked_folder(folder) as again, locked_folder(tmp_path / "runs/b"):
        assert again
    assert not (tmp_path / "runs/b").exists()


def test_a_folder_that_leads_back_to_itself_is_refused(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(UserError, match="a part of the path is a"):
        require_writable(tmp_path / "loop/new.png")
    with (
        pytest.raises(UserError, match="a part of the path is a"),
        locked_folder(tmp_path / "loop"),
    ):
        pass


def test_a_signal_while_a_place_is_tried_leaves_nothing(tmp_path, monkeypatch):
    touch = Path.touch

    def touch_and_stop(path):
        touch(path)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "touch", touch_and_stop)
    with pytest.raises(KeyboardInterrupt):
        require_writable(tmp_path / "grid.png")
    assert not list(tmp_path.iterdir())
