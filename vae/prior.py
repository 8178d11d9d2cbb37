"""Densities of codes, to draw new faces from: N(0, I), or one that was fitted to training codes.

All three are Gaussian mixtures; the first two have one component. N codes, K components, D latent
dimensions.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vae.latent import Statistics, seeded_noise

MOST_CODES = 50_000
"""that a mixture is fitted to: more change a covariance little, and take longer in proportion"""


@dataclass(frozen=True)
class Mixture:
    """A Gaussian mixture over codes."""

    weights: Tensor
    """(K,) they sum to 1"""
    means: Tensor
    """(K, D)"""
    covariances: Tensor
    """(K, D, D)"""

    def sample(self, seed: int, indices: Iterable[int], temperature: float = 1.0) -> Tensor:
        """Return a code for each index, (N, D); a row depends on seed and its index alone.

        temperature scales the distance to the component's mean.
        """
        indices = list(indices)
        noise = seeded_noise(seed, indices, self.means.shape[1])
        coins = [np.random.default_rng((seed, index, 1)).random() for index in indices]
        chosen = np.searchsorted(self.weights.double().cumsum(0).numpy(), coins)
        chosen = torch.from_numpy(chosen).clamp(max=len(self.weights) - 1)
        z = self.means[chosen]
        for k, factor in enumerate(torch.linalg.cholesky(self.covariances)):
            z[chosen == k] += temperature * noise[chosen == k] @ factor.T
        return z

    def component_log_densities(self, z: Tensor) -> Tensor:
        """Return log(weight * density) of codes z (N, D) in nats, under each component: (N, K)."""
        logs = []
        for weight, mean, factor in zip(
            self.weights, self.means, torch.linalg.cholesky(self.covariances), strict=True
        ):
            centred = (z - mean).T
            whitened = torch.linalg.solve_triangular(factor, centred, upper=False)
            log_volume = factor.diagonal().log().sum() + 0.5 * len(mean) * math.log(2 * math.pi)
            logs.append(weight.log() - log_volume - 0.5 * whitened.square().sum(0))
        return torch.stack(logs, dim=1)

    def log_density(self, z: Tensor) -> Tensor:
        """Return the log density of codes z (N, D) in nats, (N,)."""
        return self.component_log_densities(z).logsumexp(1)


def make_prior(name: str, statistics: Statistics | None, latent_dim: int) -> Mixture:
    """Return the prior called "standard", "gaussian" or "mixture"; statistics give the last two.

    "gaussian" has the mean of mu, and the covariance of mu plus the mean posterior variance: the
    first two moments of the aggregate posterior.
    """
    if name == "standard":
        return _one_gaussian(torch.zeros(latent_dim), torch.eye(latent_dim))
    if name == "gaussian":
        spread = statistics["covariance"] + statistics["mean_variance"].diag()
        return _one_gaussian(statistics["mean"], spread)
    names = ("weights", "means", "covariances")
    return Mixture(*(statistics[f"mixture_{name}"] for name in names))


def mixture_statistics(mixture: Mixture) -> Statistics:
    """Return a mixture as the statistics from which make_prior makes it again."""
    return {f"mixture_{name}": value for name, value in vars(mixture).items()}


def _one_gaussian(mean: Tensor, covariance: Tensor) -> Mixture:
    return Mixture(torch.ones(1), mean[None], covariance[None])


def fit_mixture(z: Tensor, components: int, seed: int, starts: int = 5) -> Mixture:
    """Return the Gaussian mixture of highest penalised likelihood found for codes z (N, D).

    The ex-post density of Ghosh et al. (2020), by EM (Dempster et al., 1977): some steps from
    several starts, and the best of them to its end (Biernacki et al., 2003). Codes are posterior
    samples, so no component is narrower than a posterior. On the CPU, float32.
    """
    rng = np.random.default_rng(seed)
    if len(z) > MOST_CODES:
        z = z[torch.from_numpy(rng.choice(len(z), MOST_CODES, replace=False))]
    # float64: a factor of a covariance needs more digits than float32 products leave
    z = z.double()
    components = min(components, len(z))
    fits = (
        _run_em(z, _nearest(z, _spread_starts(z, components, rng)), steps=5) for _ in range(starts)
    )
    _, share, _ = max(fits, key=lambda fit: fit[2])
    mixture, _, _ = _run_em(z, share, steps=100)
    return Mixture(*(value.float() for value in vars(mixture).values()))


def _spread_starts(z: Tensor, components: int, rng: np.random.Generator) -> Tensor:
    """Return codes (K, D) far from one another (k-means++, Arthur & Vassilvitskii, 2007)."""
    starts = z[int(rng.integers(len(z)))][None]
    while len(starts) < components:
        nearest = torch.cdist(z, starts).square().amin(1).numpy()
        total = nearest.sum()
        chances = nearest / total if total > 0 else None
        starts = torch.cat([starts, z[int(rng.choice(len(z), p=chances))][None]])
    return starts


def _nearest(z: Tensor, starts: Tensor) -> Tensor:
    """Return each code as a share (N, K) of the start that it is nearest to."""
    return torch.nn.functional.one_hot(torch.cdist(z, starts).argmin(1), len(starts)).to(z.dtype)


def _run_em(z: Tensor, share: Tensor, steps: int) -> tuple[Mixture, Tensor, float]:
    """Take steps of EM from each code's share (N, K) of the components.

    Return the mixture, the shares, and the mean log density in nats a code, once a step gains less
    than D / 1000 of them.
    """
    before = -math.inf
    for _ in range(steps):
        mixture = _maximise(z, share)
        logs = mixture.component_log_densities(z)
        total = logs.logsumexp(1)
        share = (logs - total[:, None]).exp()
        now = total.mean().item()
        if now - before < 1e-3 * z.shape[1]:
            break
        before = now
    return mixture, share, now


def _maximise(z: Tensor, share: Tensor) -> Mixture:
    """Return the mixture of highest penalised likelihood, given each code's share (N, K) in it.

    Each covariance is drawn to that of all codes, as if D codes more of the component had it: a
    component of few codes has a covariance all the same (Fraley & Raftery, 2007).
    """
    counts = share.sum(0)
    means = (share.T @ z) / counts.clamp(min=1e-6)[:, None]
    overall = torch.cov(z.T)
    # fewer codes than dimensions leave it singular, and float32 rounds a smaller ridge away
    overall.diagonal().add_(1e-4 * overall.diagonal().mean() + 1e-6)
    pulled = float(z.shape[1])
    covariances = []
    for k, mean in enumerate(means):
        centred = z - mean
        scatter = (centred * share[:, k, None]).T @ centred
        covariances.append((scatter + pulled * overall) / (counts[k] + pulled))
    return Mixture(counts / len(z), means, torch.stack(covariances))
