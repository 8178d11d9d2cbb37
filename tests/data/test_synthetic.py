"""The synthetic data set: rules of the labels, of the drawing and of the files."""

import json

import numpy as np
import pytest
from PIL import Image

from vae.data.celeba import find_faces
from vae.data.synthetic.attributes import ATTRIBUTE_NAMES
from vae.data.synthetic.dataset import FREQUENCIES, draw_attributes, write_synthetic
from vae.data.synthetic.portrait import FACE_SIZE, draw_face
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


def change(name: str, seed: int, *others: str) -> np.ndarray:
    """Return the largest change (218, 178) of a channel when a face of others gets an attribute."""
    return np.abs(pixels(row(*others, name), seed) - pixels(row(*others), seed)).max(axis=2)


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


# Where an attribute may change pixels, in any pose: left, top, right, bottom in the frame.
PARTS = {
    "Bald": (16, 8, 162, 168),
    "Bangs": (34, 48, 146, 132),
    "Big_Nose": (64, 100, 114, 151),
    "Bushy_Eyebrows": (48, 86, 131, 111),
    "Eyeglasses": (38, 92, 143, 133),
    "Goatee": (65, 153, 113, 197),
    "Mouth_Slightly_Open": (63, 140, 115, 177),
    "Mustache": (61, 135, 119, 165),
    "Rosy_Cheeks": (42, 120, 135, 152),
    "Smiling": (52, 133, 124, 173),
    "Wearing_Earrings": (28, 122, 151, 151),
    "Wearing_Lipstick": (63, 140, 115, 170),
    "Young": (38, 48, 144, 160),
}
MEN_ONLY = {"Bald", "Goatee", "Mustache"}


@pytest.mark.parametrize("name", PARTS)
def test_an_attribute_changes_its_own_part_of_the_face_and_no_other_pixel(name):
    left, top, right, bottom = PARTS[name]
    for seed in range(6):
        changed = change(name, seed, *(["Male"] if name in MEN_ONLY else []), "Black_Hair")
        changed[top:bottom, left:right] = 0
        assert changed.max() == 0


@pytest.mark.parametrize("name", [*FREQUENCIES, *COLOURS])
def test_every_attribute_can_be_seen(name):
    for seed in range(12):
        changed = change(name, seed, *(["Male"] if name in MEN_ONLY else []))
        assert (changed > 16).sum() > 40


def test_the_features_lie_where_celeba_aligns_them():
    landmarks = {"Eyeglasses": (89, 111), "Big_Nose": (88, 133), "Mouth_Slightly_Open": (88, 155)}
    for name, landmark in landmarks.items():
        for seed in range(8):
            y, x = np.nonzero(change(name, seed, "Young") > 16)
            np.testing.assert_allclose((x.mean(), y.mean()), landmark, atol=8)


@pytest.mark.parametrize("seed", range(8))
def test_a_smile_raises_the_corners_of_the_mouth(seed):
    def sag(*names: str) -> float:
        """Return how far the middle of the upper lip's lower edge lies below its ends."""
        mouth = pixels(row("Pale_Skin", "Young", *names), seed)[144:166, 76:103].sum(axis=2)
        line = mouth.argmin(axis=0)
        return line[10:17].mean() - np.concatenate([line[:3], line[-3:]]).mean()

    assert abs(sag()) < 1
    assert sag("Smiling") > 1.5


def test_a_smile_shows_teeth_and_an_open_mouth_what_is_behind_them():
    left, top, right, bottom = PARTS["Mouth_Slightly_Open"]

    def white_and_dark(*names: str) -> np.ndarray:
        """Return how many pixels of the mouths are white, and how many are dark."""
        faces = [pixels(row("Wearing_Lipstick", *names), seed) for seed in range(8)]
        mouths = np.stack(faces)[:, top:bottom, left:right]
        white, dark = mouths.min(axis=3) > 180, mouths.max(axis=3) < 90
        return np.array([white.sum(), dark.sum()])

    closed, smiling = white_and_dark(), white_and_dark("Smiling")
    parted = white_and_dark("Mouth_Slightly_Open")
    laughing = white_and_dark("Mouth_Slightly_Open", "Smiling")
    assert closed[0] == 0
    assert min(smiling[0], laughing[0]) > 4 * parted[0]
    assert parted[1] > 2 * closed[1]
    assert laughing[1] > 2 * smiling[1]


def test_hair_has_the_colour_of_its_label():
    def colour(name: str) -> np.ndarray:
        """Return red, green, blue of the pixels that hair covers, a mean over faces."""
        hairy = [pixels(row("Male", name), seed) for seed in range(12)]
        bald = [pixels(row("Male", name, "Bald"), seed) for seed in range(12)]
        changed = np.abs(np.stack(hairy) - np.stack(bald)).max(axis=3) > 40
        changed[:, 70:] = False  # neither brows nor beard
        return np.stack(hairy)[changed].mean(axis=0)

    black, blond, brown, gray = (colour(name) for name in COLOURS)
    assert black.max() < 45
    assert blond[0] > 170
    assert blond[0] - blond[2] > 60
    assert np.ptp(gray) < 15
    assert gray.mean() > 120
    assert black.mean() + 20 < brown.mean() < gray.mean() - 50
    assert brown[0] > 1.5 * brown[2]


def test_skin_is_of_all_shades_and_pale_skin_is_the_palest():
    def forehead(*names: str) -> np.ndarray:
        faces = [pixels(row("Bald", "Male", "Young", *names), seed) for seed in range(40)]
        return np.array([face[80:90, 84:94].mean() for face in faces])

    skin, pale = forehead(), forehead("Pale_Skin")
    assert np.all(np.histogram(skin, bins=4, range=(50, 190))[0] >= 4)
    assert (pale > skin + 12).all()


def test_no_two_faces_are_equal():
    faces = [pixels(attributes, seed) for seed, attributes in enumerate(ROWS[:60])]
    small = np.stack(faces)[:, 45:173:4, 25:153:4].reshape(len(faces), -1)
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
