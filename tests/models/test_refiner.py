import numpy as np
import pytest
import torch
from torch import nn

from vae.models.build import build
from vae.models.refiner import Refiner, flow_loss, refine


class Towards(nn.Module):
    """Flow that is at x at time 1, wherever it is before: its velocity is (x - y) / (1 - time)."""

    def __init__(self, x, noise=0.25):
        super().__init__()
        self.x, self.noise = x, noise

    def forward(self, y, x_hat, time):
        return (self.x - y) / (1 - time)[:, None, None, None]


def make_images(count=3, side=8, seed=0):
    """Return real and decoded images, and noise."""
    torch.manual_seed(seed)
    return *torch.rand(2, count, 3, side, side), torch.randn(count, 3, side, side)


def make_refiner(channels=(8, 16), noise=0.25, residual=0.1):
    """Return a refiner of images of 8 pixels; no weight of it is zero."""
    torch.manual_seed(0)
    refiner = Refiner(8, channels, noise, residual)
    for parameter in refiner.parameters():
        nn.init.normal_(parameter, std=0.2)
    return refiner.eval()


# Refining


def test_no_steps_leave_an_image_as_it_is():
    _, x_hat, noise = make_images()
    assert torch.equal(refine(make_refiner(), x_hat, noise, steps=0, strength=1.0), x_hat)


def test_strength_zero_gives_the_decoded_image():
    _, x_hat, noise = make_images()
    assert torch.equal(refine(make_refiner(), x_hat, noise, steps=3, strength=0.0), x_hat)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_the_true_flow_ends_at_the_real_image_in_any_number_of_steps(steps):
    x, x_hat, noise = make_images()
    found = refine(Towards(x), x_hat, noise, steps, strength=1.0)
    torch.testing.assert_close(found, x, atol=1e-6, rtol=0)


def test_a_strength_goes_that_far_to_the_refined_image():
    x, x_hat, noise = make_images()
    found = refine(Towards(x), x_hat, noise, steps=4, strength=0.3)
    torch.testing.assert_close(found, 0.7 * x_hat + 0.3 * x, atol=1e-6, rtol=0)


def test_steps_equal_an_euler_loop_from_the_decoded_image_and_its_noise():
    _, x_hat, noise = make_images()
    refiner, y = make_refiner(noise=0.4), x_hat + 0.4 * noise
    with torch.no_grad():
        for time in (0.0, 0.25, 0.5, 0.75):
            y = y + 0.25 * refiner(y, x_hat, torch.full((3,), time))
    expected = (x_hat + 0.6 * (y - x_hat)).clamp(0, 1)
    found = refine(refiner, x_hat, noise, steps=4, strength=0.6)
    torch.testing.assert_close(found, expected)
    assert not found.requires_grad
    assert found.min() == 0
    assert found.max() == 1


# The loss


def test_the_true_flow_has_no_loss_at_any_time():
    x, x_hat, noise = make_images(count=4)
    time = torch.tensor([0.0, 0.3, 0.6, 0.9])
    loss = flow_loss(Towards(x), torch.ones(4, 1, 1, 1), x, x_hat, noise, time)
    torch.testing.assert_close(loss, torch.zeros(4), atol=1e-9, rtol=0)


def test_the_loss_is_the_squared_error_of_each_velocity_in_units_of_its_scale():
    x, x_hat, noise = make_images(count=2)

    class Still(nn.Module):
        def forward(self, y, x_hat, time):
            return torch.zeros_like(y)

    scale = torch.tensor([0.5, 2.0]).view(2, 1, 1, 1)
    loss = flow_loss(Still(), scale, x, x_hat, noise, torch.rand(2))
    for number, unit in enumerate((0.5, 2.0)):
        velocity = (x - x_hat - noise)[number]
        torch.testing.assert_close(loss[number], velocity.square().mean() / unit**2)


# The network


@pytest.mark.parametrize(("channels", "side"), [((8,), 6), ((8, 8), 12), ((16, 8, 24), 40)])
def test_a_velocity_has_the_shape_of_its_images(channels, side):
    x, x_hat, _ = make_images(count=2, side=side)
    assert Refiner(side, channels, 0.25, 0.1)(x, x_hat, torch.rand(2)).shape == x.shape


@pytest.mark.parametrize("time", [0.0, 0.2, 0.7, 1.0])
def test_the_coefficients_are_the_regression_of_the_velocity_on_what_has_moved(time):
    noise, residual = 0.3, 0.2
    # of two independent normals: what has moved is a row of these, and the velocity another
    moved = np.array([(1 - time) * noise, time * residual])
    velocity = np.array([-noise, residual])
    slope = moved @ velocity / (moved @ moved)
    left = velocity - slope * moved
    refiner = make_refiner(noise=noise, residual=residual)
    found = [one.item() for one in refiner.coefficients(torch.tensor([time]))]
    expected = [slope, np.linalg.norm(left), 1 / np.linalg.norm(moved)]
    assert found == pytest.approx(expected, rel=1e-5)


def test_a_new_refiner_has_loss_one_on_gaussian_residuals_at_every_time():
    _, x_hat, noise = make_images(count=400)
    x, time = x_hat + 0.1 * torch.randn_like(x_hat), torch.arange(4).repeat(100) / 4
    refiner = Refiner(8, (8, 16), 0.25, 0.1)
    _, scale, _ = refiner.coefficients(time)
    with torch.no_grad():
        loss = flow_loss(refiner, scale, x, x_hat, 0.25 * noise, time)
    torch.testing.assert_close(loss.view(100, 4).mean(0), torch.ones(4), rtol=0.05, atol=0)


def test_gradients_reach_every_parameter():
    y, x_hat, _ = make_images(count=5)
    # in groups of one channel, the norm would take a bias before it away
    refiner = make_refiner((16, 24))
    refiner(y, x_hat, torch.rand(5)).square().sum().backward()
    for name, parameter in refiner.named_parameters():
        assert parameter.grad.abs().max() > 1e-3, name


def test_the_velocity_depends_on_each_input():
    y, x_hat, other = make_images()
    refiner, time = make_refiner(), torch.full((3,), 0.3)
    with torch.no_grad():
        velocity = refiner(y, x_hat, time)
        for inputs in ((other, x_hat, time), (y, other, time), (y, x_hat, time + 0.1)):
            assert (refiner(*inputs) - velocity).abs().amax((1, 2, 3)).min() > 0.01


def test_an_image_is_refined_alike_in_any_batch():
    _, x_hat, noise = make_images()
    refiner = make_refiner()
    whole = refine(refiner, x_hat, noise, steps=2, strength=0.7)
    one = refine(refiner, x_hat[1:2], noise[1:2], steps=2, strength=0.7)
    torch.testing.assert_close(one, whole[1:2], atol=1e-5, rtol=0)


def test_arch_rebuilds_the_network_with_its_standard_deviations():
    refiner = make_refiner((8, 24), noise=0.4, residual=0.3)
    rebuilt = build(refiner.arch)
    assert (type(rebuilt), rebuilt.arch) == (Refiner, refiner.arch)
    assert (rebuilt.noise, rebuilt.residual) == (0.4, 0.3)
    rebuilt.load_state_dict(refiner.state_dict())
    y, x_hat, _ = make_images()
    time = torch.rand(3)
    assert torch.equal(rebuilt(y, x_hat, time), refiner(y, x_hat, time))
