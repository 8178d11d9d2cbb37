import math

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from vae.loss import gaussian_nll
from vae.metrics import (
    active_units,
    area_under_curve,
    bits_per_dimension,
    correlations,
    fit_logistic,
    kl_to_standard,
    latent_health,
    probe_attributes,
    squared_distance,
    ssim,
)


def slow_ssim(a, b):
    """SSIM of two images (3, H, W), by a loop over the places of the window, in float64."""
    y, x = np.mgrid[-5:6, -5:6]
    window = np.exp(-(x**2 + y**2) / (2 * 1.5**2))
    window /= window.sum()
    values = []
    for channel_a, channel_b in zip(a, b, strict=True):
        for top in range(channel_a.shape[0] - 10):
            for left in range(channel_a.shape[1] - 10):
                patch_a = channel_a[top : top + 11, left : left + 11]
                patch_b = channel_b[top : top + 11, left : left + 11]
                mean_a, mean_b = (window * patch_a).sum(), (window * patch_b).sum()
                variance_a = (window * (patch_a - mean_a) ** 2).sum()
                variance_b = (window * (patch_b - mean_b) ** 2).sum()
                covariance = (window * (patch_a - mean_a) * (patch_b - mean_b)).sum()
                luminance = (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
                structure = (2 * covariance + 9e-4) / (variance_a + variance_b + 9e-4)
                values.append(luminance * structure)
    return np.mean(values)


def make_covariance(dimensions, seed=0):
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((dimensions, dimensions))
    return torch.from_numpy(root @ root.T / dimensions + 0.1 * np.eye(dimensions))


# Pictures


def test_ssim_is_that_of_a_loop_over_windows():
    rng = np.random.default_rng(0)
    x = rng.random((2, 3, 18, 18))
    x[1] = np.linspace(0, 1, 18)
    x_hat = np.clip(x + 0.2 * rng.standard_normal(x.shape), 0, 1)
    expected = [slow_ssim(*pair) for pair in zip(x_hat, x, strict=True)]
    once = ssim(torch.from_numpy(x_hat), torch.from_numpy(x))
    np.testing.assert_allclose(once, expected, rtol=1e-9)
    single = ssim(torch.from_numpy(x_hat).float(), torch.from_numpy(x).float())
    np.testing.assert_allclose(single, expected, atol=1e-4)


def test_ssim_is_one_for_equal_images_alone():
    torch.manual_seed(0)
    x = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(ssim(x, x), torch.ones(2))
    assert ssim(1 - x, x).max() < 0.1


# Bits


def test_bits_of_a_gaussian_are_those_of_dequantised_pixels():
    # one value an image, x_hat and sigma known, no latent code: the average over u by hand
    sigma, x, x_hat = 0.07, 100 / 255, 0.36
    levels = 100 + (np.arange(20_000) + 0.5) / 20_000 - 0.5
    densities = Normal(x_hat, sigma).log_prob(torch.from_numpy(levels / 255))
    expected = -(densities.mean().item() - math.log(255)) / math.log(2)
    recon = gaussian_nll((x - x_hat) ** 2, sigma**2, 1)
    assert bits_per_dimension(recon, 0.0, sigma**2, 1) == pytest.approx(expected, rel=1e-7)


def test_bits_are_never_below_those_of_the_probability_of_each_level():
    # a smooth density loses next to nothing by the dequantisation, a sharp one loses bits
    for sigma, loss in ((0.1, 1e-3), (0.002, 2.0)):
        decoder = Normal(torch.tensor(0.5).double(), sigma)
        levels = torch.arange(256).double()
        chance = decoder.cdf((levels + 0.5) / 255) - decoder.cdf((levels - 0.5) / 255)
        excess = []
        for level in (126, 127, 128):
            recon = gaussian_nll((level / 255 - 0.5) ** 2, sigma**2, 1)
            exact = -math.log2(chance[level].item())
            excess.append(bits_per_dimension(recon, 0.0, sigma**2, 1) - exact)
        assert 0 <= min(excess) <= max(excess) < loss


def test_bits_count_the_kl_term_per_value():
    without = bits_per_dimension(recon=50.0, kl=0.0, variance=0.5, count=12)
    with_kl = bits_per_dimension(recon=50.0, kl=12 * math.log(2), variance=0.5, count=12)
    assert with_kl - without == pytest.approx(1.0)


def test_the_classic_variance_needs_more_bits_than_raw_pixels():
    assert bits_per_dimension(recon=0.0, kl=0.0, variance=0.5, count=3 * 64**2) > 8


# Codes


def test_kl_to_standard_is_that_of_torch():
    mean, covariance = torch.linspace(-1, 1, 6).double(), make_covariance(6)
    standard = MultivariateNormal(torch.zeros(6).double(), torch.eye(6).double())
    expected = kl_divergence(MultivariateNormal(mean, covariance), standard)
    assert kl_to_standard(mean, covariance) == pytest.approx(expected.item())
    assert kl_to_standard(torch.zeros(6), torch.eye(6)) == 0


def test_squared_distance_is_the_mean_square_of_whitened_codes():
    mean, covariance = torch.linspace(-1, 1, 4).double(), make_covariance(4)
    z = torch.from_numpy(np.random.default_rng(1).standard_normal((3, 4)))
    centred = (z - mean).numpy()
    expected = np.einsum("ni,ij,nj->n", centred, np.linalg.inv(covariance.numpy()), centred) / 4
    np.testing.assert_allclose(squared_distance(z, mean, covariance), expected)


def test_correlations_are_those_of_numpy():
    codes = np.random.default_rng(2).standard_normal((50, 3)) @ [[1, 2, 0], [0, 3, 1], [0, 0, 4]]
    covariance = torch.from_numpy(np.cov(codes.T))
    np.testing.assert_allclose(correlations(covariance), np.corrcoef(codes.T))


def test_active_units_are_those_whose_means_differ_between_faces():
    mu = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    mu = mu * torch.tensor([1.0, 0.2, 0.05]) + 7
    assert active_units(mu).tolist() == [True, True, False]


def test_the_health_report_finds_what_was_planted():
    mu, logvar = torch.zeros(5, 3), torch.zeros(5, 3)
    mu[:, 0] = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0])
    covariance = torch.tensor([[4.0, 0.5, 0.0], [0.5, 1.0, 0.0], [0.0, 0.0, 0.25]])
    health = latent_health(mu, logvar, torch.tensor([0.0, 3.0, 4.0]), covariance)
    assert health["kl_per_dimension"] == pytest.approx([1.0, 0.0, 0.0])
    assert health["active_units"] == 1
    assert health["aggregate_mean_norm"] == pytest.approx(5.0)
    assert health["largest_correlation"] == pytest.approx(0.25)
    assert health["smallest_eigenvalue"] == pytest.approx(0.25)
    assert health["uneven_directions"] == pytest.approx(2 / 3)
    assert sum(health["eigenvalues"]) == pytest.approx(5.25)


# Attributes


@pytest.mark.parametrize("levels", [1, 4, 1000])
def test_the_area_is_the_share_of_pairs_in_order(levels):
    rng = np.random.default_rng(levels)
    scores, has = rng.integers(0, levels, 60), rng.random(60) < 0.3
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[has] for b in scores[~has]]
    area = area_under_curve(torch.from_numpy(scores), torch.from_numpy(has))
    assert area == pytest.approx(np.mean(pairs))


def test_the_area_of_one_class_is_not_a_number():
    assert math.isnan(area_under_curve(torch.rand(4), torch.ones(4, dtype=torch.bool)))


def test_logistic_regressions_have_no_gradient_left():
    rng = np.random.default_rng(3)
    x = rng.standard_normal((200, 5))
    has = x[:, :3] + rng.standard_normal((200, 3)) > [0.0, 1.0, -2.0]
    weights, intercepts = fit_logistic(torch.from_numpy(x), torch.from_numpy(has), penalty=2.0)
    residual = 1 / (1 + np.exp(-(x @ weights.numpy() + intercepts.numpy()))) - has
    np.testing.assert_allclose(x.T @ residual + 2.0 * weights.numpy(), 0, atol=200 * 1e-6)
    np.testing.assert_allclose(residual.sum(0), 0, atol=200 * 1e-6)


def test_a_probe_reads_what_is_in_the_codes_and_leaves_out_what_is_rare():
    rng = np.random.default_rng(4)
    codes = torch.from_numpy(100 + 9 * rng.standard_normal((400, 6))).float()
    has = torch.zeros(400, 4, dtype=torch.bool)
    has[:, 0] = codes[:, 2] > 101
    has[:, 1] = torch.from_numpy(rng.random(400) < 0.5)
    has[::100, 2] = True
    has[:, 3] = has[:, 1]
    normals = torch.zeros(4, 6)
    normals[0, 2] = normals[1, 1] = normals[2, 0] = 1.0
    probe = probe_attributes(normals, codes, has, ("a", "b", "c", "d"))
    assert probe["auc"]["a"] > 0.99
    assert 0.4 < probe["auc"]["b"] < 0.6
    assert probe["too_rare"] == ["c", "d"]
    assert probe["positives"]["a"] == int(has[:, 0].sum())
    assert probe["mean_auc"] == pytest.approx(sum(probe["auc"].values()) / 2)
