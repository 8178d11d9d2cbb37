"""Pairs of faces of one person or of two people, and how well features tell them apart.

N faces, F features, P pairs of faces.
"""

import numpy as np
import torch
from torch import Tensor

from vae.evaluation.metrics import area_under_curve


def same_pairs(people: np.ndarray) -> np.ndarray:
    """Return all pairs of faces of the same person, each pair once, as row numbers (P, 2)."""
    order = np.argsort(people, kind="stable")
    most = np.unique(people, return_counts=True)[1].max()
    pairs = [np.stack([order[:-lag], order[lag:]], axis=1) for lag in range(1, most)]
    pairs = np.concatenate([np.empty((0, 2), int), *pairs])
    return pairs[people[pairs[:, 0]] == people[pairs[:, 1]]]


def different_pairs(
    people: np.ndarray, first: np.ndarray, second: np.ndarray, count: int = 200_000, seed: int = 0
) -> np.ndarray:
    """Return random pairs of different people, at most count: one of rows first, one of second."""
    rng = np.random.default_rng(seed)
    pairs = np.stack([rng.choice(first, count), rng.choice(second, count)], axis=1)
    return pairs[people[pairs[:, 0]] != people[pairs[:, 1]]]


def verification_auc(unit: Tensor, same: np.ndarray, different: np.ndarray) -> float | None:
    """Return the probability that a pair of one person is more similar than a pair of two people.

    The similarity is the dot product of two rows of unit (N, F). None without pairs of one kind.
    """
    pairs = torch.from_numpy(np.concatenate([same, different]))
    similarity = (unit[pairs[:, 0]] * unit[pairs[:, 1]]).sum(dim=1)
    return area_under_curve(similarity, torch.arange(len(pairs)) < len(same))
