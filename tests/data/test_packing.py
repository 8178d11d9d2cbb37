import json
import os
import subprocess
import sys
import threading
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from layouts import write_pictures

from vae.data import packing
from vae.data.celeba import find_faces
from vae.data.decoding import read_square
from vae.data.packing import checksums_of, pack
from vae.errors import RunStopped, UserError


def test_every_row_is_the_square_of_its_picture_whatever_the_number_of_cores(tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "BLOCK", 16)
    names = [f"{i:03}.png" for i in range(50)]
    write_pictures(tmp_path / "many", names)
    (tmp_path / "many/007.png").write_bytes(b"hello")
    faces = find_faces(tmp_path / "many")
    for cores in (1, 5):
        monkeypatch.setattr(packing, "usable_cores", lambda cores=cores: cores)
        path, contents = pack(faces, 16, "frame", tmp_path / f"cache{cores}")
        assert contents["bad"] == {"007.png": "Pillow cannot read this kind of file"}
        pixels = np.load(path)
        assert not pixels[7].any()
        for row in (0, 17, 49):
            expected, framed = read_square(faces.read(names[row]), 16, "frame")
            np.testing.assert_array_equal(pixels[row], expected)
            assert framed
        assert contents["framed"] == 49
        blocks = (pixels[start : start + 16].tobytes() for start in range(0, 50, 16))
        assert contents["checksums"] == list(map(zlib.crc32, blocks)) == checksums_of(pixels)
        assert json.loads(path.with_suffix(".json").read_text()) == contents


def counting(monkeypatch):
    """Return the list that grows with each picture that is decoded."""
    decoded = []

    def read(*arguments):
        decoded.append(arguments)
        return read_square(*arguments)

    monkeypatch.setattr(packing, "read_square", read)
    return decoded


def test_the_array_is_used_again_and_only_changed_folders_are_looked_into(tmp_path, monkeypatch):
    root, cache = tmp_path / "faces", tmp_path / "cache"
    write_pictures(root / "a", ("1.jpg", "2.jpg"))
    write_pictures(root / "b", ("3.jpg",))
    decoded, stated, real_stat = counting(monkeypatch), [], os.stat
    pack(find_faces(root), 16, "frame", cache)
    assert len(decoded) == 3
    monkeypatch.setattr(
        os, "stat", lambda path, **options: stated.append(str(path)) or real_stat(path, **options)
    )

    def packs_again():
        decoded.clear()
        stated.clear()
        pack(find_faces(root), 16, "frame", cache)
        return len(decoded)

    assert packs_again() == 0
    assert not [path for path in stated if path.endswith(".jpg")]
    (root / "a/note.txt").write_text("hello")  # another folder time, and the same pictures
    assert packs_again() == 0
    assert [path for path in stated if path.endswith("3.jpg")]
    assert packs_again() == 0
    assert not [path for path in stated if path.endswith(".jpg")]
    (root / "a/2.jpg").unlink()
    write_pictures(root / "a", ("other.jpg", "2.jpg"))
    assert packs_again() == 4
    (root / "b/3.jpg").unlink()
    assert packs_again() == 3
    assert len(list(cache.glob("*.npy"))) == 1


def test_a_bad_picture_that_is_mended_in_place_is_seen(tmp_path):
    write_pictures(tmp_path / "faces", ("1.jpg", "2.jpg"))
    whole = (tmp_path / "faces/2.jpg").read_bytes()
    (tmp_path / "faces/2.jpg").write_bytes(whole[:300])
    _, contents = pack(find_faces(tmp_path / "faces"), 16, "frame", tmp_path)
    assert contents["bad"] == {"2.jpg": "truncated"}
    (tmp_path / "faces/2.jpg").write_bytes(whole)
    assert pack(find_faces(tmp_path / "faces"), 16, "frame", tmp_path)[1]["bad"] == {}


@pytest.mark.parametrize("size", [10**9, 1])
def test_an_array_that_changed_on_disk_is_packed_again(tmp_path, monkeypatch, size):
    monkeypatch.setattr(packing, "_ALL_CHECKED", size)
    write_pictures(tmp_path / "faces", [f"{i}.jpg" for i in range(5)])
    path, _ = pack(find_faces(tmp_path / "faces"), 16, "frame", tmp_path)
    expected = path.read_bytes()
    path.write_bytes(expected[:-500] + bytes(500))
    pack(find_faces(tmp_path / "faces"), 16, "frame", tmp_path)
    assert path.read_bytes() == expected


def test_interrupted_packing_leaves_no_file(celeba, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(packing, "read_square", stop)
    with pytest.raises(KeyboardInterrupt):
        pack(find_faces(celeba), 32, "frame", Path("cache"))
    assert not list(Path("cache").iterdir())
    assert not [one for one in threading.enumerate() if "ThreadPool" in one.name]


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="no way to ask for the space")
def test_a_disk_that_is_full_while_packing_is_one_line(celeba, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(RunStopped, match=r"could not write cache/.*: no space left"):
        pack(find_faces(celeba), 32, "frame", Path("cache"))
    assert not list(Path("cache").iterdir())


CODE = """
import os, sys, time
from pathlib import Path
from vae.data import packing
from vae.data.celeba import find_faces
def slow(*arguments):
    print("decoding", flush=True)
    time.sleep(60)
packing.read_square = slow
packing.pack(find_faces(Path("data/celeba")), 32, "frame", Path("cache"))
"""


def test_no_process_outlives_its_parent(celeba):
    here = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", CODE]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=here, start_new_session=True)
    assert process.stdout.readline().startswith(b"decoding")
    process.kill()
    process.wait()
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def test_too_little_disk_space_is_an_error_before_anything_is_written(celeba, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=30_000_000))
    with pytest.raises(UserError, match=r"need 47\.2 MB and cache has 30\.0 MB free"):
        pack(find_faces(celeba), 512, "frame", Path("cache"))
    assert not list(Path("cache").iterdir())


@pytest.mark.parametrize(
    "change",
    [
        lambda pixels: pixels.view(np.int8),
        lambda pixels: pixels.reshape(len(pixels), -1),
        lambda pixels: pixels.reshape(len(pixels), 3, 16, 16),
        np.zeros_like,
        lambda pixels: pixels[:2],
    ],
    ids=["int8", "flat", "transposed", "zeros", "short"],
)
def test_an_array_of_another_kind_is_packed_again(tmp_path, change):
    write_pictures(tmp_path / "faces", ("1.png", "2.png", "3.png"))
    faces = find_faces(tmp_path / "faces")
    path, _ = pack(faces, 16, "frame", tmp_path / "cache")
    expected = np.load(path)
    np.save(path, change(expected))
    pack(faces, 16, "frame", tmp_path / "cache")
    again = np.load(path)
    assert again.dtype == np.uint8
    np.testing.assert_array_equal(again, expected)


@pytest.mark.parametrize("damage", [{"bad": None}, {"framed": "x"}, {"checksums": [None]}])
def test_a_description_of_another_kind_is_written_again(tmp_path, damage):
    write_pictures(tmp_path / "faces", ("1.png", "2.png"))
    faces = find_faces(tmp_path / "faces")
    path, contents = pack(faces, 16, "frame", tmp_path / "cache")
    path.with_suffix(".json").write_text(json.dumps(contents | damage))
    assert pack(faces, 16, "frame", tmp_path / "cache")[1] == contents
    path.with_suffix(".json").write_text("[" * 10**5)
    assert pack(faces, 16, "frame", tmp_path / "cache")[1] == contents
    # numpy reads the header as Python
    path.write_bytes(path.read_bytes()[:10] + b"(" * 100 + path.read_bytes()[110:])
    assert pack(faces, 16, "frame", tmp_path / "cache")[1] == contents
    assert checksums_of(np.load(path)) == contents["checksums"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes")
@pytest.mark.parametrize("suffix", [".npy", ".json"])
def test_a_pipe_in_the_place_of_an_array_is_not_waited_for(tmp_path, suffix):
    write_pictures(tmp_path / "faces", ("1.jpg",))
    faces = find_faces(tmp_path / "faces")
    path, contents = pack(faces, 16, "frame", tmp_path / "cache")
    path.with_suffix(suffix).unlink()
    os.mkfifo(path.with_suffix(suffix))
    assert pack(faces, 16, "frame", tmp_path / "cache") == (path, contents)
    assert checksums_of(np.load(path)) == contents["checksums"]
