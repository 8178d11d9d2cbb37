import numpy as np
import pytest
import torch

from vae.evaluation.health import kl_to_standard, latent_health, squared_distance


def make_covariance(dimensions, seed=0):
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((dimensions, dimensions))
    return torch.from_numpy(root @ root.T / dimensions + 0.1 * np.eye(dimensions))


def test_kl_to_standard_equals_its_formula():
    mean, covariance = torch.linspace(-1, 1, 6), make_covariance(6)
    excess = np.trace(covariance) + (mean**2).sum().item() - 6
    expected = 0.5 * (excess - np.linalg.slogdet(covariance.numpy())[1])
    assert kl_to_standard(mean, covariance) == pytest.approx(expected)
    assert kl_to_standard(torch.zeros(6), torch.eye(6)) == 0


def test_squared_distance_is_the_mahalanobis_distance_divided_by_the_dimensions():
    mean, covariance = torch.linspace(-1, 1, 4).double(), make_covariance(4)
    z = torch.from_numpy(np.random.default_rng(1).standard_normal((3, 4)))
    centred = (z - mean).numpy()
    expected = np.einsum("ni,ij,nj->n", centred, np.linalg.inv(covariance.numpy()), centred) / 4
    np.testing.assert_allclose(squared_distance(z, mean, covariance), expected)


def test_the_health_report_finds_what_was_planted():
    mu, logvar = torch.zeros(5, 3), torch.zeros(5, 3)
    mu[:, 0] = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0])
    covariance = torch.tensor([[4.0, 0.5, 0.0], [0.5, 1.0, 0.0], [0.0, 0.0, 0.25]])
    health = latent_health(mu, logvar, torch.tensor([0.0, 3.0, 4.0]), covariance)
    assert health["kl_per_dimension"] == pytest.approx([1.0, 0.0, 0.0])
    assert health["active_units"] == 1
    assert health["smallest_eigenvalue"] == pytest.approx(0.25)
    assert sum(health["eigenvalues"]) == pytest.approx(5.25)
