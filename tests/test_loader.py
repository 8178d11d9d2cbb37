import json
import os
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import COUNT, HEIGHT, TRAIN, VAL, WIDTH, write_celeba
from PIL import Image

from vae.errors import UserError
from vae.loader import batches, copy_pixels, load_faces


def load(**options):
    return load_faces("data/celeba", **{"image_size": 32, "cache_dir": "cache", **options})


def test_a_packed_row_is_the_cropped_and_resized_picture(celeba):
    faces = load(image_size=16)
    side, left, top = 32, (WIDTH - 32) // 2, (HEIGHT - 32) // 2
    with Image.open(celeba / "img_align_celeba" / faces.names[5]) as picture:
        square = picture.crop((left, top, left + side, top + side))
        expected = np.asarray(square.resize((16, 16), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(faces.pixels[5], expected)


def test_no_resampling_where_the_crop_has_the_size_already(celeba):
    faces = load()
    with Image.open(celeba / "img_align_celeba" / faces.names[0]) as picture:
        left, top = (WIDTH - 32) // 2, (HEIGHT - 32) // 2
        expected = np.asarray(picture)[top : top + 32, left : left + 32]
    np.testing.assert_array_equal(faces.pixels[0], expected)


def test_rows_of_the_splits_are_celebas_own(celeba):
    faces = load()
    assert [len(faces.rows(split)) for split in ("train", "val", "test")] == [
        TRAIN,
        VAL,
        COUNT - TRAIN - VAL,
    ]
    assert faces.rows("val")[0] == TRAIN


def test_the_packed_array_is_reused_until_source_or_crop_change(celeba):
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


def test_the_crop_stands_beside_the_packed_array(celeba):
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


def test_an_unreadable_image_stops_with_its_name_and_a_list_and_can_be_skipped(celeba):
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


def test_a_crop_larger_than_the_picture_is_said(celeba):
    with pytest.raises(UserError, match=r"000001.jpg: a square of 99 .* 44 x 54: --crop"):
        load(crop=99)


def test_a_disk_without_room_is_said_before_anything_is_written(celeba, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=30_000_000))
    with pytest.raises(UserError, match=r"need 0\.05 GB and cache has 0\.03 GB free"):
        load(image_size=512)
    assert not list(Path("cache").iterdir())


def test_batches_are_the_rows_asked_for_scaled_and_mirrored_one_by_one(celeba):
    faces = load()
    rows = np.array([9, 4, 7, 1, 0])
    mirrored = np.array([True, False, False, True, True])
    x = torch.cat(list(batches(faces, rows, 2, mirrored=mirrored)))
    assert x.dtype == torch.float32
    for got, row, mirror in zip(x, rows, mirrored, strict=True):
        expected = np.asarray(faces.pixels[row]).transpose(2, 0, 1) / np.float32(255)
        np.testing.assert_array_equal(got, expected[:, :, ::-1] if mirror else expected)


def test_at_most_so_many_images_come_evenly_from_all_splits(celeba):
    faces = load(max_images=30)
    assert len(faces.names) == 30
    assert len(faces.rows("train")) == TRAIN // 2
    assert len(faces.rows("val")) == VAL // 2


def test_the_digest_tells_faces_apart_wherever_they_lie(celeba):
    elsewhere = write_celeba(Path("elsewhere"))
    same = load_faces(str(elsewhere), 32, cache_dir="cache")
    assert load().digest() == same.digest()
    assert load(max_images=30).digest() != same.digest()


def test_batches_are_the_same_from_the_file_and_from_the_device(celeba):
    faces, device = load(), torch.device("cpu")
    rows, mirrored = np.random.default_rng(0).permutation(COUNT), np.arange(COUNT) % 2 == 0
    streamed = list(batches(faces, rows, 7, mirrored=mirrored))
    resident = copy_pixels(faces, device)
    placed = list(batches(faces, rows, 7, mirrored=mirrored, resident=resident))
    assert [len(x) for x in placed] == [7] * 8 + [4]
    for x, other in zip(streamed, placed, strict=True):
        assert torch.equal(x, other)


def test_batches_that_are_left_half_way_leave_no_thread(celeba):
    before = threading.active_count()
    stream = batches(load(), np.arange(COUNT), 2)
    next(stream)
    stream.close()
    assert threading.active_count() == before
