import itertools
import json
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torchvision

from vae.data import packing
from vae.data.celeba import Faces, find_faces
from vae.data.packing import pack


def test_two_processes_pack_the_same_as_one(celeba, monkeypatch):
    folder = Path("many/img_align_celeba")
    folder.mkdir(parents=True)
    for copy, picture in itertools.product(range(20), sorted(celeba.glob("*/*.jpg"))):
        shutil.copy(picture, folder / f"{copy:02}-{picture.name}")
    (folder / "03-000005.jpg").write_bytes(b"hello")
    (folder / "17-000060.jpg").unlink()
    (folder / "17-000060.jpg").symlink_to("nowhere.jpg")
    packed = {}
    for cores in (1, 2):
        monkeypatch.setattr(packing, "usable_cores", lambda cores=cores: cores)
        path, bad = pack(find_faces(folder), 16, "celeba", Path(f"cache{cores}"))
        assert list(bad) == ["03-000005.jpg", "17-000060.jpg"]
        packed[cores] = np.load(path)
        assert json.loads(path.with_suffix(".json").read_text())["bad"] == bad
    assert packed[1].any(axis=(1, 2, 3)).sum() == 20 * 60 - 2
    np.testing.assert_array_equal(packed[1], packed[2])


def test_without_torchvisions_decoder_pillow_packs_the_same(celeba, monkeypatch):
    faces = find_faces(celeba)
    monkeypatch.setattr(packing, "_FACES_WORTH_A_PROCESS", 30)
    monkeypatch.setattr(packing, "usable_cores", lambda: 2)
    fast = np.load(pack(faces, 16, "celeba", Path("fast"))[0])
    monkeypatch.delattr(torchvision.io, "decode_jpeg")
    np.testing.assert_array_equal(np.load(pack(faces, 16, "celeba", Path("slow"))[0]), fast)


def test_interrupted_packing_leaves_no_file(celeba):
    class BrokenFaces(Faces):
        @contextmanager
        def reader(self):
            def read(name):
                raise KeyboardInterrupt

            yield read

    faces = BrokenFaces(**vars(find_faces(celeba)))
    with pytest.raises(KeyboardInterrupt):
        pack(faces, 32, "celeba", Path("cache"))
    assert not list(Path("cache").iterdir())
