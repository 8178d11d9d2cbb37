import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import COUNT, HEIGHT, TRAIN, VAL, WIDTH, write_celeba
from PIL import Image

from vae.data.faces import load_faces
from vae.data.synthetic.attributes import ATTRIBUTE_NAMES
from vae.errors import UserError


def load(**options):
    return load_faces("data/celeba", **{"image_size": 32, "cache_dir": "cache", **options})


def test_a_packed_row_is_the_cropped_and_resized_picture(celeba):
    faces = load(image_size=16)
    side, left, top = 32, (WIDTH - 32) // 2, (HEIGHT - 32) // 2
    with Image.open(celeba / "img_align_celeba" / faces.names[5]) as picture:
        square = picture.crop((left, top, left + side, top + side))
        expected = np.asarray(square.resize((16, 16), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(faces.pixels[5], expected)


def test_a_crop_of_the_right_size_is_not_resampled(celeba):
    faces = load()
    with Image.open(celeba / "img_align_celeba" / faces.names[0]) as picture:
        left, top = (WIDTH - 32) // 2, (HEIGHT - 32) // 2
        expected = np.asarray(picture)[top : top + 32, left : left + 32]
    np.testing.assert_array_equal(faces.pixels[0], expected)


def test_the_rows_of_the_splits_are_those_of_the_table(celeba):
    faces = load()
    assert [len(faces.rows(split)) for split in ("train", "val", "test")] == [
        TRAIN,
        VAL,
        COUNT - TRAIN - VAL,
    ]
    assert faces.rows("val")[0] == TRAIN


def test_the_packed_array_is_reused_until_the_source_or_the_crop_changes(celeba):
    faces = load()
    made = faces.path.stat().st_mtime_ns
    assert load().path.stat().st_mtime_ns == made
    assert load(crop=20).path != faces.path
    picture = celeba / "img_align_celeba" / faces.names[3]
    Image.new("RGB", (WIDTH, HEIGHT), (255, 0, 0)).save(picture, quality=95)
    again = load()
    assert again.path == faces.path
    assert again.pixels[3, :, :, 0].min() > 250


@pytest.mark.parametrize("damage", ["{", "[]", "{}", "\xff"])
def test_a_damaged_cache_is_packed_again(celeba, damage):
    faces = load()
    expected = faces.pixels.copy()
    faces.path.with_suffix(".json").write_text(damage, encoding="latin-1")
    np.testing.assert_array_equal(load().pixels, expected)
    os.truncate(faces.path, 500)
    np.testing.assert_array_equal(load().pixels, expected)


def test_a_cache_folder_that_cannot_be_made_is_named(celeba):
    Path("afile").write_text("")
    with pytest.raises(UserError, match="--cache-dir afile cannot be made: File exists"):
        load(cache_dir="afile")


def test_a_dangling_link_is_an_unreadable_image(celeba):
    (celeba / "img_align_celeba" / "000003.jpg").unlink()
    (celeba / "img_align_celeba" / "000003.jpg").symlink_to("nowhere.jpg")
    with pytest.raises(UserError, match=r"000003.jpg is not a readable image"):
        load()


def test_the_crop_is_stored_beside_the_packed_array(celeba):
    faces = load(crop=20)
    contents = json.loads(faces.path.with_suffix(".json").read_text())
    assert (contents["crop"], contents["image_size"], contents["count"]) == (20, 32, COUNT)


def test_packing_from_the_zip_equals_packing_from_the_folder(celeba, tmp_path):
    zipped = tmp_path / "zipped"
    zipped.mkdir()
    shutil.make_archive(str(zipped / "img_align_celeba"), "zip", celeba, "img_align_celeba")
    for name in ("list_attr_celeba.txt", "list_eval_partition.txt"):
        shutil.copy(celeba / name, zipped)
    np.testing.assert_array_equal(
        load().pixels, load_faces(str(zipped), 32, cache_dir="cache").pixels
    )


def test_an_unreadable_image_is_an_error_with_its_name_and_a_list_and_can_be_skipped(celeba):
    folder = celeba / "img_align_celeba"
    whole = (folder / "000007.jpg").read_bytes()
    (folder / "000007.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "000009.jpg").write_bytes(b"hello")
    with pytest.raises(UserError) as caught:
        load()
    message = str(caught.value)
    assert "000007.jpg is not a readable image: truncated. 2 such files of 60 (list in " in message
    assert message.endswith("--skip-bad-images leaves them out")
    listing = Path(message.split("list in ")[1].split(")")[0]).read_text()
    assert listing.splitlines() == ["000007.jpg\ttruncated", "000009.jpg\tnot a picture"]
    faces = load(skip_bad_images=True)
    assert len(faces.rows("train")) == TRAIN - 2
    assert not set(faces.rows("train")) & {6, 8}
    assert faces.attributes.shape == (COUNT, 40)


def test_a_crop_larger_than_the_picture_is_an_error(celeba):
    with pytest.raises(UserError, match=r"000001.jpg: a square of 99 .* 44 x 54: --crop"):
        load(crop=99)


def test_too_little_disk_space_is_an_error_before_anything_is_written(celeba, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=30_000_000))
    with pytest.raises(UserError, match=r"need 0\.05 GB and cache has 0\.03 GB free"):
        load(image_size=512)
    assert not list(Path("cache").iterdir())


def test_max_images_are_sampled_evenly_from_all_splits(celeba):
    faces = load(max_images=30)
    assert len(faces.names) == 30
    assert len(faces.rows("train")) == TRAIN // 2
    assert len(faces.rows("val")) == VAL // 2


def test_the_digest_depends_on_the_faces_and_not_on_their_folder(celeba):
    elsewhere = write_celeba(Path("elsewhere"))
    same = load_faces(str(elsewhere), 32, cache_dir="cache")
    assert load().digest() == same.digest()
    assert load(max_images=30).digest() != same.digest()


def test_packed_faces_carry_attribute_names_and_people(celeba):
    assert load().attribute_names == ATTRIBUTE_NAMES
    assert load().people is None
    rows = [f"{index + 1:06d}.jpg {index // 3}\n" for index in range(COUNT)]
    (celeba / "identity_CelebA.txt").write_text("".join(rows))
    np.testing.assert_array_equal(load().people, np.arange(COUNT) // 3)
    np.testing.assert_array_equal(load(max_images=30).people, np.arange(0, COUNT, 2) // 3)


def test_other_names_of_the_same_attributes_change_the_digest(celeba):
    digest = load().digest()
    table = celeba / "list_attr_celeba.txt"
    table.write_text(table.read_text().replace("Smiling", "Laughing"))
    assert load().digest() != digest
