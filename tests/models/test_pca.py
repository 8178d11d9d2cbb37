import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from vae.models.pca import fit_pca, rows_to_fit

SIDE, VALUES, DIMENSIONS = 6, 108, 5


def make_images(count=40, side=SIDE, dtype=torch.float64):
    """Return images about 0.5, each further direction of which has 0.8 of the deviation."""
    rng, values = np.random.default_rng(0), 3 * side**2
    turn, _ = np.linalg.qr(rng.standard_normal((values, values)))
    flat = 0.5 + rng.standard_normal((count, values)) * 0.8 ** np.arange(values) @ turn
    return torch.from_numpy(flat).to(dtype).unflatten(1, (3, side, side))


def fit(x, latent_dim=DIMENSIONS, batch_size=16):
    return fit_pca(lambda: x.split(batch_size), latent_dim)


def exact(x):
    """Return the mean, axes (P, .) and variances of images, by numpy's singular values."""
    flat = x.double().flatten(1).numpy()
    mean = flat.mean(0)
    _, lengths, axes = np.linalg.svd(flat - mean, full_matrices=False)
    return mean, axes.T, lengths**2 / len(flat)


def posterior(pca, x):
    """Return mean (N, D) and covariance (D, D) of z given x, of the joint Gaussian of both."""
    b = pca.decoder
    gain = b.T @ torch.linalg.inv(b @ b.T + pca.noise * torch.eye(len(b), dtype=b.dtype))
    return (x.flatten(1) - pca.mean) @ gain.T, torch.eye(b.shape[1], dtype=b.dtype) - gain @ b


def test_the_fit_is_the_exact_pca():
    x = make_images()
    pca, (mean, axes, variances) = fit(x), exact(x)
    np.testing.assert_allclose(pca.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(pca.variances, variances[:DIMENSIONS], rtol=1e-8)
    # an axis has no sign
    cosines = np.abs(pca.axes.numpy().T @ axes[:, :DIMENSIONS])
    np.testing.assert_allclose(cosines, np.eye(DIMENSIONS), atol=1e-8)
    noise = variances[DIMENSIONS:].sum() / (VALUES - DIMENSIONS)
    assert pca.noise == pytest.approx(noise, rel=1e-8)


def test_the_fit_in_float32_has_the_variances_of_the_exact_one():
    x = make_images(dtype=torch.float32)
    pca, (_, _, variances) = fit(x), exact(x)
    assert pca.axes.dtype == pca.variances.dtype == torch.float32
    np.testing.assert_allclose(pca.variances, variances[:DIMENSIONS], rtol=1e-4)
    assert pca.noise == pytest.approx(
        variances[DIMENSIONS:].sum() / (VALUES - DIMENSIONS), rel=0.01
    )


def test_the_model_has_the_covariance_of_the_images_along_the_axes_and_noise_across_them():
    pca = fit(make_images())
    covariance = pca.decoder @ pca.decoder.T + pca.noise * torch.eye(VALUES, dtype=torch.float64)
    torch.testing.assert_close(pca.axes.T @ covariance @ pca.axes, pca.variances.diag())
    across = torch.linalg.eigvalsh(covariance)[: VALUES - DIMENSIONS]
    torch.testing.assert_close(across, torch.full_like(across, pca.noise))


def test_the_posterior_is_the_conditional_of_the_joint_gaussian():
    x = make_images()
    pca = fit(x)
    mean, covariance = posterior(pca, x)
    torch.testing.assert_close((x.flatten(1) - pca.mean) @ pca.encoder.T, mean)
    torch.testing.assert_close(pca.posterior_variance.diag(), covariance)


def test_the_kl_term_equals_that_of_torch_distributions():
    x = make_images()
    pca = fit(x)
    mean, covariance = posterior(pca, x)
    nats = kl_divergence(Normal(mean, covariance.diagonal().sqrt()), Normal(0.0, 1.0))
    assert pca.kl(x) == pytest.approx(nats.sum(1).mean().item(), rel=1e-8)


def test_projections_are_the_closest_images_and_codes_decode_to_images():
    x = make_images()
    pca, (mean, axes, _) = fit(x), exact(x)
    flat, kept = x.flatten(1).numpy(), axes[:, :DIMENSIONS]
    expected = mean + (flat - mean) @ kept @ kept.T
    np.testing.assert_allclose(pca.project(x).flatten(1), expected, atol=1e-8)
    z = torch.randn(3, DIMENSIONS, dtype=torch.float64)
    images = pca.decode(z)
    assert images.shape == (3, 3, SIDE, SIDE)
    np.testing.assert_allclose(images.flatten(1), mean + z.numpy() @ pca.decoder.numpy().T)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_axes_beyond_the_rank_of_few_images_carry_nothing(dtype):
    x = make_images(count=4, side=5, dtype=dtype)
    pca = fit(x, latent_dim=9, batch_size=3)
    # four images differ along three axes
    assert (pca.decoder[:, :3].norm(dim=0) > 0.1).all()
    assert not pca.decoder[:, 3:].any()
    assert not pca.encoder[3:].any()
    assert (pca.posterior_variance[:3] < 1e-3).all()
    assert (pca.posterior_variance[3:] == 1).all()
    torch.testing.assert_close(pca.project(x), x, atol=1e-5, rtol=0)


def test_more_dimensions_than_values_are_as_many_as_there_are():
    x = make_images(count=40, side=2)
    assert fit(x, latent_dim=12).axes.shape == (12, 12)
    assert fit(x, latent_dim=12).noise == pytest.approx(1e-6)


def test_a_fit_is_repeatable_and_does_not_depend_on_the_batches():
    x = make_images()
    torch.manual_seed(1)
    first = fit(x)
    torch.manual_seed(2)
    again, whole = fit(x), fit(x, batch_size=40)
    for name in ("mean", "axes", "variances"):
        assert torch.equal(getattr(first, name), getattr(again, name)), name
        torch.testing.assert_close(getattr(first, name), getattr(whole, name))
    assert first.noise == again.noise


def test_a_large_set_is_fitted_by_a_part_that_is_spread_evenly_over_it():
    assert len(rows_to_fit(np.arange(7000))) == 7000
    rows = rows_to_fit(np.arange(162_770))
    assert 9000 < len(rows) <= 10_000
    assert len(set(np.diff(rows))) == 1
    assert rows[-1] > 162_700
