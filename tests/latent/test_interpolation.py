import pytest
import torch

from vae.latent.interpolation import lerp, slerp, traverse, widest_dimensions


@pytest.mark.parametrize("path", [lerp, slerp])
def test_an_interpolation_begins_and_ends_at_its_codes(path):
    start, end = torch.randn(2, 3, 5)
    codes = path(start, end, steps=4)
    assert codes.shape == (3, 4, 5)
    torch.testing.assert_close(codes[:, 0], start)
    torch.testing.assert_close(codes[:, -1], end)


def test_lerp_takes_equal_steps_on_a_straight_line():
    codes = lerp(torch.tensor([[0.0, 8.0]]), torch.tensor([[4.0, 0.0]]), steps=5)
    assert codes[0].tolist() == [[0, 8], [1, 6], [2, 4], [3, 2], [4, 0]]


def test_slerp_keeps_the_norm_and_turns_by_equal_angles():
    start, end = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    codes = slerp(start, end, steps=4)[0]
    angles = torch.deg2rad(torch.tensor([0.0, 30.0, 60.0, 90.0]))
    torch.testing.assert_close(codes, 2 * torch.stack([angles.cos(), angles.sin()], dim=1))


@pytest.mark.parametrize("factor", [1.0, 2.5, -1.0])
def test_slerp_of_parallel_codes_is_finite_and_equals_lerp(factor):
    start = torch.tensor([[1.0, 2.0, 2.0]])
    codes = slerp(start, factor * start, steps=5)
    torch.testing.assert_close(codes, lerp(start, factor * start, steps=5))


def test_a_traversal_changes_one_dimension_in_each_row():
    z = torch.tensor([5.0, 6.0, 7.0])
    codes = traverse(z, dimensions=[2, 0], values=[-1.0, 1.0])
    assert codes.tolist() == [[[5, 6, -1], [5, 6, 1]], [[-1, 6, 7], [1, 6, 7]]]


def test_the_widest_dimensions_are_those_of_largest_variance_in_descending_order():
    covariance = torch.tensor([2.0, 0.5, 9.0, 3.0]).diag() + 0.1
    assert widest_dimensions({"covariance": covariance}, count=3) == [2, 3, 0]
