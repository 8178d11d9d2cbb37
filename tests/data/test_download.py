import errno
import sys
import types
from pathlib import Path
from urllib.error import URLError

import pytest
from layouts import kaggle_layout, torchvision_layout, torchvision_root, zip_layout
from torchvision.datasets import utils as torchvision_utils

from vae.data.download import download
from vae.errors import RunStopped, UserError


class FileURLRetrievalError(Exception):
    pass


@pytest.fixture
def google(monkeypatch):
    """Replace gdown and torchvision's downloader by fakes that raise `google.answer` if set."""
    gdown = types.ModuleType("gdown")
    gdown.exceptions = types.ModuleType("gdown.exceptions")
    gdown.exceptions.FileURLRetrievalError = FileURLRetrievalError
    monkeypatch.setitem(sys.modules, "gdown", gdown)
    monkeypatch.setitem(sys.modules, "gdown.exceptions", gdown.exceptions)
    played = types.SimpleNamespace(fetched=[], answer=None)

    def fetch(file_id, root, filename, md5):
        played.fetched.append(filename)
        Path(root, filename).write_text(f"{file_id} {md5}")
        if played.answer:
            raise played.answer

    monkeypatch.setattr(torchvision_utils, "download_file_from_google_drive", fetch)
    return played


FILES = ["img_align_celeba.zip", "list_attr_celeba.txt", "list_eval_partition.txt"]


def test_download_fetches_the_three_files_and_does_not_unpack_the_zip(google, tmp_path):
    download(tmp_path / "celeba")
    assert google.fetched == FILES
    assert sorted(path.name for path in (tmp_path / "celeba").iterdir()) == FILES
    md5 = "00d2c5bc6d35e252742224ab0c1e8fcb"
    assert (tmp_path / "celeba" / FILES[0]).read_text().endswith(md5)


@pytest.mark.parametrize(
    "layout", [torchvision_layout, torchvision_root, kaggle_layout, zip_layout]
)
def test_download_fetches_missing_files_only(layout, google, tmp_path):
    root = layout(tmp_path)
    download(root)
    assert google.fetched == []
    (table,) = root.rglob("list_eval_partition.*")
    table.unlink()
    download(root)
    assert google.fetched == ["list_eval_partition.txt"]
    assert (table.parent / "list_eval_partition.txt").exists()


@pytest.mark.parametrize(
    "answer",
    [
        FileURLRetrievalError("Too many users\n\n\thave viewed this file recently."),
        RuntimeError("File not found or corrupted."),
        URLError("Name or service not known"),
        OSError("connection reset"),
    ],
)
def test_a_refused_download_says_what_to_fetch_by_hand_and_leaves_no_files(
    answer, google, tmp_path
):
    (tmp_path / "list_attr_celeba.txt").write_text("kept")
    google.answer = answer
    with pytest.raises(UserError) as caught:
        download(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"could not download {FILES[0]} (")
    assert "fetch img_align_celeba.zip, list_eval_partition.txt by hand" in message
    assert "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html" in message
    assert message.endswith(f"put them into {tmp_path}")
    assert "\n" not in message
    assert [path.name for path in tmp_path.iterdir()] == ["list_attr_celeba.txt"]


def test_a_full_disk_stops_the_download_with_its_own_message(google, tmp_path):
    google.answer = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(RunStopped, match=r"img_align_celeba\.zip: no space left"):
        download(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_gdown_one_line_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "gdown", None)
    with pytest.raises(UserError, match="pip install gdown"):
        download(tmp_path)
    download(torchvision_layout(tmp_path))
