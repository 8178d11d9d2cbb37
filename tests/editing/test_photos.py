import numpy as np
import pytest
import torch
from PIL import Image

from vae.editing import photos
from vae.editing.alignment import Similarity
from vae.editing.photos import give_back, layers_of, panel_of_place

SIZE = 24
PLACE = Similarity(3.0 + 1.1j, 21.3 + 9.8j)


def photo(mode, width=120, height=130):
    pixels = np.random.default_rng(4).integers(0, 256, (height, width, 4), np.uint8)
    return Image.fromarray(pixels).convert(mode)


def faces(seed=0):
    """Return a face before an edit, and after it: a bright square appears."""
    before = 0.2 + 0.2 * torch.rand(3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))
    after = before.clone()
    after[:, 10:14, 8:17] += 0.6
    return before, after


@pytest.mark.parametrize("mode", ["RGB", "L", "LA", "RGBA"])
def test_without_a_change_no_pixel_of_a_photo_changes(mode):
    own, (before, _) = photo(mode), faces()
    same = give_back(own, PLACE, before, before + 1e-7)
    assert same.mode == mode
    assert same.tobytes() == own.tobytes()


@pytest.mark.parametrize("mode", ["RGB", "L", "LA", "RGBA"])
def test_a_change_goes_to_its_place_and_nowhere_else(mode):
    own, (before, after) = photo(mode), faces()
    edited = give_back(own, PLACE, before, after)
    y, x = np.mgrid[: own.height, : own.width] + 0.5
    back = ((x + 1j * y) - PLACE.shift) / PLACE.turn  # in the model's image
    old, new = (np.asarray(one.convert("RGB"), int) for one in (own, edited))
    inside = (back.real > 10) & (back.real < 15) & (back.imag > 11) & (back.imag < 13)
    # where the change is large, the decoded face replaces the photo
    expected = 255 * after[:, 11:13, 10:15].mean()
    assert np.abs(new[inside].mean() - expected.item()) < 12
    outside = (back.real < 0) | (back.imag < 0) | (back.real > SIZE) | (back.imag > SIZE)
    far = (np.abs(back.real - 12.5) > 10.5) | (np.abs(back.imag - 12) > 8)
    assert (new[outside | far] == old[outside | far]).all()
    if mode in ("LA", "RGBA"):
        assert edited.getchannel("A").tobytes() == own.getchannel("A").tobytes()


def test_a_grey_photo_is_edited_as_grey_colours_are():
    own, (before, after) = photo("L").point(lambda value: 60 + value // 4), faces()
    after = before + torch.tensor([0.4, 0.5, 0.8])[:, None, None] * (after - before)
    grey = np.asarray(give_back(own, PLACE, before, after), int)
    colours = give_back(own.convert("RGB"), PLACE, before, after)
    assert np.abs(grey - np.asarray(colours.convert("L"), int)).max() <= 1
    assert np.abs(grey - np.asarray(own, int)).max() > 30


def test_strips_of_a_photo_join(monkeypatch):
    own, (before, after) = photo("RGB"), faces()
    whole = give_back(own, PLACE, before, after)
    monkeypatch.setattr(photos, "STRIP", 7)
    assert give_back(own, PLACE, before, after).tobytes() == whole.tobytes()


def test_a_face_at_the_edge_is_edited_where_there_is_a_photo():
    own, (before, after) = photo("RGB", 50, 40), faces()
    place = Similarity(3.0 + 0j, -20.0 - 20.0j)
    edited = np.asarray(give_back(own, place, before, after), int)
    moved = give_back(photo("RGB", 50, 40), Similarity(3.0 + 0j, 60.0 + 0j), before, after)
    assert (edited != np.asarray(own, int)).any()
    assert moved.tobytes() == own.tobytes()  # the square lies beside the photo


def test_a_change_of_the_whole_square_leaves_no_seam():
    before, flat = torch.full((3, SIZE, SIZE), 0.4), Image.new("L", (120, 130), 100)
    edited = np.asarray(give_back(flat, PLACE, before, before + 0.09), int)
    assert edited.max() - 100 > 20
    steps = [np.abs(np.diff(edited, axis=axis)).max() for axis in (0, 1)]
    assert max(steps) <= 6


def test_small_changes_far_from_the_edit_are_not_given_back():
    before, after = faces()
    after[:, 18:, :] += 0.02
    _, *layers = layers_of(before, after)
    assert torch.stack(layers[:3])[:, 19:].abs().max() == 0


def test_the_place_of_a_face_is_drawn_into_the_photo():
    own = Image.new("RGB", (320, 160), "black")
    drawn = panel_of_place(own, Similarity(2.0 + 0j, 40.0 + 20.0j), SIZE)
    green = (drawn[1] > 0.5) & (drawn[0] < 0.3)
    y, x = np.nonzero(green.numpy())
    # from 40 to 88 of 320, shown with 160 pixels; 40 pixels of white above
    assert (x.min(), x.max()) == pytest.approx((20, 44), abs=2)
    assert (y.min(), y.max()) == pytest.approx((50, 74), abs=2)
