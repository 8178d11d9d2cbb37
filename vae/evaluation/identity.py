"""How well features of faces tell people apart. N faces, F features, P pairs of faces."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from vae.evaluation.metrics import area_under_curve

DIFFERENT_PAIRS = 200_000
"""number of random pairs"""


def verify(unit: Tensor, people: np.ndarray) -> dict[str, Any] | None:
    """Return the AUC of same against different people by the dot product of features (N, F).

    It is the probability that two faces of one person are more similar than two of two people.
    people (N,) says who each face is. None if nobody has two faces.
    """
    same, rng = same_pairs(people), np.random.default_rng(0)
    drawn = rng.integers(len(people), size=(DIFFERENT_PAIRS, 2))
    different = drawn[people[drawn[:, 0]] != people[drawn[:, 1]]]
    if not len(same) or not len(different):
        return None
    pairs = torch.from_numpy(np.concatenate([same, different]))
    similarity = (unit[pairs[:, 0]] * unit[pairs[:, 1]]).sum(dim=1)
    auc = area_under_curve(similarity, torch.arange(len(pairs)) < len(same))
    return {"auc": auc, "same": len(same), "different": len(different)}


def same_pairs(people: np.ndarray) -> np.ndarray:
    """Return all pairs of faces of the same person, each pair once, as row numbers (P, 2)."""
    order = np.argsort(people, kind="stable")
    most = np.unique(people, return_counts=True)[1].max()
    pairs = [np.stack([order[:-lag], order[lag:]], axis=1) for lag in range(1, most)]
    pairs = np.concatenate([np.empty((0, 2), int), *pairs])
    return pairs[people[pairs[:, 0]] == people[pairs[:, 1]]]
