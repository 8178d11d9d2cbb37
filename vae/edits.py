"""What edits do to decoded faces: moved until a guide sees the attribute, scored by a judge.

N faces, T strengths, D latent dimensions, K = 40 attributes. P is a classifier's probability that
an image has the attribute. The guide alone says how far to go; the judge alone says what came of
it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vae.celeba import ATTRIBUTE_NAMES, find_attribute
from vae.directions import PARTS, attribute_direction, one_unit, sweep
from vae.errors import UserError
from vae.judge import Judge, look, predict
from vae.latent import Statistics, decode_codes
from vae.model import VAE
from vae.prior import make_prior

STRENGTHS = tuple(np.arange(0, 6.01, 0.25).tolist())
"""the grid on which strengths are looked for; between two of its points P is taken as a line"""

KEPT_AT, KEPT_FACES = 2.0, 64
"""the strength at which kept attributes are brought back, and how many samples are looked at"""


def probabilities(model: VAE, guide: Judge, codes: Tensor, column: int) -> Tensor:
    """Return the guide's P of an attribute on the faces of codes (N, T, D): (N, T)."""
    rows = [predict(guide, decode_codes(model, z))[:, column].sigmoid() for z in codes.unbind(1)]
    return torch.stack(rows, dim=1)


def reach(strengths: Sequence[float], values: Tensor, target: float) -> Tensor:
    """Return the least strength at which values (N, T) reach target, (N,); NaN: not reached.

    values are those of the strengths, ascending, and lines between. They need not rise for ever:
    what counts is the first crossing.
    """
    x = torch.tensor(strengths, dtype=values.dtype)
    above = values >= target
    first = above.int().argmax(dim=1)
    before = (first - 1).clamp(min=0)
    rows = torch.arange(len(values))
    low, high = values[rows, before], values[rows, first]
    share = torch.where(first > 0, (target - low) / (high - low), 0.0)
    found = x[before] + share * (x[first] - x[before])
    return torch.where(above.any(1), found, torch.nan)


def move_until(
    model: VAE, guide: Judge, z: Tensor, direction: Tensor, name: str, target: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return codes z (N, D) moved until the guide's P of an attribute is target, face by face.

    Also the strengths (N,) that this took and the highest P (N,) on the way: where that is below
    target, the face is moved to where it is.
    """
    seen = probabilities(model, guide, sweep(z, direction, STRENGTHS), find_attribute(name))
    strengths = reach(STRENGTHS, seen, target)
    highest = seen.max(1)
    best = torch.tensor(STRENGTHS)[highest.indices]
    taken = torch.where(strengths.isfinite(), strengths, best)
    return z + taken[:, None] * direction, taken, highest.values


def matched_strengths(
    strengths: Sequence[float], curves: Mapping[str, Tensor], target: float
) -> tuple[float, dict[str, float]]:
    """Return the P that is matched, and the strength at which each method comes to it.

    curves are each method's mean P (T,) at the strengths. Matched is target, or where one method
    does not come to it, the highest P that all of them reach.
    """
    matched = min([target, *(curve.max().item() for curve in curves.values())])
    found = {name: reach(strengths, curve[None], matched).item() for name, curve in curves.items()}
    return matched, found


def keep_still(
    model: VAE,
    guide: Judge,
    statistics: Statistics,
    name: str,
    direction: Tensor,
    kept: Sequence[str],
) -> Tensor:
    """Return an attribute's direction (D,) less what the guide sees it do to kept attributes.

    On decoded samples KEPT_AT units along it, the guide's mean logits of the kept attributes are
    brought back to what they were, by Newton steps along these attributes' balanced directions.
    Seen on decoded faces, since to a classifier of codes glasses look less male than they decode.

    Raises UserError as attribute_direction does, or if the attribute itself is to be kept.
    """
    column, columns = find_attribute(name), [find_attribute(other) for other in kept]
    if column in columns:
        raise UserError(f"{ATTRIBUTE_NAMES[column]} cannot be edited and kept")
    effects = torch.stack([attribute_direction(statistics, one, "balanced") for one in kept])
    prior = make_prior("gaussian", statistics, len(direction))
    z = prior.sample(seed=0, indices=range(KEPT_FACES))

    def seen(codes: Tensor) -> Tensor:
        return predict(guide, decode_codes(model, codes))[:, columns].mean(0)

    wanted, still = seen(z), direction
    for _ in range(3):
        moved = z + KEPT_AT * still
        off = seen(moved) - wanted
        slopes = torch.stack([seen(moved + effect) - wanted - off for effect in effects], dim=1)
        shares = torch.linalg.lstsq(slopes, off[:, None]).solution[:, 0]
        still = still - (shares @ effects) / KEPT_AT
    return one_unit(statistics, column, still).float()


def mean_and_margin(values: Tensor) -> tuple[float, float]:
    """Return the mean of values (N,), and half its 95 % confidence interval (normal)."""
    values = values.double()
    return values.mean().item(), 1.96 * (values.std() / len(values) ** 0.5).item()


class Seen(NamedTuple):
    """Faces, and what the judge sees in them."""

    x: Tensor
    """(N, 3, S, S)"""
    logits: Tensor
    """(N, K)"""
    identity: Tensor
    """(N, F), of norm 1"""


def see(judge: Judge, x: Tensor) -> Seen:
    """Return images x (N, 3, S, S) with what the judge sees in them."""
    logits, features = look(judge, x.split(128))
    return Seen(x, logits, judge.identify(features))


def measure_edit(judge: Judge, before: Seen, after: Seen, name: str) -> dict[str, Any]:
    """Return what the judge sees of an edit of faces, from what it sees before and after it.

    success is the mean P of the attribute after it. shifts are the mean changes of the judge's
    logits over their standard deviation on real held-out faces, parts those of what the attribute
    consists of; each with its margin, and only of attributes that the judge could be measured on.
    identity_drift is 1 less the cosine between identity features, pixel_drift the root of the mean
    squared change, both means over faces.
    """
    column = find_attribute(name)
    change = (after.logits - before.logits) / judge.attribute_std.cpu()
    shifts = {
        other: mean_and_margin(change[:, index])
        for index, other in enumerate(ATTRIBUTE_NAMES)
        if index != column and judge.attribute_std[index] > 0
    }
    parts = {other: shifts.pop(other) for other in PARTS.get(name, ()) if other in shifts}
    pixels = (after.x - before.x).square().mean(dim=(1, 2, 3)).sqrt()
    return {
        "success": mean_and_margin(after.logits[:, column].sigmoid()),
        "mean_absolute_shift": float(np.mean([abs(shift) for shift, _ in shifts.values()])),
        "worst": sorted(shifts, key=lambda other: -abs(shifts[other][0]))[:3],
        "identity_drift": mean_and_margin(1 - (before.identity * after.identity).sum(1)),
        "pixel_drift": mean_and_margin(pixels),
        "parts": parts,
        "shifts": shifts,
    }


def measure_methods(
    model: VAE,
    guide: Judge,
    judge: Judge,
    mu: Tensor,
    directions: Mapping[str, Tensor],
    name: str,
    target: float,
) -> dict[str, Any]:
    """Return what each method's edit does to the faces of codes mu (N, D), at matched success.

    directions are the methods' own. The guide's mean P over the faces is brought to target, or as
    near to it as all methods come.
    """
    column = find_attribute(name)
    curves = {
        method: probabilities(model, guide, sweep(mu, direction, STRENGTHS), column).mean(0)
        for method, direction in directions.items()
    }
    matched, strengths = matched_strengths(STRENGTHS, curves, target)
    before = see(judge, decode_codes(model, mu))
    methods = {}
    for method, direction in directions.items():
        after = see(judge, decode_codes(model, mu + strengths[method] * direction))
        methods[method] = {
            "strength": strengths[method],
            "highest": curves[method].max().item(),
            **measure_edit(judge, before, after, name),
        }
    return {
        "attribute": name,
        "n": len(mu),
        "target": target,
        "matched": matched,
        "methods": methods,
    }


def seen_on_real_faces(model: VAE, judge: Judge, x: Tensor, mu: Tensor, name: str) -> dict:
    """Return the judge's mean P of an attribute on images that have it, and on reconstructions.

    x (N, 3, S, S) are real faces with the attribute, mu (N, D) their codes. What an edit can come
    to is the second: it is decoded too.
    """
    column = find_attribute(name)
    reconstructed = predict(judge, decode_codes(model, mu))[:, column].sigmoid()
    return {
        "n": len(x),
        "real": mean_and_margin(predict(judge, x)[:, column].sigmoid()),
        "reconstructed": mean_and_margin(reconstructed),
    }
