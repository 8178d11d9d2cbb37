import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal

from vae.evaluation.metrics import (
    active_units,
    area_under_curve,
    attribute_areas,
    bits_per_dimension,
    compare_images,
    psnr,
    ssim,
)
from vae.latent.codes import latent_statistics
from vae.latent.directions import linear_probe
from vae.training.loss import gaussian_nll


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


@pytest.mark.parametrize(("mse", "decibel"), [(1.0, 0.0), (0.01, 20.0), (0.0, float("inf"))])
def test_psnr_of_known_errors(mse, decibel):
    assert psnr(mse * 3 * 8**2, image_size=8) == pytest.approx(decibel)


def test_ssim_equals_a_loop_over_the_windows():
    rng = np.random.default_rng(0)
    x = rng.random((2, 3, 18, 18))
    x[1] = np.linspace(0, 1, 18)
    x_hat = np.clip(x + 0.2 * rng.standard_normal(x.shape), 0, 1)
    expected = [slow_ssim(*pair) for pair in zip(x_hat, x, strict=True)]
    once = ssim(torch.from_numpy(x_hat), torch.from_numpy(x))
    np.testing.assert_allclose(once, expected, rtol=1e-9)
    single = ssim(torch.from_numpy(x_hat).float(), torch.from_numpy(x).float())
    np.testing.assert_allclose(single, expected, atol=1e-4)


def test_ssim_is_one_only_for_equal_images():
    torch.manual_seed(0)
    x = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(ssim(x, x), torch.ones(2))
    assert ssim(1 - x, x).max() < 0.1


def test_images_are_compared_over_all_of_them_whatever_the_batches():
    torch.manual_seed(0)
    x_hat, x = torch.rand(2, 5, 3, 12, 12)
    found = compare_images(zip(x_hat.split(3), x.split(3), strict=True))
    mse = np.mean((x_hat.numpy() - x.numpy()) ** 2)
    assert found["sse"] == pytest.approx(mse * 3 * 12**2, rel=1e-5)
    assert found["psnr"] == pytest.approx(-10 * math.log10(mse), rel=1e-5)
    assert found["ssim"] == pytest.approx(ssim(x_hat, x).mean().item(), rel=1e-5)


def test_bits_of_a_gaussian_equal_the_average_over_the_dequantisation_noise():
    # one value per image, x_hat and sigma known, no latent code: the average over u by hand
    sigma, x, x_hat = 0.07, 100 / 255, 0.36
    levels = 100 + (np.arange(20_000) + 0.5) / 20_000 - 0.5
    densities = Normal(x_hat, sigma).log_prob(torch.from_numpy(levels / 255))
    expected = -(densities.mean().item() - math.log(255)) / math.log(2)
    recon = gaussian_nll((x - x_hat) ** 2, sigma**2, 1)
    assert bits_per_dimension(recon, 0.0, sigma**2, 1) == pytest.approx(expected, rel=1e-7)


def test_bits_are_never_below_the_exact_ones_of_each_8_bit_level():
    # the bound is tight for a smooth density and loose for a sharp one
    for sigma, loss in ((0.1, 1e-3), (0.002, 2.0)):
        decoder = Normal(torch.tensor(0.5).double(), sigma)
        levels = torch.arange(256).double()
        probability = decoder.cdf((levels + 0.5) / 255) - decoder.cdf((levels - 0.5) / 255)
        excess = []
        for level in (126, 127, 128):
            recon = gaussian_nll((level / 255 - 0.5) ** 2, sigma**2, 1)
            exact = -math.log2(probability[level].item())
            excess.append(bits_per_dimension(recon, 0.0, sigma**2, 1) - exact)
        assert 0 <= min(excess) <= max(excess) < loss


def test_bits_count_the_kl_term_per_value():
    without = bits_per_dimension(recon=50.0, kl=0.0, variance=0.5, count=12)
    with_kl = bits_per_dimension(recon=50.0, kl=12 * math.log(2), variance=0.5, count=12)
    assert with_kl - without == pytest.approx(1.0)


def test_the_classic_variance_needs_more_bits_than_raw_pixels():
    assert bits_per_dimension(recon=0.0, kl=0.0, variance=0.5, count=3 * 64**2) > 8


def test_active_units_are_the_dimensions_whose_means_differ_between_faces():
    mu = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    mu = mu * torch.tensor([1.0, 0.2, 0.05]) + 7
    assert active_units(mu).tolist() == [True, True, False]


@pytest.mark.parametrize("levels", [1, 4, 1000])
def test_the_area_is_the_fraction_of_pairs_in_the_right_order(levels):
    rng = np.random.default_rng(levels)
    scores, has = rng.integers(0, levels, 60), rng.random(60) < 0.3
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[has] for b in scores[~has]]
    area = area_under_curve(torch.from_numpy(scores), torch.from_numpy(has))
    assert area == pytest.approx(np.mean(pairs))


def test_with_one_class_there_is_no_area():
    assert area_under_curve(torch.rand(4), torch.ones(4, dtype=torch.bool)) is None
    assert area_under_curve(torch.rand(4), torch.zeros(4, dtype=torch.bool)) is None


def test_a_probe_finds_what_is_in_the_codes_and_leaves_out_what_is_rare():
    rng = np.random.default_rng(4)
    codes = torch.from_numpy(100 + 9 * rng.standard_normal((400, 6))).float()
    has = torch.zeros(400, 4, dtype=torch.bool)
    has[:, 0] = codes[:, 2] > 101
    has[:, 1] = torch.from_numpy(rng.random(400) < 0.5)
    has[::100, 2] = True
    has[:, 3] = has[:, 1]
    lines = torch.zeros(4, 6)
    lines[0, 2] = lines[1, 1] = lines[2, 0] = 1.0
    probe = attribute_areas(codes @ lines.T, has, ("a", "b", "c", "d"))
    assert probe["auc"]["a"] > 0.99
    assert 0.4 < probe["auc"]["b"] < 0.6
    assert probe["too_rare"] == ["c", "d"]
    assert probe["positives"]["a"] == int(has[:, 0].sum())
    assert probe["mean_auc"] == pytest.approx(sum(probe["auc"].values()) / 2)


def test_the_lines_fitted_to_training_codes_rank_other_codes():
    rng = np.random.default_rng(5)
    mu = torch.from_numpy(rng.standard_normal((600, 5))).float()
    has = (mu[:, :3] + 0.3 * torch.from_numpy(rng.standard_normal((600, 3)))) > 0.2
    names = ("Hat", "Red hair", "Smiling")
    train, test = slice(0, 400), slice(400, None)
    statistics = latent_statistics(
        mu[train], torch.zeros_like(mu[train]), has[train].numpy(), names
    )
    lines = linear_probe(statistics)
    probe = attribute_areas(mu[test].double() @ lines.T, has[test], names)
    assert list(probe["auc"]) == list(names)
    assert min(probe["auc"].values()) > 0.95
    turned = attribute_areas(mu[test].roll(1, 1).double() @ lines.T, has[test], names)
    assert turned["mean_auc"] < 0.7


def test_without_two_classes_or_with_constant_scores_nothing_is_measured():
    both, ones = torch.arange(20)[:, None] % 2 == 0, torch.ones(20, 1, dtype=torch.bool)
    for scores, has in ((torch.rand(20, 1), ones), (torch.ones(20, 1), both)):
        measured = attribute_areas(scores, has, ("a",))
        assert measured == {"mean_auc": None, "auc": {}, "positives": {}, "too_rare": ["a"]}
