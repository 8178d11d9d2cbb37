"""Codes between codes, and along latent dimensions. N faces, D latent dimensions."""

from collections.abc import Sequence

import torch
from torch import Tensor

from vae.latent.codes import Statistics


def lerp(start: Tensor, end: Tensor, steps: int) -> Tensor:
    """Return codes on the straight lines between start and end, both (N, D): (N, steps, D)."""
    t = torch.linspace(0, 1, steps)[None, :, None]
    return torch.lerp(start[:, None, :], end[:, None, :], t)


def slerp(start: Tensor, end: Tensor, steps: int) -> Tensor:
    """Return codes on the great circles between start and end, both (N, D): (N, steps, D).

    Shoemake (1985), applied to codes by White (2016): the norm changes from one end's to the
    other's, where a straight line passes nearer to the origin. Parallel codes fall back to the
    line.
    """
    cosine = torch.nn.functional.cosine_similarity(start, end, dim=1).clamp(-1, 1)
    angle = torch.arccos(cosine)[:, None, None]
    t = torch.linspace(0, 1, steps)[None, :, None]
    parallel = angle.sin().abs() < 1e-6
    sine = torch.where(parallel, 1.0, angle.sin())
    weight_start = torch.where(parallel, 1 - t, torch.sin((1 - t) * angle) / sine)
    weight_end = torch.where(parallel, t, torch.sin(t * angle) / sine)
    return weight_start * start[:, None, :] + weight_end * end[:, None, :]


def traverse(z: Tensor, dimensions: Sequence[int], values: Sequence[float]) -> Tensor:
    """Return one code z (D,) with each dimension set to each value: (dimensions, values, D)."""
    codes = z.repeat(len(dimensions), len(values), 1)
    for row, dimension in enumerate(dimensions):
        codes[row, :, dimension] = torch.tensor(values, dtype=z.dtype)
    return codes


def widest_dimensions(statistics: Statistics, count: int) -> list[int]:
    """Return the latent dimensions of largest variance of mu over the faces, largest first."""
    return statistics["covariance"].diagonal().argsort(descending=True)[:count].tolist()
