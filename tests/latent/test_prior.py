import numpy as np
import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from vae.latent.codes import latent_statistics, seeded_noise
from vae.latent.prior import Mixture, make_prior


def known_mixture():
    """Return a mixture of two components that lie apart and have different shapes."""
    shear = torch.tensor([[1.0, 0.8, 0.0], [0.0, 1.0, 0.5], [0.0, 0.0, 1.0]])
    covariances = torch.stack([0.3 * torch.eye(3), shear @ shear.T])
    return Mixture(
        torch.tensor([0.3, 0.7]), torch.tensor([[4.0, 0.0, 0.0], [-2.0, 1.0, 3.0]]), covariances
    )


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_em_finds_the_mixture_that_the_codes_come_from(seed):
    true = known_mixture()
    z = true.sample(seed=0, indices=range(6000))
    found = Mixture.fit(z, seed, components=2)
    order = found.weights.argsort()
    torch.testing.assert_close(found.weights[order], true.weights, atol=0.02, rtol=0)
    torch.testing.assert_close(found.means[order], true.means, atol=0.1, rtol=0)
    torch.testing.assert_close(found.covariances[order], true.covariances, atol=0.12, rtol=0)
    assert found.log_density(z).mean() >= true.log_density(z).mean() - 1e-3


def test_the_log_density_equals_that_of_torch_distributions():
    mixture, z = known_mixture(), torch.randn(50, 3)
    parts = MultivariateNormal(mixture.means, mixture.covariances)
    oracle = MixtureSameFamily(Categorical(mixture.weights), parts)
    torch.testing.assert_close(mixture.log_density(z), oracle.log_prob(z), rtol=1e-4, atol=1e-4)


def test_the_log_density_equals_a_sum_over_components_by_numpy():
    mixture, z = known_mixture(), torch.randn(50, 3)
    density = np.zeros(50)
    for weight, mean, covariance in zip(*(v.double() for v in vars(mixture).values()), strict=True):
        centred = z.double().numpy() - mean.numpy()
        distance = np.einsum("ni,ij,nj->n", centred, np.linalg.inv(covariance), centred)
        volume = np.sqrt(np.linalg.det(2 * np.pi * covariance.numpy()))
        density += weight.item() * np.exp(-distance / 2) / volume
    np.testing.assert_allclose(mixture.log_density(z), np.log(density), rtol=1e-4, atol=1e-4)


def test_samples_have_the_moments_of_the_mixture_and_depend_on_seed_and_index_alone():
    mixture = known_mixture()
    z = mixture.sample(seed=3, indices=range(20_000))
    weights, means = mixture.weights, mixture.means
    mean = weights @ means
    torch.testing.assert_close(z.mean(0), mean, atol=0.08, rtol=0)
    centred = means - mean
    covariance = torch.einsum("k,kij->ij", weights, mixture.covariances)
    covariance += torch.einsum("k,ki,kj->ij", weights, centred, centred)
    torch.testing.assert_close(torch.cov(z.T), covariance, atol=0.2, rtol=0)
    some = [907, 5, 11, 2, 30, 16, 1999]
    assert torch.equal(mixture.sample(3, some), z[some])
    assert not torch.isclose(mixture.sample(4, some), z[some]).any()


def test_temperature_scales_the_distance_to_the_mean_of_the_component():
    mixture = known_mixture()
    cold = mixture.sample(seed=3, indices=range(50), temperature=0.0)
    nearest = torch.cdist(cold, mixture.means).amin(1)
    assert nearest.max() == 0
    warm = mixture.sample(seed=3, indices=range(50))
    half = mixture.sample(seed=3, indices=range(50), temperature=0.5)
    torch.testing.assert_close(half, (cold + warm) / 2)


def make_statistics(n=4000, latent_dim=3):
    torch.manual_seed(0)
    mu = torch.randn(n, latent_dim) @ torch.tensor([[2.0, 0, 0], [1, 0.5, 0], [0, 0, 1]]) + 1
    logvar = torch.log(torch.rand(n, latent_dim) + 0.1)
    return mu, logvar, latent_statistics(mu, logvar)


def test_the_gaussian_has_the_moments_of_the_aggregate_posterior():
    mu, logvar, statistics = make_statistics()
    prior = make_prior("gaussian", statistics, 3)
    z = mu + (0.5 * logvar).exp() * torch.randn_like(mu)
    torch.testing.assert_close(prior.means[0], z.mean(0), atol=0.05, rtol=0)
    torch.testing.assert_close(prior.covariances[0], torch.cov(z.T), atol=0.25, rtol=0)


def test_samples_of_the_standard_prior_are_the_seeded_noise():
    z = make_prior("standard", None, 5).sample(2, range(4), temperature=0.5)
    torch.testing.assert_close(z, 0.5 * seeded_noise(2, range(4), 5))


def test_a_mixture_stored_in_the_statistics_is_restored_unchanged():
    mixture = known_mixture()
    again = make_prior("mixture", {"priors": {"mixture": vars(mixture)}}, 3)
    for name, value in vars(mixture).items():
        assert torch.equal(getattr(again, name), value), name


@pytest.mark.parametrize("n", [3, 40])
def test_few_codes_or_equal_codes_can_be_fitted(n):
    for z in (torch.randn(n, 6), torch.ones(n, 6)):
        mixture = Mixture.fit(z, seed=0, components=10)
        assert mixture.sample(0, range(20)).isfinite().all()
        assert mixture.weights.sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("n", "latent_dim"), [(24, 128), (80, 200), (160, 200)])
def test_fewer_codes_than_dimensions_can_be_fitted(n, latent_dim):
    torch.manual_seed(0)
    mixture = Mixture.fit(3 * torch.randn(n, latent_dim), seed=0, components=5)
    assert mixture.sample(0, range(20)).isfinite().all()


def test_more_components_fit_the_codes_no_worse():
    mu, _, _ = make_statistics()
    fits = [Mixture.fit(mu, 0, components=k).log_density(mu).mean().item() for k in (1, 4)]
    assert fits[1] >= fits[0] - 1e-3
    single = Mixture.fit(mu, seed=0, components=1)
    np.testing.assert_allclose(single.means[0], mu.mean(0), atol=1e-4)


def test_the_same_seed_fits_the_same_mixture():
    mu, _, _ = make_statistics(n=500)
    first, second, other = (Mixture.fit(mu, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.means, second.means)
    assert not torch.equal(first.means, other.means)
