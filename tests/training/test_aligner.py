import numpy as np
import pytest
import torch

from vae.data.faces import PackedFaces
from vae.editing.finding import CENTRE, TEMPLATE, VIEW
from vae.models.aligner import Aligner, look_twice
from vae.training.aligner import (
    MIDDLE,
    SQUARE,
    distances,
    random_places,
    random_views,
    train_epochs,
)


def squares(count):
    """Return packed squares, uint8: grey with dark eyes, at the places of an aligned face."""
    y, x = np.mgrid[:SQUARE, :SQUARE] + 0.5
    points = x + 1j * y
    pixels = np.full((count, SQUARE, SQUARE, 3), 170, np.uint8)
    for point in TEMPLATE[:2]:
        place = VIEW * point + CENTRE - MIDDLE + (1 + 1j) * SQUARE / 2
        pixels[:, np.abs(points - place) < 4] = (10, 20, 30)
    pixels += np.random.default_rng(0).integers(0, 40, pixels.shape, np.uint8)
    return pixels


def test_the_face_of_a_view_lies_where_its_turn_and_shift_say():
    torch.manual_seed(1)
    x = torch.from_numpy(squares(40)).permute(0, 3, 1, 2) / 255
    turn = torch.polar(0.8 + 0.4 * torch.rand(40), torch.rand(40) - 0.5)
    shift = torch.complex(*(0.3 * torch.rand(2, 40) - 0.15))
    for view, a, b in zip(random_views(x, turn, shift), turn, shift, strict=True):
        for point in TEMPLATE[:2]:
            eye = a * point + b
            column, row = (int((one.item() + 1) * 32) for one in (eye.real, eye.imag))
            assert view.mean(0)[row, column] < view.mean() - 0.2


def test_places_are_near_those_of_faces_and_far_from_others():
    torch.manual_seed(2)
    turn, shift, is_face = random_places(4000)
    error = distances(turn, shift, torch.ones(4000, dtype=torch.complex64), torch.zeros(4000))
    assert 0.05 < (~is_face).float().mean() < 0.15
    assert error[is_face].mean() < 0.5
    assert error[~is_face].min() > error[is_face].median()


def test_distances_are_in_eye_distances():
    turn, shift = torch.tensor([1.0 + 0j, 1.0]), torch.tensor([0.0 + 0j, 0.1])
    found = distances(turn, shift, torch.ones(2), torch.zeros(2))
    assert found.tolist() == pytest.approx([0, 0.1 / abs(TEMPLATE[1] - TEMPLATE[0])])


def test_an_aligner_learns_where_eyes_are():
    torch.manual_seed(0)
    faces = PackedFaces(
        pixels=squares(256),
        names=tuple(f"{row}.png" for row in range(256)),
        splits=np.zeros(256, np.uint8),
        attributes=None,
        crop=SQUARE,
        path=None,
    )
    aligner = Aligner((8, 8, 8, 8))
    errors = [error for error, _ in train_epochs(aligner, faces, 6, 16, 5e-3, 0)]
    assert errors[-1] < 0.7 * errors[0]


def test_a_mirrored_view_gives_the_mirrored_place():
    torch.manual_seed(0)
    aligner = Aligner((4, 4, 4, 4)).eval()
    torch.nn.init.normal_(aligner.head.weight)
    views = torch.rand(3, 3, 64, 64)
    turn, shift, logit = look_twice(aligner, views)
    mirrored = look_twice(aligner, views.flip(3))
    # x becomes -x, and the template is symmetric
    torch.testing.assert_close(mirrored[0], turn.conj())
    torch.testing.assert_close(mirrored[1], -shift.conj())
    torch.testing.assert_close(mirrored[2], logit)
    eyes = torch.tensor(TEMPLATE[:2])
    torch.testing.assert_close(eyes[0].real, -eyes[1].real)
