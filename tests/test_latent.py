import numpy as np
import pytest
import torch

from vae import VAE
from vae.celeba import ATTRIBUTE_NAMES
from vae.latent import (
    decode_codes,
    encode_batches,
    latent_statistics,
    lerp,
    sample_posterior,
    seeded_noise,
    slerp,
    traverse,
)

SMILING, MALE = ATTRIBUTE_NAMES.index("Smiling"), ATTRIBUTE_NAMES.index("Male")


def make_codes(n=200, latent_dim=6):
    rng = np.random.default_rng(0)
    attributes = np.zeros((n, 40), bool)
    attributes[:, SMILING] = rng.random(n) < 0.4
    attributes[:, MALE] = rng.random(n) < 0.6
    mu = torch.from_numpy(rng.standard_normal((n, latent_dim))).float() + 3
    mu[:, 2] += 2 * torch.from_numpy(attributes[:, SMILING])
    logvar = torch.from_numpy(rng.standard_normal((n, latent_dim))).float()
    return mu, logvar, attributes


def test_statistics_equal_numpys():
    mu, logvar, attributes = make_codes()
    statistics = latent_statistics(mu, logvar, attributes)
    codes = mu.double().numpy()
    assert statistics["n"] == 200
    np.testing.assert_allclose(statistics["mean"], codes.mean(0), rtol=1e-6)
    np.testing.assert_allclose(statistics["covariance"], np.cov(codes.T), rtol=1e-5, atol=1e-6)
    variance = np.exp(logvar.double().numpy()).mean(0)
    np.testing.assert_allclose(statistics["mean_variance"], variance, rtol=1e-6)
    np.testing.assert_allclose(
        statistics["class_sums"][MALE], codes[attributes[:, MALE]].sum(0), rtol=1e-6
    )
    both = (attributes[:, MALE] & attributes[:, SMILING]).sum()
    assert statistics["cooccurrence"][MALE, SMILING] == both


def test_a_traversal_changes_one_dimension_a_row():
    z = torch.tensor([5.0, 6.0, 7.0])
    codes = traverse(z, dimensions=[2, 0], values=[-1.0, 1.0])
    assert codes.tolist() == [[[5, 6, -1], [5, 6, 1]], [[-1, 6, 7], [1, 6, 7]]]


@pytest.mark.parametrize("path", [lerp, slerp])
def test_interpolations_begin_and_end_at_their_codes(path):
    start, end = torch.randn(2, 3, 5)
    codes = path(start, end, steps=4)
    assert codes.shape == (3, 4, 5)
    torch.testing.assert_close(codes[:, 0], start)
    torch.testing.assert_close(codes[:, -1], end)


def test_slerp_keeps_the_norm_and_turns_evenly():
    start, end = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    codes = slerp(start, end, steps=4)[0]
    angles = torch.deg2rad(torch.tensor([0.0, 30.0, 60.0, 90.0]))
    torch.testing.assert_close(codes, 2 * torch.stack([angles.cos(), angles.sin()], dim=1))


@pytest.mark.parametrize("factor", [1.0, 2.5, -1.0])
def test_slerp_of_parallel_codes_is_finite_and_the_line(factor):
    start = torch.tensor([[1.0, 2.0, 2.0]])
    codes = slerp(start, factor * start, steps=5)
    torch.testing.assert_close(codes, lerp(start, factor * start, steps=5))


def test_a_faces_noise_depends_on_the_seed_and_its_number_alone():
    torch.testing.assert_close(seeded_noise(1, [5, 2], 7), seeded_noise(1, range(6), 7)[[5, 2]])
    seen = torch.cat([seeded_noise(seed, range(4), 7) for seed in range(4)])
    assert torch.cdist(seen, seen).fill_diagonal_(9).min() > 0.1
    many = seeded_noise(0, range(2000), 3)
    torch.testing.assert_close(many.std(), torch.tensor(1.0), atol=0.03, rtol=0)


def test_posterior_samples_have_the_posteriors_spread():
    mu, logvar = torch.full((4000, 2), 3.0), torch.tensor([[-2.0, 1.0]]).expand(4000, 2)
    z = sample_posterior(mu, logvar, seed=0)
    torch.testing.assert_close(z.mean(0), mu[0], atol=0.1, rtol=0)
    torch.testing.assert_close(z.std(0), (0.5 * logvar[0]).exp(), rtol=0.05, atol=0)


def test_codes_and_pictures_do_not_depend_on_the_batch_size():
    torch.manual_seed(0)
    model, x = VAE(32, (4, 6), 5), torch.rand(7, 3, 32, 32)
    mu, logvar = encode_batches(model, [x])
    mu_parts, logvar_parts = encode_batches(model, x.split(3))
    torch.testing.assert_close(mu, mu_parts)
    torch.testing.assert_close(logvar, logvar_parts)
    torch.testing.assert_close(decode_codes(model, mu), decode_codes(model, mu, batch_size=2))
