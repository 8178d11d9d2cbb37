import os
from pathlib import Path

import pytest
from conftest import move_pretrained
from test_checkpoint import make_checkpoint

from vae import open_run
from vae.checkpoint import save_checkpoint
from vae.errors import UserError
from vae.run_folders import find_checkpoint, newest_run, own_run_dir


def test_the_best_of_a_run_is_taken_else_the_last(tmp_path):
    for name in ("last.pt", "best.pt"):
        (tmp_path / name).write_bytes(b"")
        assert find_checkpoint(tmp_path).name == name
    assert find_checkpoint(tmp_path, prefer="last.pt").name == "last.pt"
    assert find_checkpoint(tmp_path / "last.pt").name == "last.pt"


def test_where_no_run_is_one_line_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    move_pretrained(monkeypatch, tmp_path / "none")
    with pytest.raises(UserError, match=r"no run under runs/: train one \(python train.py\)"):
        newest_run()
    with pytest.raises(UserError, match=r"no checkpoint in .*: looked for best.pt, last.pt$"):
        find_checkpoint(tmp_path)
    with pytest.raises(UserError, match=r"no checkpoint in .*: looked for last.pt, best.pt$"):
        find_checkpoint(tmp_path, prefer="last.pt")


def test_the_word_pretrained_and_no_run_at_all_mean_the_model_of_the_repository(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    move_pretrained(monkeypatch, tmp_path / "repository")
    save_checkpoint(make_checkpoint(), tmp_path / "repository/best.pt")
    for path in ("pretrained", None):
        run = open_run(path, "cpu")
        assert run.path == tmp_path / "repository/best.pt"
        # pictures do not go into the repository
        assert run.folder == Path("runs/pretrained")
    # pictures alone make no run
    Path("runs/pretrained").mkdir(parents=True)
    assert find_checkpoint(None) == tmp_path / "repository/best.pt"
    save_checkpoint(make_checkpoint(), Path("runs/mine/last.pt"))
    assert find_checkpoint(None) == Path("runs/mine/last.pt")
    assert open_run(None, "cpu").folder == Path("runs/mine")
    assert find_checkpoint("pretrained") == tmp_path / "repository/best.pt"


def test_the_newest_run_is_that_of_the_newest_last_checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("old/last.pt", "new/last.pt", "old/best.pt", "old/grid.png")):
        path = Path("runs") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
        os.utime(path, (number, number))
    assert newest_run() == Path("runs/new")


def test_runs_are_numbered_and_never_overwritten(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("celeba-32", "celeba-32-2", "celeba-32-3"):
        with own_run_dir(None, "celeba-32") as run_dir:
            assert run_dir == Path("runs") / name
            save_checkpoint(make_checkpoint(), run_dir / "last.pt")
    with (
        pytest.raises(UserError, match="holds a run: continue it with --resume runs/celeba-32-2"),
        own_run_dir("runs/celeba-32-2", "celeba-32"),
    ):
        pass
    assert newest_run() == Path("runs/celeba-32-3")


def test_a_folder_in_use_goes_to_nobody_else_and_is_removed_if_it_stays_empty(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with own_run_dir(None, "a") as first, own_run_dir(None, "a") as second:
        assert (first, second) == (Path("runs/a"), Path("runs/a-2"))
        with pytest.raises(UserError, match="another training writes to runs/a:"):
            own_run_dir("runs/a", "a").__enter__()
    assert not Path("runs").exists()
    # an empty folder is free, and it is the user's own
    Path("runs/a").mkdir(parents=True)
    with own_run_dir(None, "a") as again:
        assert again == Path("runs/a")
    assert Path("runs/a").exists()
