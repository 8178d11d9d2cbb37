import hashlib
import io
import os
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from layouts import (
    COUNT,
    NAMES,
    PARTITION,
    SIGNS,
    doubled_zip,
    folder_of_the_sets_own_name,
    kaggle_inner_folder,
    kaggle_layout,
    kaggle_outer_folder,
    path_of_zip,
    picture_folder,
    torchvision_layout,
    torchvision_root,
    write_picture,
    write_pictures,
    write_text_tables,
    write_zip,
    zip_layout,
    zip_without_folder,
)
from PIL import Image

from vae.data.celeba import SPLITS, Faces, find_faces
from vae.data.synthetic.attributes import ATTRIBUTE_NAMES
from vae.errors import UserError

LAYOUTS = [
    torchvision_layout,
    torchvision_root,
    picture_folder,
    kaggle_layout,
    kaggle_outer_folder,
    kaggle_inner_folder,
    zip_layout,
    doubled_zip,
    zip_without_folder,
    path_of_zip,
    folder_of_the_sets_own_name,
]


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def error_of(root):
    with pytest.raises(UserError) as caught:
        find_faces(root)
    message = str(caught.value)
    assert "\n" not in message
    return message


# Layouts and tables


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_of_celeba_gives_the_same_faces(layout, tmp_path):
    faces = find_faces(layout(tmp_path))
    assert faces.names == NAMES
    assert faces.aligned
    assert faces.splits.dtype == np.uint8
    np.testing.assert_array_equal(faces.splits, PARTITION)
    assert faces.attribute_names == ATTRIBUTE_NAMES
    assert faces.attributes.dtype == bool
    np.testing.assert_array_equal(faces.attributes, SIGNS == 1)
    assert faces.people is None


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_of_celeba_gives_the_same_bytes_from_many_threads(layout, tmp_path):
    write_pictures(tmp_path / "reference")
    expected = [(tmp_path / "reference" / name).read_bytes() for name in NAMES]
    faces = find_faces(layout(tmp_path / "root"))
    with faces.reader() as read, ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            assert list(pool.map(read, faces.names)) == expected


def test_the_order_of_the_rows_does_not_matter(tmp_path):
    root = torchvision_layout(tmp_path)
    write_text_tables(root, order=range(COUNT - 1, -1, -1))
    edit(root / "list_eval_partition.txt", f"{NAMES[0]} 0\n", "")
    edit(root / "list_eval_partition.txt", "\n", f"\n{NAMES[0]} 0\n\n")
    faces = find_faces(root)
    np.testing.assert_array_equal(faces.splits, PARTITION)
    np.testing.assert_array_equal(faces.attributes, SIGNS == 1)


OWN_NAMES = ("Winking", "Freckles", "smiles_5")


def write_own_table(path):
    """Write a table of three attributes in the form that the suffix of path says."""
    separator = "," if path.suffix == ".csv" else " "
    header = ["image_id", *OWN_NAMES] if path.suffix == ".csv" else OWN_NAMES
    rows = [[name, *map(str, SIGNS[i, :3])] for i, name in enumerate(NAMES)]
    lines = [separator.join(cells) for cells in [header, *rows]]
    path.write_text("\n".join(lines if path.suffix == ".csv" else [str(COUNT), *lines]) + "\n")


@pytest.mark.parametrize("suffix", [".txt", ".csv"])
def test_a_table_of_ones_own_gives_its_three_names_in_its_order(suffix, tmp_path):
    root = torchvision_layout(tmp_path)
    (root / "list_attr_celeba.txt").unlink()
    write_own_table(root / f"list_attr_celeba{suffix}")
    faces = find_faces(root)
    assert faces.attribute_names == OWN_NAMES
    np.testing.assert_array_equal(faces.attributes, SIGNS[:, :3] == 1)
    assert faces.take(7).attribute_names == OWN_NAMES
    assert faces.take(7).attributes.shape == (7, 3)


def write_identities(root, names=NAMES):
    rows = [f"{name} {100 + NAMES.index(name) // 2}\n" for name in reversed(names)]
    (root / "identity_CelebA.txt").write_text("".join(rows))


def test_people_are_read_by_file_name(tmp_path):
    root = torchvision_layout(tmp_path)
    write_identities(root)
    (root / "img_align_celeba" / NAMES[3]).unlink()
    faces = find_faces(root)
    assert faces.people.dtype == np.int64
    expected = np.delete(100 + np.arange(COUNT) // 2, 3)
    np.testing.assert_array_equal(faces.people, expected)
    rows = [faces.names.index(name) for name in faces.take(7).names]
    np.testing.assert_array_equal(faces.take(7).people, expected[rows])


def test_a_bad_identity_table_is_named(tmp_path):
    root = torchvision_layout(tmp_path)
    write_identities(root, NAMES[1:])
    assert "identity_CelebA.txt has no row for 000001.jpg (none for 1 of 20" in error_of(root)
    (root / "identity_CelebA.txt").write_text("000001.jpg 5\n000002.jpg\n")
    assert "has no file name and person number on line 2" in error_of(root)


def test_rows_without_a_picture_are_left_out(tmp_path):
    root = torchvision_layout(tmp_path)
    (root / "img_align_celeba" / NAMES[3]).unlink()
    faces = find_faces(root)
    assert faces.names == NAMES[:3] + NAMES[4:]
    np.testing.assert_array_equal(faces.attributes, np.delete(SIGNS, 3, axis=0) == 1)
    np.testing.assert_array_equal(faces.splits, np.delete(PARTITION, 3))


def test_a_csv_may_use_0_instead_of_minus_1(tmp_path):
    root = kaggle_layout(tmp_path)
    table = root / "list_attr_celeba.csv"
    table.write_text(table.read_text().replace("-1", "0"))
    np.testing.assert_array_equal(find_faces(root).attributes, SIGNS == 1)


def test_a_table_may_have_a_byte_order_mark_and_windows_line_ends(tmp_path):
    root = torchvision_layout(tmp_path)
    for name in ("list_attr_celeba.txt", "list_eval_partition.txt"):
        text = (root / name).read_text()
        (root / name).write_text(text, encoding="utf-8-sig", newline="\r\n")
    faces = find_faces(root)
    np.testing.assert_array_equal(faces.attributes, SIGNS == 1)
    np.testing.assert_array_equal(faces.splits, PARTITION)


def test_without_the_attribute_table_the_splits_are_still_found(tmp_path):
    root = torchvision_layout(tmp_path)
    (root / "list_attr_celeba.txt").unlink()
    faces = find_faces(root)
    assert faces.attributes is None
    assert faces.attribute_names == ()
    assert faces.aligned
    np.testing.assert_array_equal(faces.splits, PARTITION)
    assert faces.take(3).attributes is None


def test_without_the_partition_the_splits_are_a_hash_of_the_names(tmp_path):
    root = torchvision_layout(tmp_path)
    (root / "list_eval_partition.txt").unlink()
    digits = [int(hashlib.sha256(n.encode()).hexdigest()[:16], 16) % 10 for n in NAMES]
    expected = [max(0, digit - 7) for digit in digits]
    np.testing.assert_array_equal(find_faces(root).splits, expected)


def test_an_unpacked_folder_without_pictures_does_not_hide_the_zip(tmp_path):
    root = zip_layout(tmp_path)
    (root / "img_align_celeba").mkdir()
    assert find_faces(root).source == root / "img_align_celeba.zip"


def test_the_current_folder_can_be_the_picture_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(picture_folder(tmp_path))
    faces = find_faces(Path())
    assert faces.aligned
    np.testing.assert_array_equal(faces.splits, PARTITION)


def test_a_plain_folder_gives_its_pictures_at_any_depth_and_nothing_else(tmp_path):
    root = tmp_path / "mine"
    write_text_tables(tmp_path)  # of other pictures
    for name in ("b.JPG", "a/d.png", "a/e/f.webp", "c.jpeg", "g.bmp"):
        write_picture(root / name)
    for name in (".hidden.jpg", ".thumbnails/b.jpg", "a/.cache/x.png"):
        write_picture(root / name)
    (root / "notes.txt").write_text("not a picture")
    faces = find_faces(root)
    assert faces.names == ("a/d.png", "a/e/f.webp", "b.JPG", "c.jpeg", "g.bmp")
    assert faces.attributes is None
    assert not faces.aligned
    with faces.reader() as read:
        assert Image.open(io.BytesIO(read("a/e/f.webp"))).size == (18, 22)


def test_a_zip_of_other_pictures_is_not_treated_as_celeba(tmp_path):
    write_zip(tmp_path / "holiday.zip", prefix="beach/", names=("x.jpg", "y.png"))
    faces = find_faces(tmp_path / "holiday.zip")
    assert faces.names == ("beach/x.jpg", "beach/y.png")
    assert not faces.aligned
    with faces.reader() as read:
        assert Image.open(io.BytesIO(read("beach/y.png"))).size == (18, 22)


# Splits, samples, fingerprints


def test_hashed_splits_are_the_same_on_every_machine(tmp_path):
    names = ("face-1.png", "face-10.png", "face-2.png", "face-21.png", "face-7.png", "sub/a.png")
    write_pictures(tmp_path, names)
    faces = find_faces(tmp_path)
    assert faces.names == names
    assert [SPLITS[split] for split in faces.splits] == [
        "train",
        "val",
        "train",
        "test",
        "train",
        "train",
    ]


def test_hashed_splits_are_close_to_80_10_10(tmp_path):
    with zipfile.ZipFile(tmp_path / "faces.zip", "w") as archive:
        for i in range(20_000):
            archive.writestr(f"{i}.png", b"")
    fractions = np.bincount(find_faces(tmp_path / "faces.zip").splits) / 20_000
    np.testing.assert_allclose(fractions, [0.8, 0.1, 0.1], atol=0.007)


def test_take_keeps_the_proportions_of_the_splits_and_the_rows_together():
    splits = np.repeat([0, 1, 2], [1600, 250, 150]).astype(np.uint8)
    attributes = np.random.default_rng(1).random((2000, 40)) < 0.5
    names = tuple(f"{i:06d}.jpg" for i in range(2000))
    part = Faces(Path("x"), names, splits, attributes, ATTRIBUTE_NAMES, None, True).take(200)
    assert np.bincount(part.splits).tolist() == [160, 25, 15]
    assert len(set(part.names)) == 200
    rows = [int(name[:6]) for name in part.names]
    np.testing.assert_array_equal(part.splits, splits[rows])
    np.testing.assert_array_equal(part.attributes, attributes[rows])


def test_take_returns_at_most_all_faces(tmp_path):
    faces = find_faces(torchvision_layout(tmp_path))
    assert faces.take(COUNT + 5).names == NAMES
    assert len(faces.take(7).names) == 7


def test_the_fingerprint_depends_on_the_pictures_only(tmp_path):
    for layout in (torchvision_layout, zip_layout):
        root = layout(tmp_path / layout.__name__)
        first = find_faces(root).fingerprint()
        (root / "list_eval_partition.txt").unlink()
        assert find_faces(root).fingerprint() == first


@pytest.mark.parametrize("change", ["name", "size", "time", "count"])
def test_the_fingerprint_of_a_folder_changes_with_a_picture(change, tmp_path):
    write_pictures(tmp_path)
    before = find_faces(tmp_path).fingerprint()
    path = tmp_path / NAMES[4]
    status = path.stat()
    if change == "name":
        path.rename(tmp_path / "000004b.jpg")
    elif change == "size":
        path.write_bytes(path.read_bytes() + b"\0")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    elif change == "time":
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000_000))
    else:
        path.unlink()
    assert find_faces(tmp_path).fingerprint() != before


def test_the_fingerprint_of_a_zip_changes_with_a_picture(tmp_path):
    prints = set()
    for name, content in (("a.jpg", b"one"), ("a.jpg", b"two"), ("b.jpg", b"one")):
        with zipfile.ZipFile(tmp_path / "faces.zip", "w") as archive:
            archive.writestr(name, content)
        prints.add(find_faces(tmp_path / "faces.zip").fingerprint())
    assert len(prints) == 3


# Errors


def test_the_error_for_an_empty_or_missing_folder_says_what_was_looked_for_and_what_to_do(tmp_path):
    for root, found in ((tmp_path, ""), (tmp_path / "nowhere", " (no such folder)")):
        message = error_of(root)
        assert message.startswith(f"no images under {root}{found}: looked for img_align_celeba/")
        for advice in ("img_align_celeba.zip", 'README, "Data"', "--data DIR", "--download"):
            assert advice in message
        assert message.endswith("--data synthetic")


def test_a_file_that_is_not_a_zip_is_refused(tmp_path):
    (tmp_path / "face.jpg").write_bytes(b"")
    assert "face.jpg is neither a folder nor a zip" in error_of(tmp_path / "face.jpg")


def test_a_damaged_zip_is_named(tmp_path):
    root = zip_layout(tmp_path)
    path = root / "img_align_celeba.zip"
    path.write_bytes(path.read_bytes()[:-100])
    message = error_of(root)
    assert f"{path} is damaged" in message
    assert "download it again" in message


MISFITS = [
    ("attr", "20\n", "202599\n", "has 20 rows, says 202,599 on line 1"),
    ("attr", "20\n", "many\n", 'has 20 rows, says "many" on line 1'),
    ("attr", "Smiling ", "", "has 40 values on line 3, expected 39"),
    ("attr", "Smiling ", "Smiling Smiling ", "names Smiling more than once in its header"),
    ("attr", "Smiling ", "Smiling smiling ", "names Smiling more than once in its header"),
    ("attr", " ".join(ATTRIBUTE_NAMES), "", "names no attribute in its header"),
    (
        "attr",
        f"000003.jpg {SIGNS[2][0]:2d}",
        "000003.jpg  2",
        'has "2" on line 5, expected -1 or 0 or 1',
    ),
    ("attr", "000003.jpg ", "000003.jpg 1 ", "has 41 values on line 5, expected 40"),
    ("attr", "000003.jpg", "000002.jpg", "has 000002.jpg a second time on line 5"),
    ("attr", "000003.jpg", "000099.jpg", "has no row for 000003.jpg (none for 1 of 20 pictures)"),
    ("eval", "000003.jpg 0", "000003.jpg 7", 'has "7" on line 3, expected 0 or 1 or 2'),
    ("eval", "000003.jpg 0", "000003.jpg", "has 0 values on line 3, expected 1"),
    ("eval", "000003.jpg 0\n000004.jpg 0\n", "", "(none for 2 of 20 pictures)"),
]


@pytest.mark.parametrize(("table", "old", "new", "expected"), MISFITS)
def test_the_error_for_a_table_that_does_not_fit_says_where_and_what_to_do(
    table, old, new, expected, tmp_path
):
    root = torchvision_layout(tmp_path)
    name = {"attr": "list_attr_celeba.txt", "eval": "list_eval_partition.txt"}[table]
    edit(root / name, old, new)
    message = error_of(root)
    assert f"{name} " in message
    assert expected in message
    assert "fetch the file again" in message


@pytest.mark.parametrize("name", ["list_attr_celeba.txt", "list_eval_partition.txt"])
def test_an_empty_or_undecodable_table_is_an_error(name, tmp_path):
    root = torchvision_layout(tmp_path)
    content = (root / name).read_bytes()
    (root / name).write_bytes(content[:-30] + b"\xff\xfe" + content[-30:])
    assert f"{name} is damaged" in error_of(root)
    (root / name).write_bytes(b"")
    assert name in error_of(root)
