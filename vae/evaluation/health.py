"""How far the codes of faces are from the prior N(0, I).

N faces, D latent dimensions.
"""

from typing import Any

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from vae.evaluation.metrics import active_units
from vae.latent.codes import kl_per_dimension


def kl_to_standard(mean: Tensor, covariance: Tensor) -> float:
    """Return KL(N(mean, covariance) || N(0, I)) in nats; mean is (D,), covariance (D, D).

    For the moments of the aggregate posterior it is a lower bound on the aggregate's own KL: the
    part of the mean KL term that all faces share (Hoffman & Johnson, 2016).
    """
    standard = MultivariateNormal(torch.zeros(len(mean)).double(), torch.eye(len(mean)).double())
    return kl_divergence(MultivariateNormal(mean.double(), covariance.double()), standard).item()


def squared_distance(z: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """Return the squared Mahalanobis distance of codes z (N, D), divided by D: (N,).

    It is 1 on average for codes drawn from the Gaussian with this mean (D,) and covariance (D, D).
    """
    factor = torch.linalg.cholesky(covariance.double())
    centred = (z.double() - mean.double()).T
    whitened = torch.linalg.solve_triangular(factor, centred, upper=False)
    return whitened.square().mean(0)


def latent_health(mu: Tensor, logvar: Tensor, mean: Tensor, covariance: Tensor) -> dict[str, Any]:
    """Return how the posteriors, and the aggregate posterior, compare with N(0, I).

    mu and logvar are (N, D); mean (D,) and covariance (D, D) are the moments of the aggregate
    posterior. KL in nats; eigenvalues of the covariance in descending order.
    """
    kl = kl_per_dimension(mu.double(), logvar.double()).mean(0)
    eigenvalues = torch.linalg.eigvalsh(covariance.double()).flip(0)
    return {
        "active_units": int(active_units(mu).sum()),
        "aggregate_kl": kl_to_standard(mean, covariance),
        "largest_eigenvalue": eigenvalues[0].item(),
        "smallest_eigenvalue": eigenvalues[-1].item(),
        "kl_per_dimension": kl.tolist(),
        "eigenvalues": eigenvalues.tolist(),
    }
