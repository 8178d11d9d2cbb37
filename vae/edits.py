"""What edits do to decoded faces: moved until a guide sees the attribute, scored by a judge.

N faces, T strengths, D latent dimensions, K = 40 attributes. P is a classifier's probability that
an image has the attribute. The guide alone says how far to go; the judge alone says what came of
it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vae.celeba import ATTRIBUTE_NAMES, find_attribute
from vae.directions import attribute_direction, one_unit, sweep
from vae.errors import UserError
from vae.judge import Judge, extract_features, predict
from vae.latent import Statistics, decode_codes
from vae.model import VAE
from vae.prior import make_prior

STRENGTHS = tuple(np.arange(0, 6.01, 0.25).tolist())
"""the grid on which strengths are looked for; between two of its points P is taken as a line"""

KEPT_AT, KEPT_FACES = 2.0, 64
"""the strength at which kept attributes are brought back, and how many samples are looked at"""

PARTS = {"Smiling": ("High_Cheekbones", "Mouth_Slightly_Open")}
"""Attributes that others consist of: they are to change with them."""


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


def measure_edit(judge: Judge, x: Tensor, edited: Tensor, name: str) -> dict[str, Any]:
    """Return what the judge sees of an edit: images (N, 3, S, S) before and after it.

    success is the mean P of the attribute after it. shifts are the mean changes of the judge's
    logits over their standard deviation on real held-out faces, parts those of what the attribute
    consists of; each with its margin. identity_drift is 1 less the cosine between identity
    features, pixel_drift the root of the mean squared change, both means over faces.
    """
    column = find_attribute(name)
    before, after = predict(judge, x), predict(judge, edited)
    change = (after - before) / judge.attribute_std.cpu()
    shifts = {
        other: mean_and_margin(change[:, index])
        for index, other in enumerate(ATTRIBUTE_NAMES)
        if index != column and judge.attribute_std[index] > 0
    }
    parts = {other: shifts.pop(other) for other in PARTS.get(name, ()) if other in shifts}
    alike = (_identities(judge, x) * _identities(judge, edited)).sum(1)
    return {
        "success": mean_and_margin(after[:, column].sigmoid()),
        "mean_absolute_shift": float(np.mean([abs(shift) for shift, _ in shifts.values()])),
        "worst": sorted(shifts, key=lambda other: -abs(shifts[other][0]))[:3],
        "identity_drift": mean_and_margin(1 - alike),
        "pixel_drift": mean_and_margin((edited - x).square().mean(dim=(1, 2, 3)).sqrt()),
        "parts": parts,
        "shifts": shifts,
    }


def _identities(judge: Judge, x: Tensor) -> Tensor:
    features = extract_features(judge, x.split(128))
    return judge.identify(features.to(judge.identity_mean.device)).cpu()


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
    x = decode_codes(model, mu)
    methods = {}
    for method, direction in directions.items():
        edited = decode_codes(model, mu + strengths[method] * direction)
        methods[method] = {
            "strength": strengths[method],
            "highest": curves[method].max().item(),
            **measure_edit(judge, x, edited, name),
        }
    return {"attribute": name, "n": len(mu), "target": target, "matched": matched} | {
        "methods": methods
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


def edit_lines(measured: Mapping[str, Any]) -> list[str]:
    """Return what measure_methods and seen_on_real_faces found as a table for people to read."""
    having = measured["having"]
    lines = [
        "{attribute}: {n} faces without it, moved to a mean P of {matched:.2f} by the guide "
        "(asked for {target:g})".format(**measured),
        f"the judge's P on {having['n']} faces with it: {_as_text(having['real'])} real, "
        f"{_as_text(having['reconstructed'])} reconstructed",
        f"{'method':<26}{'strength':>9}{'success':>15}{'mean |shift|':>14}"
        f"{'identity drift':>17}{'pixel drift':>16}  parts; worst shifts",
    ]
    for method, row in measured["methods"].items():
        parts = [f"{name} {row['parts'][name][0]:+.2f}" for name in row["parts"]]
        worst = [f"{name} {row['shifts'][name][0]:+.2f}" for name in row["worst"]]
        lines.append(
            f"{method:<26}{row['strength']:>9.2f}{_as_text(row['success']):>15}"
            f"{row['mean_absolute_shift']:>14.3f}{_as_text(row['identity_drift']):>17}"
            f"{_as_text(row['pixel_drift'], 3):>16}  {', '.join(parts) or '-'}; {', '.join(worst)}"
        )
    return lines


def _as_text(value: tuple[float, float], digits: int = 2) -> str:
    mean, margin = value
    return f"{mean:.{digits}f} ± {margin:.{digits}f}"
