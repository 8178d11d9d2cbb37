"""Telling people apart by features of their faces, and how well that goes. Pure arrays.

N faces, F features, P pairs of faces.
"""

import numpy as np
import torch
from torch import Tensor

from vae.metrics import area_under_curve


def within_whitening(
    features: Tensor, people: np.ndarray, shrinkage: float = 0.2
) -> tuple[Tensor, Tensor]:
    """Return the mean (F,) of features (N, F), and the (F, F) to multiply centred features by.

    They make the covariance within people, people (N,) saying who each face is, the identity: what
    changes between pictures of one person weighs little (Hatch et al., 2006). The covariance is
    shrunk towards its diagonal, since there are few faces a person.

    Raises ValueError if nobody has two faces.
    """
    _, person, counts = np.unique(people, return_inverse=True, return_counts=True)
    if len(counts) == len(people):
        raise ValueError("nobody has two faces")
    features, person = features.double(), torch.from_numpy(person)
    sums = torch.zeros(len(counts), features.shape[1], dtype=torch.float64)
    sums.index_add_(0, person, features)
    residuals = features - (sums / torch.from_numpy(counts)[:, None])[person]
    covariance = residuals.T @ residuals / (len(people) - len(counts))
    # a feature that never fires has no variance
    variances = covariance.diagonal().clamp(min=1e-6 * covariance.diagonal().max().item())
    shrunk = torch.lerp(covariance, variances.diag(), shrinkage)
    whitening = torch.linalg.inv(torch.linalg.cholesky(shrunk)).T
    return features.mean(0).float(), whitening.float()


def same_pairs(people: np.ndarray) -> np.ndarray:
    """Return all pairs of faces of one person, each once, as row numbers (P, 2)."""
    order = np.argsort(people, kind="stable")
    most = np.unique(people, return_counts=True)[1].max()
    pairs = [np.stack([order[:-lag], order[lag:]], axis=1) for lag in range(1, most)]
    pairs = np.concatenate([np.empty((0, 2), int), *pairs])
    return pairs[people[pairs[:, 0]] == people[pairs[:, 1]]]


def different_pairs(
    people: np.ndarray, first: np.ndarray, second: np.ndarray, count: int = 200_000, seed: int = 0
) -> np.ndarray:
    """Draw up to count pairs of faces of two people, one of rows first and one of rows second."""
    rng = np.random.default_rng(seed)
    pairs = np.stack([rng.choice(first, count), rng.choice(second, count)], axis=1)
    return pairs[people[pairs[:, 0]] != people[pairs[:, 1]]]


def verification_auc(unit: Tensor, same: np.ndarray, different: np.ndarray) -> float:
    """Return the chance that a pair of one person is more alike than a pair of two.

    Alike is the dot product of two rows of unit (N, F); NaN where either kind of pair is lacking.
    """
    pairs = torch.from_numpy(np.concatenate([same, different]))
    alike = (unit[pairs[:, 0]] * unit[pairs[:, 1]]).sum(dim=1)
    return area_under_curve(alike, torch.arange(len(pairs)) < len(same))


def explained_share(unit: Tensor, has: Tensor) -> float:
    """Return the share of the variance of features (N, F) that lies between has (N,) and not has.

    NaN where all faces are of one class.
    """
    share = has.double().mean()
    between = share * (1 - share) * (unit[has].mean(0) - unit[~has].mean(0)).square().sum()
    return (between / unit.var(0, correction=0).sum()).item()
