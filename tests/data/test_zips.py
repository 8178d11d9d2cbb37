import shutil
import zipfile

import numpy as np
import pytest
from layouts import NAMES, zip_layout

from vae.data.celeba import find_faces
from vae.errors import UserError


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED, zipfile.ZIP_BZIP2])
def test_a_zip_gives_back_the_bytes_whatever_its_compression(tmp_path, method):
    path, rng = tmp_path / "faces.zip", np.random.default_rng(0)
    sizes = {"a.jpg": 3_000, "ä/β.jpg": 70_000, "big.png": 3_000_000, "empty.png": 0}
    contents = {name: rng.integers(0, 9, size, np.uint8).tobytes() for name, size in sizes.items()}
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in contents.items():
            member = zipfile.ZipInfo(name)
            member.extra = b"\x55\x54\x05\x00\x03" + bytes(4) + bytes(600 * (name == "ä/β.jpg"))
            archive.writestr(member, content, method)
    faces = find_faces(path)
    for some in (faces, faces.take(2)):
        with some.reader() as read:
            assert [read(name) for name in some.names] == [contents[name] for name in some.names]


def test_damage_within_a_zip_is_an_os_error_of_that_picture_alone(tmp_path):
    path = zip_layout(tmp_path) / "img_align_celeba.zip"
    content = bytearray(path.read_bytes())
    start = content.index(NAMES[0].encode()) + len(NAMES[0])
    content[start + 40 : start + 60] = bytes(20)
    path.write_bytes(content)
    with find_faces(path).reader() as read:
        with pytest.raises(OSError, match="damaged within the zip"):
            read(NAMES[0])
        assert read(NAMES[1])


def test_the_rest_of_a_zip_without_its_beginning_can_be_read(tmp_path):
    path = zip_layout(tmp_path) / "img_align_celeba.zip"
    path.write_bytes(path.read_bytes()[200:])
    faces = find_faces(path)
    with faces.reader() as read:
        with pytest.raises(OSError, match=r"damaged within the zip|Invalid argument"):
            read(NAMES[0])
        assert read(NAMES[-1])


@pytest.mark.parametrize("damage", ["a name that is not text", "an unknown version"])
def test_a_zip_that_cannot_be_listed_is_named(tmp_path, damage):
    path = zip_layout(tmp_path) / "img_align_celeba.zip"
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\x01\x02")
    if damage == "a name that is not text":
        content[entry + 8 : entry + 10] = (0x800).to_bytes(2, "little")  # names are UTF-8
        content[entry + 46] = 0xFF
    else:
        content[entry + 6] = 99
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"img_align_celeba.zip is damaged .*: download it again"):
        find_faces(path)


def test_damage_is_an_os_error_with_other_compression_too(tmp_path):
    path = tmp_path / "faces.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.jpg", np.random.default_rng(0).bytes(3000))
    content = bytearray(path.read_bytes())
    content[60:90] = bytes(30)
    path.write_bytes(content)
    with find_faces(path).reader() as read, pytest.raises(OSError, match="damaged within the zip"):
        read("a.jpg")


def test_a_picture_that_is_no_longer_in_the_zip_is_an_os_error(tmp_path):
    path = zip_layout(tmp_path) / "img_align_celeba.zip"
    faces = find_faces(path)
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("b.jpg", b"another")
    shutil.move(tmp_path / "other.zip", path)
    with faces.reader() as read, pytest.raises(OSError, match="no longer in the zip"):
        read(NAMES[5])
