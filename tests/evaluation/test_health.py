import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from vae.evaluation.health import correlations, kl_to_standard, latent_health, squared_distance


def make_covariance(dimensions, seed=0):
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((dimensions, dimensions))
    return torch.from_numpy(root @ root.T / dimensions + 0.1 * np.eye(dimensions))


def test_kl_to_standard_equals_that_of_torchs_distributions():
    mean, covariance = torch.linspace(-1, 1, 6).double(), make_covariance(6)
    standard = MultivariateNormal(torch.zeros(6).double(), torch.eye(6).double())
    expected = kl_divergence(MultivariateNormal(mean, covariance), standard)
    assert kl_to_standard(mean, covariance) == pytest.approx(expected.item())
    assert kl_to_standard(torch.zeros(6), torch.eye(6)) == 0


def test_squared_distance_is_the_mahalanobis_distance_divided_by_the_dimensions():
    mean, covariance = torch.linspace(-1, 1, 4).double(), make_covariance(4)
    z = torch.from_numpy(np.random.default_rng(1).standard_normal((3, 4)))
    centred = (z - mean).numpy()
    expected = np.einsum("ni,ij,nj->n", centred, np.linalg.inv(covariance.numpy()), centred) / 4
    np.testing.assert_allclose(squared_distance(z, mean, covariance), expected)


def test_correlations_equal_those_of_numpy():
    codes = np.random.default_rng(2).standard_normal((50, 3)) @ [[1, 2, 0], [0, 3, 1], [0, 0, 4]]
    covariance = torch.from_numpy(np.cov(codes.T))
    np.testing.assert_allclose(correlations(covariance), np.corrcoef(codes.T))


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
