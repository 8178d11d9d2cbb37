"""Densities of codes to sample new faces from: N(0, I), or one that is fitted to training codes.

All three are Gaussian mixtures; the first two have one component. N codes, K components, D latent
dimensions.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from vae.latent.codes import Statistics, seeded_noise

COMPONENTS = 8
"""of a fitted mixture: chosen by held-out log density (docs/results.md)"""
MAX_CODES = 50_000
"""for the fit: more take longer and change little"""


@dataclass(frozen=True)
class Mixture:
    """A Gaussian mixture over codes."""

    weights: Tensor
    """(K,), their sum is 1"""
    means: Tensor
    """(K, D)"""
    covariances: Tensor
    """(K, D, D)"""

    @classmethod
    def fit(cls, z: Tensor, seed: int, components: int = COMPONENTS) -> "Mixture":
        """Return the mixture that EM finds for codes z (N, D), which are posterior samples.

        The ex-post density of Ghosh et al. (2020), by expectation maximisation (Dempster et al.,
        1977) from the clusters of random codes, in float64 on the CPU.
        """
        rng = np.random.default_rng(seed)
        z = z[torch.from_numpy(rng.permutation(len(z))[:MAX_CODES])].double()
        nearest = torch.cdist(z, z[:components]).argmin(1)
        fractions = torch.nn.functional.one_hot(nearest, min(components, len(z))).double()
        before = -math.inf
        for _ in range(100):
            mixture = _maximise(z, fractions)
            logs = mixture.component_log_densities(z)
            fractions = logs.softmax(1)
            mean_log_density = logs.logsumexp(1).mean().item()
            if mean_log_density - before < 1e-4 * z.shape[1]:
                break
            before = mean_log_density
        return cls(*(value.float() for value in vars(mixture).values()))

    def sample(self, seed: int, indices: Iterable[int], temperature: float = 1.0) -> Tensor:
        """Return a code for each index, (N, D); a row depends on seed and its index alone.

        temperature scales the distance to the component's mean.
        """
        indices = list(indices)
        noise = seeded_noise(seed, indices, self.means.shape[1])
        uniforms = [np.random.default_rng((seed, index, 1)).random() for index in indices]
        chosen = np.searchsorted(self.weights.double().cumsum(0).numpy(), uniforms)
        chosen = torch.from_numpy(chosen).clamp(max=len(self.weights) - 1)
        z = self.means[chosen]
        for k, factor in enumerate(torch.linalg.cholesky(self.covariances)):
            z[chosen == k] += temperature * noise[chosen == k] @ factor.T
        return z

    def log_density(self, z: Tensor) -> Tensor:
        """Return the log density of codes z (N, D) in nats, (N,)."""
        return self.component_log_densities(z).logsumexp(1)

    def component_log_densities(self, z: Tensor) -> Tensor:
        """Return log(weight * density) of codes z (N, D) in nats, under each component: (N, K)."""
        components = zip(self.means, self.covariances, strict=True)
        logs = [MultivariateNormal(mean, covariance).log_prob(z) for mean, covariance in components]
        return torch.stack(logs, dim=1) + self.weights.log()


FITTED: dict[str, type[Mixture]] = {"mixture": Mixture}
"""The priors that are fitted to posterior samples of the training codes."""


def fit_priors(z: Tensor, seed: int) -> dict[str, dict[str, Tensor]]:
    """Return the parameters of each FITTED prior, fitted to codes z (N, D), by its name."""
    return {name: vars(prior.fit(z, seed)) for name, prior in FITTED.items()}


def make_prior(name: str, statistics: Statistics | None, latent_dim: int) -> Mixture:
    """Return the prior called name; all but "standard", N(0, I), come from statistics.

    "gaussian" has the first two moments of the aggregate posterior: the mean of mu, and the
    covariance of mu plus the mean posterior variance.
    """
    if name in FITTED:
        return FITTED[name](**statistics["priors"][name])
    mean, covariance = torch.zeros(latent_dim), torch.eye(latent_dim)
    if name == "gaussian":
        mean = statistics["mean"]
        covariance = statistics["covariance"] + statistics["mean_variance"].diag()
    return Mixture(torch.ones(1), mean[None], covariance[None])


def _maximise(z: Tensor, fractions: Tensor) -> Mixture:
    """Return the mixture of highest penalised likelihood for component probabilities (N, K).

    Each covariance is shrunk towards that of all codes, which weighs as much as D codes: a
    component of few codes has a regular one (Fraley & Raftery, 2007).
    """
    counts = fractions.sum(0)
    means = (fractions.T @ z) / counts.clamp(min=1e-6)[:, None]
    overall = torch.cov(z.T)
    # fewer codes than dimensions leave it singular
    overall.diagonal().add_(1e-4 * overall.diagonal().mean() + 1e-6)
    strength = float(z.shape[1])
    covariances = []
    for k, mean in enumerate(means):
        centred = z - mean
        scatter = (centred * fractions[:, k, None]).T @ centred
        covariances.append((scatter + strength * overall) / (counts[k] + strength))
    return Mixture(counts / len(z), means, torch.stack(covariances))
