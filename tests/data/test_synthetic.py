"""The synthetic data set: rules of the labels, of the drawing and of the files."""

import json

import numpy as np
import pytest
from PIL import Image

from vae.data.celeba import find_faces
from vae.data.synthetic.attributes import ATTRIBUTE_NAMES
from vae.data.synthetic.dataset import (
    EYES_BOX,
    FREQUENCIES,
    MOUTH_BOX,
    draw_attributes,
    write_synthetic,
)
from vae.data.synthetic.face import FACE_SIZE
from vae.data.synthetic.portrait import draw_face
from vae.errors import UserError

ROWS = draw_attributes(count=5000, seed=3)
# Attributes that depend on no other one: any two of them must be independent.
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


def test_attributes_depend_on_the_seed():
    assert np.array_equal(draw_attributes(50, seed=3), ROWS[:50])
    assert not np.array_equal(draw_attributes(50, seed=4), ROWS[:50])


def test_attributes_that_exclude_each_other_never_occur_together():
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


def test_attributes_that_do_not_exclude_each_other_are_independent():
    phi = np.corrcoef(np.stack([column(name) for name in FREE]))
    assert np.abs(phi - np.eye(len(FREE))).max() < 0.06  # 4 standard errors of 5,000 rows


def test_independent_attributes_have_their_stated_frequency():
    for name in FREE:
        assert column(name).mean() == pytest.approx(FREQUENCIES[name], abs=0.03), name
    assert 0.04 < column("Bald").mean() < 0.11
    assert all(0.1 < column(name).mean() < 0.35 for name in COLOURS)


def test_attributes_with_a_frequency_vary_and_all_others_are_never_set():
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


def test_a_smile_shows_teeth_and_widens_the_mouth():
    plain, smiling = (
        np.mean([pixels(row("Young", *names), seed) for seed in range(8)], axis=0).mean(axis=2)
        for names in ([], ["Smiling"])
    )
    teeth, corners = np.s_[157:163, 80:98], np.s_[147:153, [64, 65, 66, 112, 113, 114]]
    assert smiling[teeth].mean() > plain[teeth].mean() + 40
    assert smiling[corners].mean() < plain[corners].mean() - 15


def test_no_two_faces_are_equal(many_faces):
    small = many_faces[:, 45:173:4, 25:153:4].reshape(len(many_faces), -1)
    distances = np.abs(small[:, None] - small[None]).mean(axis=2)
    assert (distances + 255 * np.eye(len(small))).min() > 8


def test_the_data_set_is_written_in_celebas_layout(tmp_path):
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


def test_the_data_set_is_found_like_celeba(tmp_path):
    write_synthetic(tmp_path, count=10, seed=3)
    faces = find_faces(tmp_path)
    assert len(faces.names) == 10
    assert faces.attribute_names == ATTRIBUTE_NAMES
    assert np.array_equal(faces.attributes, ROWS[:10])
    assert faces.splits.tolist() == [0] * 8 + [1, 2]


def test_a_face_does_not_depend_on_the_count(tmp_path):
    write_synthetic(tmp_path / "few", count=10, seed=1)
    write_synthetic(tmp_path / "many", count=13, seed=1)
    for path in (tmp_path / "few" / "img_align_celeba").iterdir():
        other = tmp_path / "many" / "img_align_celeba" / path.name
        assert path.read_bytes() == other.read_bytes()


def test_a_complete_data_set_is_kept_and_an_incomplete_one_is_drawn_again(tmp_path):
    write_synthetic(tmp_path, count=10, seed=1)
    first = tmp_path / "img_align_celeba" / "000001.jpg"
    drawn = first.read_bytes()
    first.write_bytes(b"cut")
    write_synthetic(tmp_path, count=10, seed=1)
    assert first.read_bytes() == b"cut"
    (tmp_path / ".synthetic.json").unlink()
    write_synthetic(tmp_path, count=10, seed=1)
    assert first.read_bytes() == drawn


def test_another_count_or_seed_replaces_the_whole_data_set(tmp_path):
    write_synthetic(tmp_path, count=12, seed=1)
    first = (tmp_path / "img_align_celeba" / "000001.jpg").read_bytes()
    write_synthetic(tmp_path, count=10, seed=2)
    assert len(list((tmp_path / "img_align_celeba").iterdir())) == 10
    assert (tmp_path / "img_align_celeba" / "000001.jpg").read_bytes() != first
    marker = json.loads((tmp_path / ".synthetic.json").read_text())
    assert (marker["count"], marker["seed"]) == (10, 2)


def test_fewer_than_ten_faces_are_refused(tmp_path):
    with pytest.raises(UserError, match="at least 10 faces; got 9"):
        write_synthetic(tmp_path, count=9)
    assert list(tmp_path.iterdir()) == []
