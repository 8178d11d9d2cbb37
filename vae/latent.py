"""The codes of a data set, their statistics, and arithmetic on them. Pure tensors, no pictures.

N faces, D latent dimensions, K = 40 attributes. Codes are posterior means, mu.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from vae.model import VAE

Statistics = dict[str, Tensor]
"""What a checkpoint keeps of its training codes; latent_statistics says what stands in it."""


@torch.no_grad()
def encode_batches(model: VAE, batches: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Return mu and logvar of all images, both (N, D) on the CPU."""
    model.eval()
    device = model.fc_mu.weight.device
    codes = [model.encode(x.to(device)) for x in batches]
    mu = torch.cat([mu.cpu() for mu, _ in codes])
    logvar = torch.cat([logvar.cpu() for _, logvar in codes])
    return mu, logvar


@torch.no_grad()
def decode_codes(model: VAE, z: Tensor, batch_size: int = 64) -> Tensor:
    """Return the images (N, 3, S, S) on the CPU that the codes z (N, D) stand for."""
    model.eval()
    device = model.fc_decode.weight.device
    return torch.cat([model.decode(part.to(device)).cpu() for part in z.split(batch_size)])


def latent_statistics(mu: Tensor, logvar: Tensor, attributes: np.ndarray | None) -> Statistics:
    """Return what sampling and editing need to know of the codes (N, D) of a data set.

    n; mean (D,) and covariance (D, D) of mu; mean_variance (D,), the mean of exp(logvar); and
    where attributes (N, K) are known, class_sums (K, D), the sum of mu over the faces that have
    each, and cooccurrence (K, K), how many faces have both. Accumulated in float64.
    """
    codes = mu.double()
    statistics = {
        "n": torch.tensor(len(codes)),
        "mean": codes.mean(0).float(),
        "covariance": torch.cov(codes.T).float(),
        "mean_variance": logvar.double().exp().mean(0).float(),
    }
    if attributes is not None:
        has = torch.from_numpy(attributes).double()
        statistics["class_sums"] = (has.T @ codes).float()
        statistics["cooccurrence"] = (has.T @ has).round().long()
    return statistics


def widest_dimensions(statistics: Statistics, count: int) -> list[int]:
    """Return the latent dimensions whose means vary most over the faces, the widest first."""
    return statistics["covariance"].diagonal().argsort(descending=True)[:count].tolist()


def traverse(z: Tensor, dimensions: Sequence[int], values: Sequence[float]) -> Tensor:
    """Return one code z (D,) with each dimension set to each value: (dimensions, values, D)."""
    codes = z.repeat(len(dimensions), len(values), 1)
    for row, dimension in enumerate(dimensions):
        codes[row, :, dimension] = torch.tensor(values, dtype=z.dtype)
    return codes


def lerp(start: Tensor, end: Tensor, steps: int) -> Tensor:
    """Return codes on the straight lines between start and end, both (N, D): (N, steps, D)."""
    t = torch.linspace(0, 1, steps)[None, :, None]
    return torch.lerp(start[:, None, :], end[:, None, :], t)


def slerp(start: Tensor, end: Tensor, steps: int) -> Tensor:
    """Return codes on the great circles between start and end, both (N, D): (N, steps, D).

    Shoemake (1985), applied to codes by White (2016): the norm goes from one end's to the other's
    without the dip that a straight line makes. Parallel codes fall back to the line.
    """
    cosine = torch.nn.functional.cosine_similarity(start, end, dim=1).clamp(-1, 1)
    angle = torch.arccos(cosine)[:, None, None]
    t = torch.linspace(0, 1, steps)[None, :, None]
    near = angle.sin().abs() < 1e-6
    sine = torch.where(near, 1.0, angle.sin())
    weight_start = torch.where(near, 1 - t, torch.sin((1 - t) * angle) / sine)
    weight_end = torch.where(near, t, torch.sin(t * angle) / sine)
    return weight_start * start[:, None, :] + weight_end * end[:, None, :]


def seeded_noise(seed: int, indices: Iterable[int], latent_dim: int) -> Tensor:
    """Return standard normal noise, (indices, D); a row depends on seed and its index alone."""
    rows = [
        np.random.default_rng((seed, index)).standard_normal(latent_dim, np.float32)
        for index in indices
    ]
    return torch.from_numpy(np.stack(rows))


def sample_posterior(mu: Tensor, logvar: Tensor, seed: int, first: int = 0) -> Tensor:
    """Return one draw from each posterior, (N, D); row i's noise depends on seed and first + i."""
    noise = seeded_noise(seed, range(first, first + len(mu)), mu.shape[1])
    return mu + torch.exp(0.5 * logvar) * noise.to(mu.device)
