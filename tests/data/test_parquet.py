import io

import numpy as np
import pytest
from PIL import Image

from vae.data.celeba import find_faces
from vae.data.faces import load_faces
from vae.errors import UserError


def png(level):
    file = io.BytesIO()
    Image.new("RGB", (44, 54), (level, 0, 0)).save(file, "PNG")
    return file.getvalue()


def write_hub_copy(root, with_paths=True):
    """Write 12 training and 4 validation faces as the hub's copies have them."""
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    level = 0
    for file, count in (
        ("data/train-00000-of-00002", 7),
        ("data/train-00001-of-00002", 5),
        ("data/validation-00000-of-00001", 4),
    ):
        levels = list(range(level, level + count))
        level += count
        image = [{"bytes": png(i), "path": f"{i:06d}.png" if with_paths else None} for i in levels]
        columns = {
            "image": pa.array(image, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            "celeb_id": [100 + i // 2 for i in levels],
            "Smiling": [i % 2 == 0 for i in levels],
            "Male": [1 if i < 8 else -1 for i in levels],
            "caption": [f"face, {i}" for i in levels],
        }
        path = root / f"{file}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(pa.table(columns), path, row_group_size=3)


@pytest.mark.parametrize("with_paths", [True, False])
def test_a_hub_copy_gives_pictures_attributes_splits_and_people(tmp_path, with_paths):
    write_hub_copy(tmp_path / "hub", with_paths)
    faces = find_faces(tmp_path / "hub")
    assert faces.names[0].startswith("train/000000")
    assert faces.splits.tolist() == [0] * 12 + [1] * 4
    assert faces.attribute_names == ("Smiling", "Male")
    expected = [[i % 2 == 0, i < 8] for i in range(16)]
    assert faces.attributes.tolist() == expected
    assert faces.people.tolist() == [100 + i // 2 for i in range(16)]
    assert "not attributes: celeb_id, caption" in faces.origins["attributes"]
    packed = load_faces(str(tmp_path / "hub"), 32, str(tmp_path / "cache"))
    np.testing.assert_array_equal(packed.pixels[:, 0, 0, 0], range(16))
    assert np.bincount(packed.splits)[:2].tolist()[1] == 4


def test_without_pyarrow_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (tmp_path / "train-00000-of-00001.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="holds parquet files: pip install pyarrow"):
        find_faces(tmp_path)


def test_a_damaged_parquet_file_is_named(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "train-00000-of-00001.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(UserError, match="damaged parquet file") as caught:
        find_faces(tmp_path)
    assert "\n" not in str(caught.value)
