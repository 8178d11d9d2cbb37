"""Probabilistic PCA: the plainest model of faces, a baseline, and the start of the linear skip.

N images of side S, P = 3 * S * S values an image, D latent dimensions.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

OVERSAMPLING, PASSES = 20, 6
"""extra directions and passes over the images of the subspace iteration"""
MAX_IMAGES = 10_000
"""that a PCA is fitted to, at most: this bounds its time"""
MIN_NOISE = 1e-6
"""least noise variance: as many images as dimensions, or fewer, leave none"""


@dataclass(frozen=True)
class PCA:
    """x = mean + B z + noise, z from N(0, I) (Tipping & Bishop, 1999)."""

    mean: Tensor
    """(P,)"""
    axes: Tensor
    """principal axes, (P, D), orthonormal"""
    variances: Tensor
    """of the images along each axis, (D,), descending; noise where an axis is beyond the rank"""
    noise: float
    """variance of a value that the axes do not explain"""

    @property
    def decoder(self) -> Tensor:
        """B, (P, D): the maximum likelihood of Tipping & Bishop (1999), equation 15."""
        return self.axes * (self.variances - self.noise).sqrt()

    @property
    def encoder(self) -> Tensor:
        """The matrix (D, P) that takes x - mean to the posterior's mean."""
        return (self.decoder / self.variances).T

    @property
    def posterior_variance(self) -> Tensor:
        """Variance of each latent dimension given an image, (D,)."""
        return self.noise / self.variances

    def project(self, x: Tensor) -> Tensor:
        """Return images x (N, 3, S, S) projected on the axes: the best linear reconstructions."""
        centred = x.flatten(1) - self.mean
        return (self.mean + centred @ self.axes @ self.axes.T).view_as(x)

    def kl(self, x: Tensor) -> float:
        """Return the mean KL term of images x in nats."""
        mu = (x.flatten(1) - self.mean) @ self.encoder.T
        variance = self.posterior_variance
        return 0.5 * (mu.square() + variance - 1 - variance.log()).sum(1).mean().item()

    def decode(self, z: Tensor) -> Tensor:
        """Return the images (N, 3, S, S) of codes z (N, D), not clamped."""
        side = round((len(self.mean) / 3) ** 0.5)
        return (self.mean + z @ self.decoder.T).unflatten(1, (3, side, side))


def rows_to_fit(rows: np.ndarray) -> np.ndarray:
    """Return the rows that a PCA is fitted to: at most MAX_IMAGES, evenly spaced."""
    return rows[:: -(-len(rows) // MAX_IMAGES)]


@torch.no_grad()
def fit_pca(images: Callable[[], Iterable[Tensor]], latent_dim: int) -> PCA:
    """Return the probabilistic PCA of images; each call of images yields the same batches.

    A randomised subspace iteration (Halko et al., 2011, algorithm 4.4): memory for P * D values,
    repeatable. Axes beyond the rank of the images have variance `noise`, so that B is zero there.
    """
    count, total, square = 0, 0, 0
    for x in images():
        flat = x.flatten(1)
        count, total = count + len(flat), total + flat.sum(0)
        square += flat.double().square().sum()
    mean = total / count
    width = min(latent_dim + OVERSAMPLING, len(mean))
    generator = torch.Generator().manual_seed(0)
    axes = torch.randn(len(mean), width, generator=generator, dtype=mean.dtype).to(mean.device)
    for _ in range(PASSES):
        axes = torch.linalg.qr(axes).Q
        products = torch.zeros_like(axes)
        for x in images():
            centred = x.flatten(1) - mean
            products.addmm_(centred.T, centred @ axes)
        previous, axes = axes, products
    # the eigenvectors of the covariance within the subspace of the last pass
    variances, turn = torch.linalg.eigh((previous.T @ products).double() / count)
    largest = variances.argsort(descending=True)[:latent_dim]
    axes = previous @ turn[:, largest].to(mean.dtype)
    variances = variances[largest]
    left = square / count - mean.double().square().sum() - variances.sum()
    noise = max((left / max(len(mean) - latent_dim, 1)).item(), MIN_NOISE)
    return PCA(mean, axes, variances.clamp(min=noise).to(mean.dtype), noise)
