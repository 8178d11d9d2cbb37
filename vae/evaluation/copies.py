"""Tests for copies: distances of images to their nearest training faces.

N images of side S, M training faces, F features, D latent dimensions.
"""

from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from vae.evaluation.distributions import nearest_distances
from vae.models.coding import encode_batches
from vae.models.judge import Judge, look

QUANTILE = 0.01
"""of the held-out faces' distances: an image that is nearer counts as a copy"""


class Seen(NamedTuple):
    """What the judge and the encoder see in images."""

    features: Tensor
    """(N, F)"""
    mu: Tensor
    """(N, D)"""


def see(judge: Judge, model: nn.Module, images: Iterable[Tensor]) -> Seen:
    """Return the judge's features and the codes of batches of images, in one pass over them."""
    pairs = [(look(judge, [x])[1], encode_batches(model, [x])[0]) for x in images]
    return Seen(*map(torch.cat, zip(*pairs, strict=True)))


def measure_copies(
    see_images: Callable[[Iterable[Tensor]], Seen],
    decode: Callable[[Tensor], Tensor],
    faces: Callable[[np.ndarray], Iterable[Tensor]],
    rows: np.ndarray,
    held_out: Seen,
    sets: Mapping[str, Seen],
) -> dict[str, dict[str, float]]:
    """Return how near sets of images come to the training faces and to their mirror images.

    faces yields the images of rows, the training faces. Beside the sets stand copies made on
    purpose, as many as the largest set has images: training faces slightly changed, and decoded
    from their own codes. They show which copies the test would find.
    """
    training = see_images(chain(faces(rows), (x.flip(3) for x in faces(rows))))
    count = min(len(rows), max(len(seen.mu) for seen in sets.values()))
    chosen = np.linspace(0, len(rows) - 1, count).astype(int)
    copies = {
        "copies, mirrored and brighter": map(brightened_mirror, faces(rows[chosen])),
        "copies, moved by a pixel": map(moved, faces(rows[chosen])),
        "copies, decoded": map(decode, training.mu[chosen].split(128)),
    }
    sets = {**sets, **{name: see_images(images) for name, images in copies.items()}}
    features = {name: seen.features for name, seen in sets.items()}
    axes = whitening(training.mu)
    codes = {name: seen.mu.double() @ axes for name, seen in sets.items()}
    by_feature = find_copies("feature", training.features, held_out.features, features)
    known, fresh = (seen.mu.double() @ axes for seen in (training, held_out))
    by_code = find_copies("code", known, fresh, codes)
    return {
        name: {"n": len(seen.mu)} | by_feature[name] | by_code[name] for name, seen in sets.items()
    }


def find_copies(
    space: str, training: Tensor, held_out: Tensor, sets: Mapping[str, Tensor]
) -> dict[str, dict[str, float]]:
    """Return how near each set comes to the training faces, beside how near held-out faces come.

    training is (M, F), held_out and each set (N, F): features or whitened codes, as space says. Of
    each set: ratio, its median distance to the nearest training face over that of held-out faces;
    copies, the fraction that is nearer than all but QUANTILE of the held-out faces. Of images that
    are no copies, about QUANTILE are that near too.
    """
    usual = nearest_distances(held_out, training)
    distances = {name: nearest_distances(x, training) for name, x in sets.items()}
    return {
        name: {
            f"{space}_ratio": (found.median() / usual.median()).item(),
            f"{space}_copies": (found < usual.quantile(QUANTILE)).double().mean().item(),
        }
        for name, found in distances.items()
    }


def whitening(training: Tensor) -> Tensor:
    """Return axes (D, E) along which training codes (M, D) have covariance I, in float64.

    Axes along which they hardly vary are left out, so E may be smaller than D.
    """
    eigenvalues, axes = torch.linalg.eigh(torch.cov(training.double().T))
    varied = eigenvalues > 1e-6 * eigenvalues[-1]
    return axes[:, varied] / eigenvalues[varied].sqrt()


def brightened_mirror(x: Tensor) -> Tensor:
    """Return images x (B, 3, S, S) mirrored and 5 % brighter."""
    return (1.05 * x.flip(3)).clamp(max=1)


def moved(x: Tensor) -> Tensor:
    """Return images x (B, 3, S, S) moved to the right by one pixel, around the border."""
    return x.roll(1, dims=3)
