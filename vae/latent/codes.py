"""The codes of a data set and their statistics.

B batch, N faces, D latent dimensions, K attributes. Codes are posterior means, mu.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

Statistics = dict[str, Any]
"""What a checkpoint keeps of its training codes: see latent_statistics."""


def latent_statistics(
    mu: Tensor,
    logvar: Tensor,
    attributes: np.ndarray | None = None,
    attribute_names: Sequence[str] = (),
    known: np.ndarray | None = None,
) -> Statistics:
    """Return what sampling and editing need to know of the codes (N, D) of a data set.

    n; mean (D,) and covariance (D, D) of mu; mean_variance (D,), the mean of exp(logvar). With
    attributes (N, K) also attribute_names; and of the faces whose attributes are known (N,), by
    default all: attribute_n, their number; attribute_mean (D,), the mean of mu; class_sums (K, D),
    the sum of mu over those with each attribute; cooccurrence (K, K), the number of those with both
    of two attributes. Accumulated in float64.
    """
    codes = mu.double()
    statistics: Statistics = {
        "n": len(codes),
        "mean": codes.mean(0).float(),
        "covariance": torch.cov(codes.T).float(),
        "mean_variance": logvar.double().exp().mean(0).float(),
    }
    if attributes is not None:
        has = torch.from_numpy(attributes).double()
        if known is not None:
            codes, has = codes[known], has[known]
        statistics["attribute_names"] = list(attribute_names)
        statistics["attribute_n"] = len(codes)
        statistics["attribute_mean"] = codes.mean(0).float()
        statistics["class_sums"] = (has.T @ codes).float()
        statistics["cooccurrence"] = (has.T @ has).round().long()
    return statistics


def kl_per_dimension(mu: Tensor, logvar: Tensor) -> Tensor:
    """Return the KL term of each image and latent dimension in nats, (B, D)."""
    return 0.5 * (mu.square() + logvar.exp() - 1.0 - logvar)


def seeded_noise(seed: int, indices: Iterable[int], latent_dim: int) -> Tensor:
    """Return standard normal noise, (N, D); each row depends only on seed and its index."""
    rows = [
        np.random.default_rng((seed, index)).standard_normal(latent_dim, np.float32)
        for index in indices
    ]
    return torch.from_numpy(np.stack(rows))


def image_noise(seed: int, indices: Iterable[int], image_size: int) -> Tensor:
    """Return standard normal noise, (N, 3, S, S); an image depends only on seed and its index."""
    shape = (3, image_size, image_size)
    # 2: other noise than that of the codes
    noise = [
        np.random.default_rng((seed, index, 2)).standard_normal(shape, np.float32)
        for index in indices
    ]
    return torch.from_numpy(np.stack(noise))


def sample_posterior(mu: Tensor, logvar: Tensor, seed: int, first: int = 0) -> Tensor:
    """Return one sample of each posterior, (N, D).

    The noise of row i depends on seed and first + i alone.
    """
    noise = seeded_noise(seed, range(first, first + len(mu)), mu.shape[1])
    return mu + torch.exp(0.5 * logvar) * noise.to(mu.device)
