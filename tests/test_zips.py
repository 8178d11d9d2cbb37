import zipfile

import numpy as np
import pytest
from test_celeba import NAMES, zip_layout

from vae.celeba import find_faces


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED, zipfile.ZIP_BZIP2])
def test_a_zip_gives_the_bytes_that_went_in_however_it_is_written(tmp_path, method):
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
