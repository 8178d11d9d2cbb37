import io

import numpy as np
import pytest
from PIL import Image

from vae.data.decoding import read_square
from vae.editing.alignment import (
    Similarity,
    by_crop_rule,
    cut,
    eyes_of,
    frame_box,
    from_eyes,
)


def smooth(width, height, seed=0):
    """Return a smooth picture of random colours."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("size", [(178, 218), (89, 109), (300, 200), (203, 411), (64, 64)])
def test_the_crop_rule_cuts_what_training_pictures_give(size):
    picture, file = smooth(*size), io.BytesIO()
    picture.save(file, "PNG")
    square, _ = read_square(file.getvalue(), 64, "frame")
    mine = cut(picture, by_crop_rule(picture, 64), (0, 0, 64, 64), (64, 64))
    assert np.abs(np.asarray(mine).astype(int) - square).max() == 0


@pytest.mark.parametrize(
    ("image_size", "box"), [(128, (-25, -45, 153, 173)), (64, (-12, -22, 77, 87))]
)
def test_the_frame_lies_around_the_square_that_is_cut_from_it(image_size, box):
    assert frame_box(image_size) == box


def test_eyes_of_an_aligned_face_are_those_of_celeba():
    # (69, 111) and (108, 111) of 178 x 218, of which the square begins at (25, 45)
    np.testing.assert_allclose(eyes_of(128), [44.5 + 66.5j, 83.5 + 66.5j])


def test_two_eyes_give_the_similarity_that_puts_them_in_their_place():
    points = np.array([310.2 + 85j, 251 + 120.5j])
    for given in (points, points[::-1]):
        similarity = from_eyes(given, 64)
        np.testing.assert_allclose(similarity(eyes_of(64)), points[::-1])
        np.testing.assert_allclose(similarity.inverse()(points[::-1]), eyes_of(64))
    twice = similarity.after(Similarity(0.5j, 3 - 1j))
    np.testing.assert_allclose(twice(2 + 1j), similarity(0.5j * (2 + 1j) + 3 - 1j))


@pytest.mark.parametrize("degrees", [-30, 8, 27])
@pytest.mark.parametrize("scale", [1, 2.4, 4])
def test_a_turned_and_scaled_picture_comes_back(degrees, scale):
    picture = smooth(89, 109)
    size = (round(89 * scale), round(109 * scale))
    # turned by Pillow: counterclockwise around the centre, on a larger canvas
    large = picture.resize(size, Image.Resampling.BICUBIC)
    photo = large.rotate(degrees, Image.Resampling.BICUBIC, expand=True)
    turn = np.exp(-1j * np.deg2rad(degrees))
    eyes = (np.array(eyes_of(64)) + 12 + 22j) * (size[0] / 89) - complex(*size) / 2
    eyes = complex(*photo.size) / 2 + turn * eyes
    mine = np.asarray(cut(photo, from_eyes(eyes, 64), (0, 0, 64, 64), (64, 64))).astype(float)
    error = np.square(mine - np.asarray(picture.crop((12, 22, 76, 86)))).mean()
    assert 10 * np.log10(255**2 / error) > 30


def test_fine_patterns_become_grey_and_not_other_patterns():
    pixels = np.random.default_rng(0).integers(0, 2, (700, 700, 1), np.uint8) * 255
    photo = Image.fromarray(np.repeat(pixels, 3, axis=2))
    similarity = Similarity(8.0 * np.exp(0.3j), 160.0 + 20.0j)
    square = np.asarray(cut(photo, similarity, (0, 0, 64, 64), (64, 64)), float)
    # the mean of 64 pixels or more of black and white
    assert np.abs(square.mean() - 127.5) < 3
    assert square.std() < 20


def test_outside_of_the_picture_its_border_is_repeated():
    picture = Image.new("RGB", (20, 30), "red")
    picture.paste("blue", (10, 0, 20, 30))
    square = np.asarray(cut(picture, Similarity(1, -22 - 17j), (0, 0, 64, 64), (64, 64)))
    assert (square[:, :31] == (255, 0, 0)).all()
    assert (square[:, 33:] == (0, 0, 255)).all()
