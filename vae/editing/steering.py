"""Edits steered by a guide: a classifier that looks at the decoded faces.

N faces, T strengths, D latent dimensions. decode turns codes (N, D) into images (N, 3, S, S) on the
CPU.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from vae.errors import UserError
from vae.latent.codes import Statistics
from vae.latent.directions import (
    attribute_directions,
    class_counts,
    find_attribute,
    one_unit,
    sweep,
)
from vae.latent.prior import make_prior
from vae.models.judge import Judge, predict

Decode = Callable[[Tensor], Tensor]

STRENGTHS = tuple(np.arange(0, 6.01, 0.25).tolist())
"""Strengths that are tried; between two of them the probability is interpolated linearly."""

KEEP_STRENGTH, KEEP_FACES = 2.0, 64
"""The strength at which kept attributes are corrected, and the number of samples looked at."""


def probabilities(decode: Decode, guide: Judge, codes: Tensor, column: int) -> Tensor:
    """Return the guide's probability of an attribute on the faces of codes (N, T, D): (N, T)."""
    return torch.stack(
        [predict(guide, decode(z))[:, column].sigmoid() for z in codes.unbind(1)], dim=1
    )


def reach(strengths: Sequence[float], values: Tensor, target: float) -> Tensor:
    """Return the smallest strength at which values (N, T) reach target, (N,); NaN if they never do.

    values belong to the ascending strengths and are interpolated linearly between them. They need
    not be monotonic: the first crossing counts.
    """
    x = torch.tensor(strengths, dtype=values.dtype)
    above = values >= target
    first = above.int().argmax(dim=1)
    before = (first - 1).clamp(min=0)
    rows = torch.arange(len(values))
    low, high = values[rows, before], values[rows, first]
    fraction = torch.where(first > 0, (target - low) / (high - low), 0.0)
    found = x[before] + fraction * (x[first] - x[before])
    return torch.where(above.any(1), found, torch.nan)


def move_until(
    decode: Decode, guide: Judge, z: Tensor, direction: Tensor, column: int, target: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return codes z (N, D), each moved until the guide's probability of the attribute is target.

    Also returns the strengths (N,) and the highest probability (N,) on the way. A face that does
    not reach target is moved to its highest probability. column is the guide's.
    """
    seen = probabilities(decode, guide, sweep(z, direction, STRENGTHS), column)
    strengths = reach(STRENGTHS, seen, target)
    highest = seen.max(1)
    best = torch.tensor(STRENGTHS)[highest.indices]
    taken = torch.where(strengths.isfinite(), strengths, best)
    return z + taken[:, None] * direction, taken, highest.values


def keep_still(
    decode: Decode,
    guide: Judge,
    statistics: Statistics,
    column: int,
    direction: Tensor,
    kept: Sequence[str],
) -> Tensor:
    """Return an attribute's direction (D,), corrected so that the guide sees kept attributes stay.

    Newton's method: on decoded samples moved KEEP_STRENGTH along it, the guide's mean logits of the
    kept attributes return to their values before the edit, by adding balanced directions of these
    attributes. column is the edited attribute's in statistics.

    Raises UserError if a kept attribute is unknown, too rare, or the edited one itself.
    """
    names, guide_names = statistics["attribute_names"], guide.arch["attribute_names"]
    columns = [find_attribute(name, names) for name in kept]
    if column in columns:
        raise UserError(f"{names[column]} cannot be edited and kept")
    for one in columns:
        class_counts(statistics, one)
    effects = attribute_directions(statistics, "balanced")[columns]
    seen_columns = [find_attribute(name, guide_names) for name in kept]
    z = make_prior("gaussian", statistics, len(direction)).sample(seed=0, indices=range(KEEP_FACES))

    def seen(codes: Tensor) -> Tensor:
        return predict(guide, decode(codes))[:, seen_columns].mean(0)

    wanted, still = seen(z), direction
    for _ in range(3):
        moved = z + KEEP_STRENGTH * still
        change = seen(moved) - wanted
        slopes = torch.stack([seen(moved + effect) - wanted - change for effect in effects], dim=1)
        weights = torch.linalg.lstsq(slopes, change[:, None]).solution[:, 0]
        still = still - (weights @ effects) / KEEP_STRENGTH
    return one_unit(statistics, column, still)
