import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import COUNT, HEIGHT, TRAIN, VAL, WIDTH, write_celeba
from PIL import Image
from test_files import largest_file

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
    picture.unlink()
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
    source, *made_of = contents["made_of"][:4]
    assert source.endswith("data/celeba")
    assert made_of == [32, 20, None]
    assert faces.crop == 20
    assert load().crop == "frame"


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
    assert "000007.jpg is not a readable image: truncated. 2 of 60 files are not (list" in message
    assert message.endswith("--skip-bad-images leaves them out")
    listing = Path(message.split("list in ")[1].split(")")[0]).read_text()
    reason = "Pillow cannot read this kind of file"
    assert listing.splitlines() == ["000007.jpg\ttruncated", f"000009.jpg\t{reason}"]
    faces = load(skip_bad_images=True)
    assert len(faces.rows("train")) == TRAIN - 2
    assert not set(faces.rows("train")) & {6, 8}
    assert faces.attributes.shape == (COUNT, 40)


def test_pictures_smaller_than_the_crop_are_an_error_and_can_be_skipped(celeba):
    small = celeba / "img_align_celeba" / "000011.jpg"
    small.unlink()
    Image.new("RGB", (30, 30)).save(small)
    message = r"000011.jpg .*: a square of 40 .* 30 x 30 \(--crop-size\). 1 of 60 files are not"
    with pytest.raises(UserError, match=message):
        load(crop=40)
    faces = load(crop=40, skip_bad_images=True)
    assert 10 not in faces.rows("train")
    assert "left out: 1 (1 not readable; cache" in faces.description[-1]


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


def test_the_digest_depends_on_names_splits_and_pixels_each_in_its_part(celeba):
    before = load()
    parts = [before.digest()[at : at + 8] for at in (0, 8, 16)]

    def changed(faces):
        return [faces.digest()[at : at + 8] != parts[at // 8] for at in (0, 8, 16)]

    (celeba / "list_attr_celeba.txt").unlink()
    assert changed(load()) == [False, False, False]
    assert load().table_digest() != before.table_digest()
    assert changed(load(crop=20)) == [False, False, True]
    assert changed(replace(before, checksums=None)) == [False, False, False]
    table = celeba / "list_eval_partition.txt"
    table.write_text(table.read_text().replace("000001.jpg 0", "000001.jpg 2"))
    assert changed(load()) == [False, True, False]
    picture = celeba / "img_align_celeba" / "000060.jpg"
    picture.rename(picture.with_name("000060b.jpg"))
    assert changed(load())[0]


def test_another_table_changes_its_digest(celeba):
    table = celeba / "list_attr_celeba.txt"
    text, digests = table.read_text(), {load().table_digest()}
    lines = text.splitlines()
    for other in (text.replace("Smiling", "Laughing"), "\n".join(lines[:-1]), "\n".join(lines)):
        table.write_text(other)
        digests.add(load().table_digest())
    table.unlink()
    assert len(digests | {load().table_digest()}) == 4


# What was understood is said


def test_the_start_says_splits_tables_crop_and_what_was_left_out(celeba):
    (celeba / "notes.md").write_text("mine")
    lines = load().description
    assert lines[0] == "data: 40 train, 12 val, 8 test of 60 images in data/celeba/img_align_celeba"
    assert lines[1] == (
        "      attributes: 40 of list_attr_celeba.txt; splits: list_eval_partition.txt; "
        "crop: CelebA's 128 of 178"
    )
    assert lines[2].startswith("      left out: 1 (1 .md; cache/celeba-32px-")
    listing = Path(lines[2].split("; ")[-1].rstrip(")"))
    assert listing.read_text() == "notes.md\t.md\n"
    assert "crop: the centred 20 pixels" in load(crop=20).description[1]


def test_pictures_of_two_kinds_are_cut_each_by_its_frame_and_counted(tmp_path):
    pixels = np.zeros((60, 40, 3), np.uint8)
    pixels[...] = np.arange(60)[:, None, None] * 4  # a row's value is its number
    for i in range(10):
        size = (40, 49) if i < 3 else (40, 60)  # 49 is 218 / 178 of 40
        path = tmp_path / "faces" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels[: size[1]]).save(path)
    faces = load_faces(str(tmp_path / "faces"), 29, str(tmp_path))
    assert "CelebA's 128 of 178 for 3 images, the largest square for 7" in faces.description[1]
    assert (faces.pixels[0, 0] == 10 * 4).all()
    assert (faces.pixels[0, -1] == 38 * 4).all()
    assert faces.pixels[9, 0].mean() == pytest.approx(10 * 4, abs=1)
    assert faces.pixels[9, -1].mean() == pytest.approx(49 * 4, abs=1)


def test_an_empty_val_is_taken_from_train_and_an_empty_train_is_an_error(celeba):
    table = celeba / "list_eval_partition.txt"
    text = table.read_text()
    table.write_text(text.replace("jpg 1", "jpg 0"))
    faces = load()
    count = len(faces.rows("val"))
    assert count + len(faces.rows("train")) == TRAIN + VAL
    assert f"      val was empty: {count} images taken from train" in faces.description
    table.write_text(text.replace("jpg 0", "jpg 1"))
    with pytest.raises(UserError, match=r"train split of .* is empty: 0 train, 52 val, 8 test"):
        load()


def test_faces_with_attributes_are_those_with_a_row(celeba):
    table = celeba / "list_attr_celeba.txt"
    table.write_text("\n".join(table.read_text().splitlines()[:-30]))
    faces = load()
    assert faces.with_attributes(faces.rows("train")).tolist() == list(range(30))
    assert len(faces.with_attributes(faces.rows("val"))) == 0
    assert "(30 pictures without a row)" in faces.description[1]
    table.unlink()
    assert len(load().with_attributes(faces.rows("val"))) == VAL


def test_a_packed_array_is_used_where_nothing_can_be_written(celeba):
    (celeba / "notes.md").write_text("mine")
    listing = load().path.with_suffix(".left-out.txt")
    listing.unlink()
    with largest_file(0):
        faces = load()
    assert any(f"could not write {listing}: the file is larger" in one for one in faces.description)
    assert not listing.exists()
