import sys

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import nn

from vae.editing.finding import (
    EYES_APART,
    EYES_DOWN,
    TEMPLATE,
    FoundFace,
    are_apart,
    open_cascade,
    refine,
    search,
)
from vae.errors import UserError

EYES = np.array([130 + 92j, 171 + 78j])


def picture_of(eyes):
    """Return a black picture with a white dot for each eye."""
    picture = Image.new("RGB", (300, 200))
    draw = ImageDraw.Draw(picture)
    for eye in eyes:
        draw.ellipse([eye.real - 4, eye.imag - 4, eye.real + 3, eye.imag + 3], fill="white")
    return picture


class Dots(nn.Module):
    """An aligner that sees two dots: the eyes are their centres of mass."""

    def forward(self, x):
        turns, shifts = [], []
        for view in x[:, 0].double():
            place = (torch.arange(64) + 0.5) / 32 - 1
            grid = torch.complex(*torch.meshgrid(place, place, indexing="xy")).to(torch.complex128)
            along = grid.real - (view * grid.real).sum() / view.sum()
            left, right = (
                (view * side * grid).sum() / (view * side).sum() for side in (along < 0, along > 0)
            )
            turns.append((right - left) / (TEMPLATE[1] - TEMPLATE[0]))
            shifts.append(left - turns[-1] * TEMPLATE[0])
        return torch.stack(turns), torch.stack(shifts), torch.zeros(len(x))


@pytest.mark.parametrize(
    "guess", [EYES + 3 - 4j, EYES.mean() + (EYES - EYES.mean()) * (1.2 + 0.2j)]
)
def test_the_aligner_moves_a_guess_to_the_eyes(guess):
    face = refine(picture_of(EYES), guess, Dots())
    np.testing.assert_allclose(face.eyes, EYES, atol=0.6)
    assert face.probability == 0.5


class Brightest:
    """A cascade that sees a face around the bright pixels."""

    def detectMultiScale(self, grey, **settings):
        y, x = np.nonzero(grey > 128)
        return [(x.mean() + 0.5 - 40, y.mean() + 0.5 - 40, 80, 80)]


@pytest.mark.parametrize("degrees", [0, 20, -40])
def test_a_box_in_a_turned_picture_is_turned_back(degrees):
    picture = picture_of([210 + 60j]).convert("L")
    (eyes,) = search(Brightest(), picture, degrees)
    # Pillow turns counterclockwise: what is upright in the turned picture leans to the right here
    turn = np.exp(1j * np.deg2rad(degrees))
    centre = 210 + 60j + turn * 1j * (EYES_DOWN - 0.5) * 80
    np.testing.assert_allclose(eyes.mean(), centre, atol=0.6)
    np.testing.assert_allclose(eyes[1] - eyes[0], turn * EYES_APART * 80)


def test_a_face_found_twice_is_one_face():
    face = FoundFace(EYES, 0.9)
    assert not are_apart(face, FoundFace(EYES + 9, 0.8))
    assert are_apart(face, FoundFace(EYES + 90, 0.8))


def test_without_opencv_one_line_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(UserError, match=r"pip install 'opencv-python-headless<5'.*--eyes X Y X Y"):
        open_cascade("any.xml")


def test_opencv_has_the_cascade_and_sees_no_face_in_noise():
    pytest.importorskip("cv2")
    noise = np.random.default_rng(0).integers(0, 256, (90, 120), np.uint8)
    assert search(open_cascade("haarcascade_frontalface_alt2.xml"), Image.fromarray(noise), 0) == []
