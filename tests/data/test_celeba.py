import csv
import hashlib
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

from vae.data.celeba import SPLITS, UNUSED, fill_splits, find_faces
from vae.data.decoding import BadPicture
from vae.data.synthetic.attributes import ATTRIBUTE_NAMES
from vae.errors import UserError

TABLES = ("list_attr_celeba.txt", "list_eval_partition.txt")


def official_tree(root):
    torchvision_layout(root / "Img")
    for table, folder in zip(TABLES, ("Anno", "Eval"), strict=True):
        (root / folder).mkdir()
        (root / "Img" / table).rename(root / folder / table)
    return root


def picture_folder_of_the_official_tree(root):
    return official_tree(root) / "Img" / "img_align_celeba"


def archive_of_kaggle(root):
    kaggle_layout(root / "unpacked")
    with zipfile.ZipFile(root / "archive.zip", "w") as archive:
        for path in sorted((root / "unpacked").rglob("*.*")):
            archive.write(path, path.relative_to(root / "unpacked"))
    return root / "archive.zip"


def zip_two_folders_down(root):
    zip_layout(root / "downloads" / "celeba")
    return root


def pictures_in_a_linked_folder(root):
    torchvision_layout(root)
    (root / "img_align_celeba").rename(root.parent / "big-disk")
    (root / "img_align_celeba").symlink_to(root.parent / "big-disk")
    return root


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
    official_tree,
    picture_folder_of_the_official_tree,
    archive_of_kaggle,
    zip_two_folders_down,
    pictures_in_a_linked_folder,
]


def error_of(root):
    with pytest.raises(UserError) as caught:
        find_faces(root)
    message = str(caught.value)
    assert "\n" not in message
    return message


# Layouts


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_of_celeba_gives_the_same_faces(layout, tmp_path):
    write_pictures(tmp_path / "reference")
    expected = [(tmp_path / "reference" / name).read_bytes() for name in NAMES]
    faces = find_faces(layout(tmp_path / "root"))
    assert faces.names == NAMES
    assert faces.splits.dtype == np.uint8
    np.testing.assert_array_equal(faces.splits, PARTITION)
    assert faces.attribute_names == ATTRIBUTE_NAMES
    assert faces.attributes.dtype == bool
    np.testing.assert_array_equal(faces.attributes, SIGNS == 1)
    assert faces.known.all()
    assert faces.people is None
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(faces.read, faces.names)) == expected


def test_a_png_release_is_matched_without_the_ending(tmp_path):
    root = torchvision_layout(tmp_path)
    for path in (root / "img_align_celeba").iterdir():
        write_picture(path.with_suffix(".png"))
        path.unlink()
    faces = find_faces(root)
    assert faces.names[0] == "000001.png"
    np.testing.assert_array_equal(faces.attributes, SIGNS == 1)
    np.testing.assert_array_equal(faces.splits, PARTITION)


def test_celebamask_hq_as_it_unpacks_gives_its_photographs_alone(tmp_path):
    root = tmp_path / "CelebAMask-HQ"
    names = [f"{i}.jpg" for i in range(12)]
    write_pictures(root / "CelebA-HQ-img", names)
    for i in range(12):
        write_picture(root / "CelebAMask-HQ-mask-anno" / str(i % 2) / f"{i:05d}_hair.png")
    rows = [f"{name}  {' 1' if i % 3 else '-1'} -1" for i, name in enumerate(names)]
    table = ["12", "Smiling Male ", *rows]
    (root / "CelebAMask-HQ-attribute-anno.txt").write_text("\n".join(table) + "\n")
    (root / "CelebAMask-HQ-pose-anno.txt").write_text("12\nYaw Pitch Raw\n0.jpg 1.2 3.4 5.6\n")
    faces = find_faces(root)
    assert sorted(faces.names) == sorted(names)
    assert faces.source == root / "CelebA-HQ-img"
    assert faces.attribute_names == ("Smiling", "Male")
    has = dict(zip(faces.names, faces.attributes[:, 0], strict=True))
    assert [has[name] for name in names] == [i % 3 > 0 for i in range(12)]
    assert list(faces.left_out.values()).count("outside CelebA-HQ-img/") == 12


def test_a_plain_folder_gives_its_pictures_at_any_depth_and_counts_the_other_files(tmp_path):
    root = tmp_path / "mine"
    write_text_tables(tmp_path)  # a neighbour's, of other pictures
    pictures = ("a/d.png", "a/e/f.webp", "b.JPG", "c.jpeg", "g.bmp", "h.tif")
    for name in (*pictures, ".hidden.jpg", ".thumbs/b.jpg", "a/.cache/x.png", "__MACOSX/b.jpg"):
        write_picture(root / name)
    for name in ("notes.md", "a/film.mp4", "a/page.pdf", "b.eps"):
        (root / name).write_text("no picture")
    faces = find_faces(root)
    assert faces.names == pictures
    assert (faces.attributes, faces.attribute_names, faces.people) == (None, (), None)
    kinds = {"notes.md": ".md", "a/film.mp4": ".mp4", "a/page.pdf": ".pdf", "b.eps": ".eps"}
    assert faces.left_out == kinds


def test_links_are_followed_and_each_real_file_is_one_face(tmp_path):
    root = tmp_path / "faces"
    write_pictures(root / "mine", ("m1.jpg", "m2.jpg"))
    write_pictures(tmp_path / "elsewhere", ("e1.jpg", "e2.jpg"))
    (root / "yours").symlink_to("../elsewhere")
    (root / "again").symlink_to("mine")
    (root / "loop").symlink_to("..")
    (root / "mine" / "itself").symlink_to(".")
    (root / "m1-again.jpg").symlink_to("mine/m1.jpg")
    (root / "lost.jpg").symlink_to("nowhere.jpg")
    names = ("lost.jpg", "mine/m1.jpg", "mine/m2.jpg", "yours/e1.jpg", "yours/e2.jpg")
    assert find_faces(root).names == names


def test_the_pictures_of_a_run_inside_the_folder_are_no_data(tmp_path):
    write_pictures(tmp_path, ("a.jpg", "runs/faces-64/samples.png"))
    (tmp_path / "runs/faces-64/last.pt").write_bytes(b"")
    assert find_faces(tmp_path).names == ("a.jpg",)


def test_names_that_are_not_utf_8_are_found_and_matched(tmp_path):
    folder = tmp_path / os.fsdecode(b"ann\xe9e")
    write_pictures(folder, ("1.jpg", "2.jpg", "3.jpg"))
    for i in (1, 2):
        (folder / f"{i}.jpg").rename(folder / os.fsdecode(b"\xe9%d.jpg" % i))
    (folder / "attributes.csv").write_bytes(b"file,A\n\xe91.jpg,1\n\xe92.jpg,0\n")
    faces = find_faces(folder)
    assert [os.fsencode(name) for name in faces.names] == [b"3.jpg", b"\xe91.jpg", b"\xe92.jpg"]
    assert faces.attributes[:, 0].tolist() == [False, True, False]
    assert faces.known.tolist() == [False, True, True]
    assert all(faces.read(name) for name in faces.names)


# Zips


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED, zipfile.ZIP_LZMA])
def test_a_zip_gives_back_the_bytes_whatever_its_compression(tmp_path, method):
    rng = np.random.default_rng(0)
    sizes = {"x/a.jpg": 3_000, "x/ä/β.jpg": 70_000, "x/empty.png": 0}
    contents = {name: rng.integers(0, 9, size, np.uint8).tobytes() for name, size in sizes.items()}
    with zipfile.ZipFile(tmp_path / "faces.zip", "w", method) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    faces = find_faces(tmp_path)
    assert {f"x/{name}": faces.read(name) for name in faces.names} == contents


def test_a_zip_beside_pictures_is_ignored_and_counted(tmp_path):
    write_pictures(tmp_path, ("a.jpg",))
    write_zip(tmp_path / "more.zip")
    faces = find_faces(tmp_path)
    assert faces.names == ("a.jpg",)
    assert faces.left_out == {"more.zip": ".zip"}


def test_damage_within_a_zip_is_of_that_picture_alone(tmp_path):
    path = zip_layout(tmp_path) / "img_align_celeba.zip"
    content = bytearray(path.read_bytes())
    start = content.index(NAMES[1].encode()) + len(NAMES[1])
    content[start + 40 : start + 60] = bytes(20)
    path.write_bytes(content)
    faces = find_faces(path)
    with pytest.raises(BadPicture, match="damaged within the zip"):
        faces.read(NAMES[1])
    assert faces.read(NAMES[2])


def test_zips_that_cannot_be_used_say_why_and_what_to_do(tmp_path):
    path = zip_layout(tmp_path / "cut") / "img_align_celeba.zip"
    path.write_bytes(path.read_bytes()[:-100])
    assert f"{path} is damaged" in error_of(path)
    assert "fetch the file again" in error_of(path.parent)
    for name in ("one", "two"):
        write_zip(tmp_path / "both" / f"{name}.zip")
    assert "holds one.zip and two.zip: pass one of them as --data" in error_of(tmp_path / "both")
    (tmp_path / "outer").mkdir()
    with zipfile.ZipFile(tmp_path / "outer" / "outer.zip", "w") as archive:
        archive.write(tmp_path / "both" / "one.zip", "in/inner.zip")
    assert "holds in/inner.zip: unpack it" in error_of(tmp_path / "outer")
    content = bytearray((tmp_path / "both" / "one.zip").read_bytes())
    for signature, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = content.find(signature)
        while start >= 0:
            content[start + at] |= 1  # encrypted
            start = content.find(signature, start + 1)
    (tmp_path / "secret.zip").write_bytes(content)
    assert "password required" in error_of(tmp_path / "secret.zip")


# Splits


def test_folders_named_as_splits_are_the_splits_and_others_are_left_out(tmp_path):
    for folder in ("train/a", "train/b", "Valid", "test", ""):
        write_pictures(tmp_path / folder, (f"{folder.replace('/', '') or 'x'}1.jpg",))
    faces = find_faces(tmp_path)
    splits = {name: SPLITS[split] for name, split in zip(faces.names, faces.splits, strict=True)}
    assert splits == {
        "Valid/Valid1.jpg": "val",
        "test/test1.jpg": "test",
        "train/a/traina1.jpg": "train",
        "train/b/trainb1.jpg": "train",
    }
    assert faces.left_out == {"x1.jpg": "without a split"}


def test_without_tables_and_folders_the_splits_are_a_hash_of_the_file_names(tmp_path):
    names = ("face-1.png", "face-10.png", "face-2.png", "face-21.png", "face-7.png", "sub/a.png")
    write_pictures(tmp_path, names)
    faces = find_faces(tmp_path)
    assert faces.names == names
    splits, lines = fill_splits(faces.names, faces.splits, by_hash=True)
    assert [SPLITS[split] for split in splits[:5]] == ["train", "val", "train", "test", "train"]
    np.testing.assert_array_equal(splits, [max(0, tenth_of(Path(n).name) - 7) for n in names])
    assert lines == []


def test_hashed_splits_are_close_to_80_10_10():
    names = [f"{i}.png" for i in range(20_000)]
    splits, _ = fill_splits(names, np.zeros(20_000, np.uint8), by_hash=True)
    fractions = np.bincount(splits) / 20_000
    np.testing.assert_allclose(fractions, [0.8, 0.1, 0.1], atol=0.007)


def test_a_picture_without_a_split_is_left_out(tmp_path):
    root = torchvision_layout(tmp_path)
    rows = [
        f"{name},{word}" for name, word in zip(NAMES, ["train", "Val", "test"] * 6, strict=False)
    ]
    (root / TABLES[1]).unlink()
    (root / "list_eval_partition.csv").write_text("\n".join(["image_id,partition", *rows]))
    faces = find_faces(root)
    assert faces.names == NAMES[:18]
    assert faces.splits.tolist() == [0, 1, 2] * 6
    assert faces.attributes.shape == (18, 40)
    assert faces.left_out == {f"img_align_celeba/{n}": "without a split" for n in NAMES[18:]}


def tenth_of(name):
    return int(hashlib.sha256(name.encode()).hexdigest()[:16], 16) % 10


def test_an_empty_val_or_test_gets_its_tenth_of_train_and_that_is_said():
    names = [f"{i:06d}.jpg" for i in range(300)]
    splits, lines = fill_splits(names, np.zeros(300, np.uint8), by_hash=False)
    for code, tenth in ((1, 8), (2, 9)):
        assert [n for n, s in zip(names, splits, strict=True) if s == code] == [
            n for n in names if tenth_of(n) == tenth
        ]
    count = sum(tenth_of(name) == 8 for name in names)
    assert lines[0] == f"val was empty: {count} images taken from train"
    only_val, lines = fill_splits(names, np.repeat([0, 2], 150).astype(np.uint8), by_hash=False)
    assert (only_val[150:] == 2).all()
    assert len(lines) == 1


@pytest.mark.parametrize("count", range(1, 12))
@pytest.mark.parametrize("by_hash", [True, False])
def test_of_three_faces_or_more_no_split_is_empty(count, by_hash):
    for seed in range(20):
        names = [f"{seed}-{i}.jpg" for i in range(count)]
        splits = np.zeros(count, np.uint8)
        filled, _ = fill_splits(names, splits, by_hash)
        assert set(filled.tolist()) >= ({0, 1, 2} if count > 2 else {0})
        unused = np.append(splits, UNUSED)
        assert fill_splits([*names, "bad.jpg"], unused, by_hash)[0][-1] == UNUSED


# Attributes and people


def write_csv(path, rows, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file, **options).writerows(rows)


def test_a_picture_without_a_row_is_kept_and_is_not_known(tmp_path):
    root = torchvision_layout(tmp_path)
    lines = (root / TABLES[0]).read_text().splitlines()
    (root / TABLES[0]).write_text("\n".join(lines[:-5] + ["nobody.jpg " + " 1" * 40]))
    faces = find_faces(root)
    assert faces.names == NAMES
    assert faces.known.tolist() == [True] * 15 + [False] * 5
    np.testing.assert_array_equal(faces.attributes[:15], SIGNS[:15] == 1)
    assert not faces.attributes[15:].any()
    remarks = "(5 pictures without a row, 1 of 16 rows without a picture)"
    assert faces.origins["attributes"] == f"40 of list_attr_celeba.txt {remarks}"


def test_columns_that_are_no_attributes_are_named(tmp_path):
    write_pictures(tmp_path, ("a.jpg", "b.jpg", "c.jpg"))
    rows = [
        ["file", "Age", "Tattoo", "text", "split", "Hat"],
        ["a.jpg", 7, 1, "so, so", "train", 0],
    ]
    rows += [["b.jpg", 70, 0, 'a "b"', "val", 1], ["c.jpg", 1, 1, "c", "test", 1]]
    write_csv(tmp_path / "attributes.csv", rows)
    faces = find_faces(tmp_path)
    assert faces.attribute_names == ("Tattoo", "Hat")
    assert faces.attributes.tolist() == [[True, False], [False, True], [True, True]]
    assert faces.splits.tolist() == [0, 1, 2]
    assert faces.origins["attributes"] == "2 of attributes.csv; not attributes: Age, text, split"
    assert faces.origins["splits"] == "attributes.csv"


def test_each_folders_metadata_csv_names_its_own_pictures(tmp_path):
    for split, start in (("train", 0), ("test", 1)):
        write_pictures(tmp_path / split, ("1.jpg", "2.jpg"))
        rows = [["file_name", "Hat"], ["1.jpg", start], ["2.jpg", 1 - start]]
        write_csv(tmp_path / split / "metadata.csv", rows)
    faces = find_faces(tmp_path)
    assert faces.names == ("test/1.jpg", "test/2.jpg", "train/1.jpg", "train/2.jpg")
    assert faces.attributes[:, 0].tolist() == [True, False, False, True]
    assert faces.splits.tolist() == [2, 2, 0, 0]


def test_people_are_read_and_unknown_ones_are_nobody_else(tmp_path):
    root = torchvision_layout(tmp_path)
    rows = [f"{name} {100 + i // 2}\n" for i, name in enumerate(NAMES[:-3])]
    (root / "identity_CelebA.txt").write_text("".join(reversed(rows)))
    faces = find_faces(root)
    assert faces.people.dtype == np.int64
    np.testing.assert_array_equal(faces.people[:-3], 100 + np.arange(COUNT - 3) // 2)
    assert len({*faces.people[-3:]} - {*faces.people[:-3]}) == 3
    rows = [faces.names.index(name) for name in faces.take(7).names]
    np.testing.assert_array_equal(faces.take(7).people, faces.people[rows])


def test_take_keeps_the_proportions_of_the_splits_and_the_rows_together(tmp_path):
    faces = find_faces(torchvision_layout(tmp_path))
    part = faces.take(10)
    assert np.bincount(part.splits).tolist() == [7, 2, 1]
    rows = [NAMES.index(name) for name in part.names]
    np.testing.assert_array_equal(part.attributes, SIGNS[rows] == 1)
    assert part.known.shape == (10,)
    assert part.attribute_names == ATTRIBUTE_NAMES
    assert faces.take(COUNT + 5) is faces


def test_masks_of_the_same_names_are_asked_about_and_better_matches_win(tmp_path):
    names = [f"{i}.png" for i in range(6)]
    write_pictures(tmp_path / "photos", names)
    write_pictures(tmp_path / "masks", names)
    write_csv(tmp_path / "attributes.csv", [["file", "Hat"], *([n, 1] for n in names)])
    message = error_of(tmp_path)
    assert "fits masks/0.png and photos/0.png equally" in message
    assert "--data" in message
    write_csv(tmp_path / "attributes.csv", [["file", "Hat"], *([f"photos\\{n}", 1] for n in names)])
    assert find_faces(tmp_path).source == tmp_path / "photos"
    write_csv(tmp_path / "attributes.csv", [["file", "Hat"], *([n, 1] for n in names)])
    for name in names:
        (tmp_path / "masks" / name).rename((tmp_path / "masks" / name).with_suffix(".bmp"))
    assert find_faces(tmp_path).source == tmp_path / "photos"


def test_of_two_tables_the_one_that_fits_is_taken(tmp_path):
    root = torchvision_layout(tmp_path)
    write_csv(root / "attributes.csv", [["file", "Hat"], ["other.jpg", 1]])
    assert find_faces(root).attribute_names == ATTRIBUTE_NAMES


def test_of_two_tables_that_fit_equally_the_nearer_is_taken(tmp_path):
    write_pictures(tmp_path / "mine", ("a.jpg", "b.jpg"))
    write_csv(tmp_path / "attributes.csv", [["file", "Far"], ["a.jpg", 1], ["b.jpg", 0]])
    write_csv(tmp_path / "mine/attributes.csv", [["file", "Near"], ["a.jpg", 1], ["b.jpg", 0]])
    assert find_faces(tmp_path / "mine").attribute_names == ("Near",)


def test_a_table_of_splits_is_taken_before_a_column_of_splits(tmp_path):
    write_pictures(tmp_path / "mine", ("a.jpg", "b.jpg", "c.jpg"))
    rows = [["file", "split"], ["a.jpg", 0], ["b.jpg", 1], ["c.jpg", 2]]
    write_csv(tmp_path / "mine" / "attributes.csv", rows)
    assert find_faces(tmp_path / "mine").splits.tolist() == [0, 1, 2]
    (tmp_path / "list_eval_partition.txt").write_text("a.jpg 2\nb.jpg 1\nc.jpg 0\n")
    assert find_faces(tmp_path / "mine").splits.tolist() == [2, 1, 0]


# Errors


def test_where_no_pictures_are_the_error_says_what_was_found_and_what_to_do(tmp_path):
    assert error_of(tmp_path / "nowhere").startswith(
        f"no images under {tmp_path}/nowhere: there is no such folder; get CelebA"
    )
    message = error_of(tmp_path)
    assert message.startswith(f"no images under {tmp_path}: looked for pictures, a zip and parquet")
    for advice in ("found no files", 'README, "Data"', "--data DIR", "--download"):
        assert advice in message
    assert message.endswith("--data synthetic")
    (tmp_path / "celeba.7z").write_bytes(b"7z")
    (tmp_path / "readme.md").write_text("hello")
    assert "found 1 .7z, 1 .md; unpack celeba.7z" in error_of(tmp_path)


def test_a_single_picture_or_another_file_is_refused(tmp_path):
    write_picture(tmp_path / "face.jpg")
    assert "face.jpg is a single picture: pass its folder" in error_of(tmp_path / "face.jpg")


def test_a_table_above_the_folder_that_cannot_be_read_is_told(tmp_path):
    write_pictures(tmp_path / "mine", ("a.jpg", "b.jpg"))
    table = tmp_path / "list_attr_mine.csv"
    table.write_text("file,Hat\na.jpg,1\nb.jpg\n")
    faces = find_faces(tmp_path / "mine")
    assert faces.left_out == {str(table): "table above --data that cannot be used"}
    assert "1 cells in the row of b.jpg, expected 2" in error_of(tmp_path)
    table.write_text("file,Hat\nother.jpg,1\n")
    assert find_faces(tmp_path / "mine").left_out == {}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_that_fits_no_picture_shows_a_name_of_each_side(tmp_path, name):
    root = torchvision_layout(tmp_path)
    text = (root / name).read_text()
    (root / name).write_text(text.replace("0000", "face-"))
    message = error_of(root)
    assert f"{name} names face-01.jpg ..., the pictures are " in message
    assert message.endswith("000001.jpg ...: no row fits")


def test_a_folder_or_a_pipe_in_the_place_of_a_table_is_an_error_and_a_kaggle_folder_is_not(celeba):
    table = celeba / "list_eval_partition.txt"
    expected, text = find_faces(celeba).splits, table.read_text()
    table.unlink()
    for make in (Path.mkdir, os.mkfifo, lambda path: path.symlink_to(path.name)):
        make(table)
        with pytest.raises(UserError, match=r"partition.txt has the name of a table"):
            find_faces(celeba)
        table.rmdir() if table.is_dir() else table.unlink()
    table.mkdir()
    (table / table.name).write_text(text)
    np.testing.assert_array_equal(find_faces(celeba).splits, expected)


def test_a_link_to_a_pipe_is_no_picture_and_a_loop_is_left_alone(celeba):
    count = len(find_faces(celeba).names)
    os.mkfifo(celeba / "pipe")
    (celeba / "img_align_celeba/000099.jpg").symlink_to("../pipe")
    (celeba / "loop").symlink_to("loop")
    assert len(find_faces(celeba).names) == count
