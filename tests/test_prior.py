import numpy as np
import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from vae.latent import latent_statistics, seeded_noise
from vae.prior import Mixture, fit_mixture, make_prior, mixture_statistics


def planted(latent_dim=3):
    """Return a mixture of two components that lie apart and have different shapes."""
    turn = torch.tensor([[1.0, 0.8, 0.0], [0.0, 1.0, 0.5], [0.0, 0.0, 1.0]])
    covariances = torch.stack([0.3 * torch.eye(3), turn @ turn.T])
    return Mixture(
        torch.tensor([0.3, 0.7]), torch.tensor([[4.0, 0.0, 0.0], [-2.0, 1.0, 3.0]]), covariances
    )


def test_the_mixture_recovers_a_planted_one():
    true = planted()
    z = true.sample(seed=0, indices=range(6000))
    found = fit_mixture(z, components=2, seed=1)
    order = found.weights.argsort()
    torch.testing.assert_close(found.weights[order], true.weights, atol=0.02, rtol=0)
    torch.testing.assert_close(found.means[order], true.means, atol=0.1, rtol=0)
    torch.testing.assert_close(found.covariances[order], true.covariances, atol=0.12, rtol=0)
    assert found.log_density(z).mean() >= true.log_density(z).mean() - 1e-3


def test_the_log_density_is_that_of_torchs_distributions():
    mixture, z = planted(), torch.randn(50, 3)
    parts = MultivariateNormal(mixture.means, mixture.covariances)
    oracle = MixtureSameFamily(Categorical(mixture.weights), parts)
    torch.testing.assert_close(mixture.log_density(z), oracle.log_prob(z), rtol=1e-4, atol=1e-4)


def test_samples_have_the_moments_of_the_mixture_and_depend_on_their_index_alone():
    mixture = planted()
    z = mixture.sample(seed=3, indices=range(20_000))
    mean = mixture.weights @ mixture.means
    torch.testing.assert_close(z.mean(0), mean, atol=0.08, rtol=0)
    assert torch.equal(mixture.sample(3, [7, 5]), z[[7, 5]])
    assert not torch.equal(mixture.sample(4, [7]), z[[7]])


def test_temperature_scales_the_distance_to_a_components_mean():
    mixture = planted()
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
    return mu, logvar, latent_statistics(mu, logvar, None)


def test_the_gaussian_has_the_moments_of_the_aggregate_posterior():
    mu, logvar, statistics = make_statistics()
    prior = make_prior("gaussian", statistics, 3)
    z = mu + (0.5 * logvar).exp() * torch.randn_like(mu)
    torch.testing.assert_close(prior.means[0], z.mean(0), atol=0.05, rtol=0)
    torch.testing.assert_close(prior.covariances[0], torch.cov(z.T), atol=0.25, rtol=0)


def test_the_standard_prior_is_the_seeded_noise_itself():
    z = make_prior("standard", None, 5).sample(2, range(4), temperature=0.5)
    torch.testing.assert_close(z, 0.5 * seeded_noise(2, range(4), 5))


def test_a_mixture_comes_back_from_the_statistics_as_it_was():
    mixture = planted()
    again = make_prior("mixture", mixture_statistics(mixture), 3)
    for name, value in vars(mixture).items():
        assert torch.equal(getattr(again, name), value), name


@pytest.mark.parametrize("n", [3, 40])
def test_few_codes_or_equal_ones_have_a_mixture_all_the_same(n):
    for z in (torch.randn(n, 6), torch.ones(n, 6)):
        mixture = fit_mixture(z, components=10, seed=0)
        assert mixture.sample(0, range(20)).isfinite().all()
        assert mixture.weights.sum().item() == pytest.approx(1, abs=1e-5)


def test_more_components_fit_no_worse():
    mu, _, _ = make_statistics()
    fits = [fit_mixture(mu, k, seed=0).log_density(mu).mean().item() for k in (1, 4)]
    assert fits[1] >= fits[0] - 1e-3
    single = fit_mixture(mu, 1, seed=0)
    np.testing.assert_allclose(single.means[0], mu.mean(0), atol=1e-4)


@pytest.mark.parametrize(("n", "latent_dim"), [(24, 128), (80, 200), (160, 200)])
def test_fewer_wide_codes_than_dimensions_have_a_mixture_too(n, latent_dim):
    torch.manual_seed(0)
    mixture = fit_mixture(3 * torch.randn(n, latent_dim), components=5, seed=0)
    assert mixture.sample(0, range(20)).isfinite().all()
