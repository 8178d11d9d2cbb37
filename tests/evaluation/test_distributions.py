import math

import numpy as np
import pytest
import torch

from vae.evaluation import distributions
from vae.evaluation.distributions import (
    compare,
    covered,
    frechet_distance,
    held_out_halves,
    kernel_distance,
    nearest_distances,
)
from vae.run import open_run


def make_features(count, width, seed=0):
    """Return features whose covariance is not diagonal, float32."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator)
    return torch.randn(count, width, generator=generator) @ mixing + torch.randn(width)


def with_moments(mean, variances, count=64):
    """Return features with exactly this mean and these variances, uncorrelated."""
    rows = torch.linalg.qr(torch.eye(count).double() - 1 / count).Q[:, : len(mean)]
    return rows * ((count - 1) * torch.tensor(variances).double()).sqrt() + torch.tensor(mean)


def test_the_frechet_distance_of_uncorrelated_features_is_that_of_each_one():
    x = with_moments([1.0, 2.0, 0.0], [4.0, 1.0, 9.0])
    reference = with_moments([0.0, 2.0, 3.0], [1.0, 0.25, 9.0], count=40)
    expected = 1 + 9 + (2 - 1) ** 2 + (1 - 0.5) ** 2 + 0
    assert frechet_distance(x, reference) == pytest.approx(expected)


def test_the_frechet_distance_equals_its_definition_with_the_root_of_the_product():
    x, reference = make_features(90, 6), make_features(70, 6, seed=1)
    a, b = (np.cov(features.numpy().T.astype(float)) for features in (x, reference))
    cross = np.sqrt(np.linalg.eigvals(a @ b).real).sum()
    means = ((x.double().mean(0) - reference.double().mean(0)) ** 2).sum().item()
    expected = means + np.trace(a) + np.trace(b) - 2 * cross
    assert frechet_distance(x, reference) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(reference, x) == pytest.approx(expected, rel=1e-9)


def test_the_frechet_distance_does_not_change_with_a_rotation():
    x, reference = make_features(90, 6).double(), make_features(70, 6, seed=1).double()
    turn = torch.linalg.qr(make_features(6, 6, seed=2).double()).Q
    turned = frechet_distance(x @ turn, reference @ turn)
    assert turned == pytest.approx(frechet_distance(x, reference), rel=1e-9)


def test_fewer_features_than_dimensions_and_constant_ones_have_a_frechet_distance():
    x = make_features(5, 12)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-6)
    x[:, 0] = 3.0
    moved = x + torch.eye(12)[0] * 2
    assert frechet_distance(x, moved) == pytest.approx(4.0, rel=1e-6)


def test_the_kernel_distance_equals_a_loop_over_all_pairs(monkeypatch):
    monkeypatch.setattr(distributions, "BLOCK", 4)
    x, reference = make_features(9, 5), make_features(7, 5, seed=1)

    def kernel(a, b):
        return (sum(p * q for p, q in zip(a.tolist(), b.tolist(), strict=True)) / 5 + 1) ** 3

    def mean(rows, columns, same):
        pairs = [
            kernel(a, b)
            for i, a in enumerate(rows)
            for j, b in enumerate(columns)
            if not (same and i == j)
        ]
        return sum(pairs) / len(pairs)

    expected = mean(x, x, True) + mean(reference, reference, True) - 2 * mean(x, reference, False)
    assert kernel_distance(x, reference) == pytest.approx(expected, rel=1e-9)


def test_the_kernel_distance_of_two_sets_of_one_distribution_is_zero_on_average():
    generator = torch.Generator().manual_seed(0)
    found = [
        kernel_distance(*torch.randn(2, 12, 3, generator=generator).unbind()) for _ in range(400)
    ]
    assert abs(np.mean(found)) < 3 * np.std(found) / math.sqrt(len(found))
    assert min(found) < 0 < max(found)


@pytest.mark.parametrize("block", [4, 1024])
def test_precision_and_recall_equal_a_loop_over_all_pairs(monkeypatch, block):
    monkeypatch.setattr(distributions, "BLOCK", block)
    x, reference = make_features(23, 4) * 0.7, make_features(19, 4)

    def slow(points, balls, k):
        radii = [sorted(np.linalg.norm(ball - other) for other in balls)[k] for ball in balls]
        inside = [
            any(np.linalg.norm(one - b) <= r for b, r in zip(balls, radii, strict=True))
            for one in points
        ]
        return np.mean(inside)

    a, b = x.double().numpy(), reference.double().numpy()
    found = compare(x, reference)
    assert found["judge_precision"] == pytest.approx(slow(a, b, 3))
    assert found["judge_recall"] == pytest.approx(slow(b, a, 3))
    assert 0 < covered(x, reference, k=1) < 1
    assert covered(x, reference, k=1) == pytest.approx(slow(a, b, 1))


def test_equal_sets_are_at_distance_zero_and_cover_one_another():
    x = make_features(30, 4)
    found = compare(x, x.flip(0))
    assert found["n"] == 30
    assert found["judge_frechet"] == pytest.approx(0, abs=1e-6)
    assert (found["judge_precision"], found["judge_recall"]) == (1, 1)


def test_sets_far_apart_do_not_cover_one_another():
    x = make_features(30, 4)
    found = compare(x + 100, x)
    assert (found["judge_precision"], found["judge_recall"]) == (0, 0)


def test_samples_of_one_kind_of_face_are_precise_and_recall_little():
    reference = torch.cat([torch.randn(40, 3), torch.randn(40, 3) + 50])
    found = compare(torch.randn(60, 3) * 0.5, reference)
    assert found["judge_precision"] > 0.9
    assert found["judge_recall"] <= 0.5


@pytest.mark.parametrize("block", [26, 1024])
def test_small_distances_are_exact(monkeypatch, block):
    # torch.cdist takes its fast and imprecise way from 26 vectors on
    monkeypatch.setattr(distributions, "BLOCK", block)
    reference = 1000 + torch.arange(60.0)[:, None].expand(-1, 6)
    nearest = nearest_distances(reference[[4, 9]] + torch.tensor([0.001, 0, 0, 0, 0, 0]), reference)
    expected = (reference[4, 0].double() + 0.001).float().double() - reference[4, 0].double()
    assert nearest[0].item() == pytest.approx(expected.item(), rel=1e-2)
    second = nearest_distances(reference[:1], reference, k=2)
    assert second.item() == pytest.approx(math.sqrt(6))


@pytest.mark.parametrize("at_most", [3, 1000])
def test_the_halves_are_equal_and_share_no_held_out_face(home, at_most):
    faces = open_run("runs/celeba-32").faces
    held_out = {*faces.rows("val"), *faces.rows("test")}
    reference, others = held_out_halves(faces, at_most)
    assert len(reference) == len(others) == min(len(held_out) // 2, at_most)
    assert len({*reference, *others}) == 2 * len(others)
    assert {*reference, *others} <= held_out
