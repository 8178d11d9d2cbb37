import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vae.data.faces import load_faces
from vae.editing.alignment import Similarity, eyes_of
from vae.editing.finding import FoundFace
from vae.editing.folder import align_folder
from vae.errors import UserError

PLACES = {
    "white": Similarity(2.0 + 0.5j, 60.0 + 40.0j),
    "black": Similarity(1.5 - 0.2j, 240.0 + 90.0j),
}


def find(picture):
    """Return two faces in a red picture, one in a green one, none in others."""
    colours = {(255, 0, 0): ("white", "black"), (0, 128, 0): ("white",)}
    kinds = colours.get(picture.getpixel((0, 0)), ())
    return [FoundFace(PLACES[kind](eyes_of(32)), 0.9 - 0.3 * i) for i, kind in enumerate(kinds)]


def paint(colour, path):
    """Write a picture with a white and a black patch where the faces are found."""
    picture = Image.new("RGB", (400, 260), colour)
    for kind, place in PLACES.items():
        middle = place(16 + 16j)
        box = (
            int(middle.real) - 12,
            int(middle.imag) - 12,
            int(middle.real) + 12,
            int(middle.imag) + 12,
        )
        picture.paste(kind, box)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for index in range(12):
        paint("red" if index % 3 == 0 else "green", Path("photos", "ab"[index % 2], f"{index}.png"))
    paint("blue", Path("photos/none.png"))
    Path("photos/broken.jpg").write_bytes(b"\xff\xd8\xff")
    Image.new("RGB", (44, 54), "yellow").save("photos/framed.png")
    rows = [f"{index}.png,{'1' if index % 3 == 1 else '0'}" for index in range(12)]
    Path("photos/list_attr.csv").write_text("image,Green\n" + "\n".join(rows) + "\n")
    return Path("photos")


def table(folder, name):
    with open(folder / name, newline="") as file:
        return list(csv.DictReader(file))


def test_each_face_becomes_a_picture_in_celebas_frame(photos):
    folder, lines = align_folder("photos", 32, "cache", find)
    assert lines[0].startswith("aligned: 17 faces in 13 of 15 pictures of ")
    assert "left out: 2 (1 not readable, 1 no face found; " in lines[1]
    listed = Path(folder).with_suffix(".left-out.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in listed] == ["broken.jpg", "none.png"]
    for name, colour in (("a/0.png-0.png", 255), ("a/0.png-1.png", 0), ("b/1.png-0.png", 255)):
        with Image.open(folder / name) as face:
            assert face.size == (44, 54)
            # the middle of the model's image is the middle of the patch
            assert face.getpixel((6 + 16, 11 + 16)) == (colour,) * 3
    with Image.open(folder / "framed.png-0.png") as same:
        assert same.tobytes() == Image.new("RGB", (44, 54), "yellow").tobytes()
    for sheet in ("first", "least-sure"):
        assert folder.with_suffix(f".{sheet}.png").exists()


def test_faces_of_one_picture_share_a_split_and_the_table_says_where_they_are(photos):
    folder, _ = align_folder("photos", 32, "cache", find)
    rows = table(folder, "list_eval_partition.csv")
    splits = {}
    for row in rows:
        splits.setdefault(row["picture"], set()).add(row["split"])
    assert all(len(kinds) == 1 for kinds in splits.values())
    assert set().union(*splits.values()) == {"train", "val", "test"}
    row = next(row for row in rows if row["image"] == "a/0.png-1.png")
    eyes = PLACES["black"](eyes_of(32)) - 0.5 - 0.5j
    found = [float(row[name]) for name in ("x1", "y1", "x2", "y2", "sure")]
    expected = [eyes[0].real, eyes[0].imag, eyes[1].real, eyes[1].imag, 60.0]
    np.testing.assert_allclose(found, expected, atol=0.06)
    # the attributes of a picture with two faces are those of neither
    assert {row["image"] for row in table(folder, "list_attr.csv")} == {
        f"{'ab'[index % 2]}/{index}.png-0.png" for index in range(12) if index % 3
    }


def test_the_folder_is_a_data_set_that_packs(photos):
    folder, _ = align_folder("photos", 32, "cache", find)
    faces = load_faces(str(folder), 32, "cache")
    assert (len(faces.names), faces.framed) == (17, 17)
    assert faces.attribute_names == ("Green",)
    assert faces.known.sum() == 8


def test_the_faces_are_cut_again_only_if_the_pictures_change(photos):
    def never(picture):
        raise AssertionError

    folder, lines = align_folder("photos", 32, "cache", find)
    assert align_folder("photos", 32, "cache", never) == (folder, lines)
    paint("green", photos / "new.png")
    assert align_folder("photos", 32, "cache", find)[1][0].startswith("aligned: 18 faces in 14")
    assert (folder / "new.png-0.png").exists()


@pytest.mark.parametrize("what", ["table", "record"])
def test_the_faces_are_cut_again_if_a_table_changes_or_the_record_is_damaged(photos, what):
    folder, lines = align_folder("photos", 32, "cache", find)
    assert len(table(folder, "list_attr.csv")) == 8
    if what == "table":
        (photos / "list_attr.csv").unlink()
    else:
        folder.with_suffix(".json").write_text("{")
        (folder / "list_attr.csv").unlink()
    assert align_folder("photos", 32, "cache", find) == (folder, lines)
    assert (folder / "list_attr.csv").exists() == (what == "record")


def test_what_a_killed_process_left_is_removed(photos):
    folder, _ = align_folder("photos", 32, "cache", find)
    left = folder.with_name(f".{folder.name}.77.partial")
    paint("red", left / "0.png-0.png")
    paint("green", photos / "new.png")
    align_folder("photos", 32, "cache", find)
    assert not left.exists()


def test_a_cache_within_the_photographs_is_refused(photos):
    with pytest.raises(UserError, match=r"--cache-dir must be outside of .*photos: it gets"):
        align_folder("photos", 32, "photos/cache", find)
    assert not (photos / "cache").exists()


def test_a_folder_without_faces_says_so_and_leaves_nothing(photos):
    (photos / "framed.png").unlink()
    with pytest.raises(UserError, match=r"no face found in any of 14 pictures of "):
        align_folder("photos", 32, "cache", lambda picture: [])
    assert not any(path.is_dir() for path in Path("cache").glob("*"))
