"""The built-in data set: the labels' laws, the drawing's, and the files'."""

import json

import numpy as np
import pytest
from PIL import Image

from vae.celeba import ATTRIBUTE_NAMES, find_faces
from vae.errors import UserError
from vae.synthetic import (
    EYES_BOX,
    FACE_SIZE,
    FREQUENCIES,
    MOUTH_BOX,
    TIED_GLASSES,
    draw_attributes,
    draw_face,
    write_synthetic,
)

ROWS = draw_attributes(count=5000, seed=3)
# What depends on nothing but chance, so that any two of them must be independent.
DEPENDENT = {"Bald", "Bangs", "Goatee", "Mustache", "Wearing_Lipstick"}
FREE = [name for name in FREQUENCIES if name not in DEPENDENT]
COLOURS = ["Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair"]


def column(name: str, rows: np.ndarray = ROWS) -> np.ndarray:
    return rows[:, ATTRIBUTE_NAMES.index(name)]


def row(*names: str) -> np.ndarray:
    return np.isin(ATTRIBUTE_NAMES, names)


def pixels(attributes: np.ndarray, seed: int) -> np.ndarray:
    return np.asarray(draw_face(attributes, np.random.default_rng(seed)), dtype=float)


def change(before: np.ndarray, after: np.ndarray, box: tuple[int, int, int, int]) -> tuple:
    """Return the mean absolute change inside box and outside of it, in grey levels."""
    left, top, right, bottom = box
    inside = np.zeros(before.shape[:2], dtype=bool)
    inside[top:bottom, left:right] = True
    difference = np.abs(after - before).mean(axis=2)
    return difference[inside].mean(), difference[~inside].mean()


@pytest.fixture(scope="module")
def many_faces() -> np.ndarray:
    rows = draw_attributes(count=60, seed=0)
    return np.stack([pixels(attributes, seed) for seed, attributes in enumerate(rows)])


def test_attributes_repeat_with_the_seed_and_differ_without():
    assert np.array_equal(draw_attributes(50, seed=3), ROWS[:50])
    assert not np.array_equal(draw_attributes(50, seed=4), ROWS[:50])


def test_what_excludes_itself_never_meets():
    bald, hat, male = column("Bald"), column("Wearing_Hat"), column("Male")
    beard = column("Mustache") | column("Goatee")
    colours = sum(column(name).astype(int) for name in COLOURS)
    assert colours.max() == 1
    assert not (bald & (colours > 0)).any()
    assert not (bald & column("Bangs")).any()
    assert not (hat & (bald | column("Bangs"))).any()
    assert not ((bald | beard) & ~male).any()
    assert not (column("Wearing_Lipstick") & male).any()
    assert np.array_equal(column("No_Beard"), ~beard)


def test_what_does_not_exclude_itself_is_independent():
    phi = np.corrcoef(np.stack([column(name) for name in FREE]))
    assert np.abs(phi - np.eye(len(FREE))).max() < 0.06  # 4 standard errors of 5,000 rows


def test_free_attributes_come_as_often_as_announced():
    for name in FREE:
        assert column(name).mean() == pytest.approx(FREQUENCIES[name], abs=0.03), name
    assert 0.04 < column("Bald").mean() < 0.11
    assert all(0.1 < column(name).mean() < 0.35 for name in COLOURS)


def test_every_named_attribute_varies_and_every_other_is_never_set():
    varying = {*FREQUENCIES, *COLOURS, "No_Beard"}
    for name in ATTRIBUTE_NAMES:
        assert column(name).any() == (name in varying), name


def test_the_same_generator_draws_the_same_face():
    assert np.array_equal(pixels(ROWS[0], seed=5), pixels(ROWS[0], seed=5))
    assert not np.array_equal(pixels(ROWS[0], seed=5), pixels(ROWS[0], seed=6))


def test_a_face_has_celebas_size():
    face = draw_face(row("Young"), np.random.default_rng(0))
    assert (face.size, face.mode) == (FACE_SIZE, "RGB") == ((178, 218), "RGB")


@pytest.mark.parametrize("name", [*FREQUENCIES, *COLOURS])
def test_every_attribute_can_be_seen(name):
    others = [] if name in {"Wearing_Lipstick", "Male"} else ["Male"]
    for seed in range(2):
        before, after = pixels(row(*others), seed), pixels(row(*others, name), seed)
        assert (np.abs(after - before).max(axis=2) > 24).sum() > 40


@pytest.mark.parametrize("seed", range(4))
def test_a_smile_changes_the_mouth_and_little_elsewhere(seed):
    before, after = pixels(row("Young"), seed), pixels(row("Young", "Smiling"), seed)
    inside, outside = change(before, after, MOUTH_BOX)
    assert inside > 8 * outside


@pytest.mark.parametrize("seed", range(4))
def test_glasses_change_and_darken_the_eyes_and_little_elsewhere(seed):
    before, after = pixels(row("Young"), seed), pixels(row("Young", "Eyeglasses"), seed)
    inside, outside = change(before, after, EYES_BOX)
    left, top, right, bottom = EYES_BOX
    assert inside > 20 * outside
    assert after[top:bottom, left:right].mean() < before[top:bottom, left:right].mean() - 4


def test_a_smile_shows_teeth_and_draws_the_corners_of_the_mouth_out():
    plain, smiling = (
        np.mean([pixels(row("Young", *names), seed) for seed in range(8)], axis=0).mean(axis=2)
        for names in ([], ["Smiling"])
    )
    teeth, corners = np.s_[157:163, 80:98], np.s_[147:153, [64, 65, 66, 112, 113, 114]]
    assert smiling[teeth].mean() > plain[teeth].mean() + 40
    assert smiling[corners].mean() < plain[corners].mean() - 15


def test_no_two_faces_are_alike(many_faces):
    small = many_faces[:, 45:173:4, 25:153:4].reshape(len(many_faces), -1)
    distances = np.abs(small[:, None] - small[None]).mean(axis=2)
    assert (distances + 255 * np.eye(len(small))).min() > 8


def test_the_set_is_written_in_celebas_layout(tmp_path):
    write_synthetic(tmp_path, count=10, seed=3)
    lines = (tmp_path / "list_attr_celeba.txt").read_text().splitlines()
    values = np.array([line.split()[1:] for line in lines[2:]], dtype=int)
    assert (lines[0], tuple(lines[1].split())) == ("10", ATTRIBUTE_NAMES)
    assert np.array_equal(values, np.where(ROWS[:10], 1, -1))
    splits = dict(
        line.split() for line in (tmp_path / "list_eval_partition.txt").read_text().splitlines()
    )
    assert list(splits.values()) == ["0"] * 8 + ["1", "2"]
    pictures = sorted((tmp_path / "img_align_celeba").iterdir())
    assert [path.name for path in pictures] == list(splits) == [line[:10] for line in lines[2:]]
    for path in pictures:
        with Image.open(path) as picture:
            assert (picture.size, picture.format) == (FACE_SIZE, "JPEG")


def test_the_set_is_found_as_celeba_is(tmp_path):
    write_synthetic(tmp_path, count=10, seed=3)
    faces = find_faces(tmp_path)
    assert len(faces.names) == 10
    assert np.array_equal(faces.attributes, ROWS[:10])
    assert faces.splits.tolist() == [0] * 8 + [1, 2]


def test_a_face_does_not_depend_on_how_many_are_drawn_or_by_how_many_processes(tmp_path):
    write_synthetic(tmp_path / "few", count=10, seed=1)
    write_synthetic(tmp_path / "many", count=13, seed=1, processes=2)
    for path in (tmp_path / "few" / "img_align_celeba").iterdir():
        other = tmp_path / "many" / "img_align_celeba" / path.name
        assert path.read_bytes() == other.read_bytes()


def test_a_whole_set_is_left_alone_and_an_interrupted_one_is_drawn_again(tmp_path):
    write_synthetic(tmp_path, count=10, seed=1)
    first = tmp_path / "img_align_celeba" / "000001.jpg"
    drawn = first.read_bytes()
    first.write_bytes(b"cut")
    write_synthetic(tmp_path, count=10, seed=1)
    assert first.read_bytes() == b"cut"
    (tmp_path / "synthetic.json").unlink()
    write_synthetic(tmp_path, count=10, seed=1)
    assert first.read_bytes() == drawn


def test_another_count_or_seed_replaces_the_set_without_a_rest(tmp_path):
    write_synthetic(tmp_path, count=12, seed=1)
    first = (tmp_path / "img_align_celeba" / "000001.jpg").read_bytes()
    write_synthetic(tmp_path, count=10, seed=2)
    assert len(list((tmp_path / "img_align_celeba").iterdir())) == 10
    assert (tmp_path / "img_align_celeba" / "000001.jpg").read_bytes() != first
    marker = json.loads((tmp_path / "synthetic.json").read_text())
    assert (marker["count"], marker["seed"]) == (10, 2)


def test_fewer_than_ten_faces_are_refused(tmp_path):
    with pytest.raises(UserError, match="at least 10 faces; got 9"):
        write_synthetic(tmp_path, count=9)
    assert list(tmp_path.iterdir()) == []


def test_tied_glasses_go_with_age_and_sex_and_all_else_is_as_before():
    free, tied = (draw_attributes(3000, seed=3, tied=tied) for tied in (False, True))
    glasses = ATTRIBUTE_NAMES.index("Eyeglasses")
    men, young = (tied[:, ATTRIBUTE_NAMES.index(name)] for name in ("Male", "Young"))
    for (male, is_young), share in TIED_GLASSES.items():
        found = tied[(men == male) & (young == is_young), glasses].mean()
        assert found == pytest.approx(share, abs=0.06)
    np.testing.assert_array_equal(np.delete(free, glasses, 1), np.delete(tied, glasses, 1))
