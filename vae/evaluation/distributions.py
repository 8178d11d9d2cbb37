"""How far a set of feature vectors is from that of real images, and which images these are.

N vectors in x, M in the reference, F features. Whatever network the features come from: FID is the
Frechet distance in those of one Inception network alone (see fid.py).
"""

import numpy as np
import torch
from torch import Tensor

from vae.data.faces import PackedFaces

HELD_OUT = ("val", "test")
"""the splits of the images to compare with"""
NEIGHBOURS = 3
"""k of precision and recall, as in the paper"""
BLOCK = 1024
"""vectors of the reference at a time: 10,000 distances to each take 80 MB"""


def held_out_halves(faces: PackedFaces, at_most: int) -> list[np.ndarray]:
    """Return the rows of the reference, and as many of other held-out faces: the same every time.

    Each half has at most at_most faces. What the others reach is what images can reach.
    """
    rows = np.concatenate([faces.rows(split) for split in HELD_OUT])
    count = min(len(rows) // 2, at_most)
    return np.split(np.random.default_rng(0).permutation(rows)[: 2 * count], 2)


def compare(x: Tensor, reference: Tensor) -> dict[str, float]:
    """Return n, and the judge's Frechet distance, kernel distance, precision and recall of x.

    x (N, F) and reference (M, F) are features of the judge. Frechet distance and precision depend
    on N and M: compare only figures of equal numbers.
    """
    return {
        "n": len(x),
        "judge_frechet": frechet_distance(x, reference),
        "judge_kernel": kernel_distance(x, reference),
        "judge_precision": covered(x, reference),
        "judge_recall": covered(reference, x),
    }


def frechet_distance(x: Tensor, reference: Tensor) -> float:
    """Return the squared Frechet distance of Gaussians fitted to x (N, F) and reference (M, F).

    |m - m'|^2 + tr(S + S' - 2 (S S')^(1/2)) (Dowson & Landau, 1982). The trace of the root is the
    sum of the singular values of S^(1/2) S'^(1/2), so S and S' may be singular.
    """
    x, reference = x.double(), reference.double()
    covariances = [torch.cov(features.T) for features in (x, reference)]
    root, other_root = map(_square_root, covariances)
    overlap = torch.linalg.svdvals(root @ other_root).sum()
    means = (x.mean(0) - reference.mean(0)).square().sum()
    return (means + sum(map(torch.trace, covariances)) - 2 * overlap).item()


def _square_root(covariance: Tensor) -> Tensor:
    """Return the symmetric square root of a covariance (F, F), singular or not."""
    eigenvalues, axes = torch.linalg.eigh(covariance)
    # rounding makes zero eigenvalues slightly negative
    return (axes * eigenvalues.clamp(min=0).sqrt()) @ axes.T


def kernel_distance(x: Tensor, reference: Tensor) -> float:
    """Return the squared maximum mean discrepancy of x (N, F) and reference (M, F).

    Unbiased, so below zero at times; with the kernel (a b / F + 1)^3 of Binkowski et al. (2018).
    """
    x, reference = x.double(), reference.double()
    within = 0.0
    for features in (x, reference):
        itself = (features.square().mean(1) + 1).pow(3).sum()
        pairs = len(features) * (len(features) - 1)
        within += (_kernel_sum(features, features) - itself) / pairs
    between = _kernel_sum(x, reference) / (len(x) * len(reference))
    return (within - 2 * between).item()


def _kernel_sum(a: Tensor, b: Tensor) -> Tensor:
    """Return the sum of the kernel over all pairs of a row of a (N, F) and one of b (M, F)."""
    return sum((part @ b.T / b.shape[1] + 1).pow(3).sum() for part in a.split(BLOCK))


def covered(x: Tensor, reference: Tensor, k: int = NEIGHBOURS) -> float:
    """Return the fraction of x (N, F) that lies among reference (M, F).

    The radius of a reference vector is the distance to its k-th nearest neighbour in reference. A
    vector counts if it lies within the radius of one of them. Precision is that of samples among
    faces, recall that of faces among samples (Kynkaanniemi et al., 2019, equations 1 and 2).
    """
    radii = nearest_distances(reference, reference, k + 1)  # the nearest is the vector itself
    x, inside = x.double(), torch.zeros(len(x), dtype=torch.bool)
    for part, radius in zip(reference.split(BLOCK), radii.split(BLOCK), strict=True):
        inside |= (torch.cdist(x, part.double()) <= radius).any(1)
    return inside.double().mean().item()


def nearest_distances(x: Tensor, reference: Tensor, k: int = 1) -> Tensor:
    """Return the distance of each of x (N, F) to its k-th nearest in reference (M, F): (N,)."""
    # float64: in float32 torch.cdist loses the small distances, which matter most
    x, nearest = x.double(), torch.full((len(x), k), torch.inf, dtype=torch.float64)
    for part in reference.split(BLOCK):
        distances = torch.cat([nearest, torch.cdist(x, part.double())], dim=1)
        nearest = distances.topk(k, largest=False).values
    return nearest.amax(1)
