import pytest
import torch

from vae.training.augmentation import BEND, SHIFT, warp


def make_images(count, side):
    torch.manual_seed(0)
    return torch.rand(count, 3, side, side)


def test_fraction_zero_leaves_images_as_they_are():
    x = make_images(5, 17)
    torch.testing.assert_close(warp(x, 0.0), x, atol=1e-4, rtol=0)


def test_fraction_one_changes_every_image():
    x = make_images(40, 16)
    assert (warp(x, 1.0) - x).abs().amax((1, 2, 3)).min() > 0.05


@pytest.mark.parametrize("fraction", [0.2, 0.7])
def test_about_the_fraction_of_the_images_is_changed(fraction):
    x = make_images(1000, 8)
    changed = (warp(x, fraction) - x).abs().amax((1, 2, 3)) > 1e-3
    assert changed.float().mean().item() == pytest.approx(fraction, abs=0.05)


def test_values_stay_in_their_range():
    x = make_images(20, 16).round()
    warped = warp(x, 1.0)
    assert warped.shape == x.shape
    assert (warped.min(), warped.max()) == (0, 1)


def test_the_changes_follow_from_torchs_seed():
    x, warped = make_images(6, 12), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        warped.append(warp(x, 0.9))
    assert torch.equal(warped[0], warped[1])
    assert not torch.equal(warped[0], warped[2])


def test_an_image_of_one_colour_stays_as_it_is():
    x = torch.tensor([0.2, 0.5, 0.9]).view(1, 3, 1, 1).expand(4, 3, 15, 15)
    torch.testing.assert_close(warp(x, 1.0), x, atol=1e-5, rtol=0)


@pytest.mark.parametrize("axis", [2, 3])
def test_the_centre_moves_by_a_uniform_shift_and_a_normal_bend(axis):
    # an image whose values are the places along an axis, in sides, tells where a pixel comes from
    side, count = 33, 2000
    places = ((torch.arange(side) + 0.5) / side).view(
        [-1 if one == axis else 1 for one in range(4)]
    )
    moved = warp(places.expand(count, 3, side, side), 1.0)[:, 0, side // 2, side // 2] - 0.5
    assert moved.mean().item() == pytest.approx(0, abs=0.002)
    assert moved.std().item() == pytest.approx((SHIFT**2 / 3 + BEND**2) ** 0.5, rel=0.05)


def test_shapes_keep_their_size_up_to_some_percent():
    # the area of a square in the middle is scaled, and neither turning nor shifting changes it
    x = torch.zeros(300, 3, 32, 32)
    x[:, :, 8:24, 8:24] = 1
    areas = warp(x, 1.0)[:, 0].sum((1, 2)) / 16**2
    assert areas.mean().item() == pytest.approx(1, abs=0.03)
    assert areas.min() > 0.7
    assert areas.max() < 1.4
    assert areas.std() > 0.05
