"""What edits do to decoded faces, measured by a judge: a second classifier that no method uses.

N faces, T strengths, D latent dimensions. The guide only sets the strength of an edit; the judge
only measures. decode turns codes (N, D) into images (N, 3, S, S) on the CPU.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vae.editing.steering import STRENGTHS, Decode, probabilities, reach
from vae.errors import UserError
from vae.latent.directions import PARTS, find_attribute, sweep
from vae.models.judge import Judge, identify, look, predict


def matched_strengths(
    strengths: Sequence[float], curves: Mapping[str, Tensor], target: float
) -> tuple[float, dict[str, float]]:
    """Return the common probability, and each method's strength to reach it.

    curves are each method's mean probability (T,) at the strengths. The probability is target, or
    where a method does not reach it, the highest that all methods reach.
    """
    matched = min([target, *(curve.max().item() for curve in curves.values())])
    found = {name: reach(strengths, curve[None], matched).item() for name, curve in curves.items()}
    return matched, found


def mean_and_margin(values: Tensor) -> tuple[float, float]:
    """Return the mean of values (N,), and half the width of its 95 % confidence interval."""
    values = values.double()
    return values.mean().item(), 1.96 * (values.std() / len(values) ** 0.5).item()


def measure_edit(judge: Judge, x: Tensor, edited: Tensor, name: str) -> dict[str, Any]:
    """Return how an edit of an attribute changed images x (N, 3, S, S) into edited, by the judge.

    success is the mean probability of the attribute after the edit. shifts are the mean changes of
    the judge's other logits, in their standard deviations on real held-out faces, for attributes
    that the judge was measured on; parts are those that belong to the attribute. Over the shifts,
    mean_absolute_shift is the mean of |mean change|, mean_absolute_face_shift that of the mean of
    |change|, in which faces that change in opposite ways do not cancel. identity_drift is 1 minus
    the cosine of the identity features, pixel_drift the root of the mean squared change. Means over
    faces, with margins.

    Raises UserError if the judge was measured on no other attribute.
    """
    names = judge.arch["attribute_names"]
    column = find_attribute(name, names)
    logits, features = look(judge, torch.cat([x, edited]).split(128))
    change = (logits[len(x) :] - logits[: len(x)]) / judge.attribute_std.cpu()
    cosine = (identify(features[: len(x)]) * identify(features[len(x) :])).sum(1)
    shifts = {
        other: mean_and_margin(change[:, index])
        for index, other in enumerate(names)
        if index != column and judge.attribute_std[index] > 0
    }
    parts = {other: shifts.pop(other) for other in PARTS.get(name, ()) if other in shifts}
    if not shifts:
        raise UserError(f"the judge was measured on no attribute but {name}: nothing to compare")
    others = [names.index(other) for other in shifts]
    return {
        "success": mean_and_margin(logits[len(x) :, column].sigmoid()),
        "mean_absolute_shift": float(np.mean([abs(shift) for shift, _ in shifts.values()])),
        "mean_absolute_face_shift": change[:, others].abs().mean().item(),
        "worst": sorted(shifts, key=lambda other: -abs(shifts[other][0]))[:3],
        "identity_drift": mean_and_margin(1 - cosine),
        "pixel_drift": mean_and_margin((edited - x).square().mean(dim=(1, 2, 3)).sqrt()),
        "parts": parts,
        "shifts": shifts,
    }


def measure_methods(
    decode: Decode,
    guide: Judge,
    judge: Judge,
    mu: Tensor,
    directions: Mapping[str, Tensor],
    name: str,
    target: float,
) -> dict[str, Any]:
    """Return what each method's edit does to the faces of codes mu (N, D), at equal success.

    directions are the methods' own. All methods are brought to the same mean probability by the
    guide: target, or the highest that all of them reach.
    """
    column = find_attribute(name, guide.arch["attribute_names"])
    curves = {
        method: probabilities(decode, guide, sweep(mu, direction, STRENGTHS), column).mean(0)
        for method, direction in directions.items()
    }
    matched, strengths = matched_strengths(STRENGTHS, curves, target)
    x = decode(mu)
    methods = {
        method: {"strength": strengths[method], "highest": curves[method].max().item()}
        | measure_edit(judge, x, decode(mu + strengths[method] * direction), name)
        for method, direction in directions.items()
    }
    found = {"attribute": name, "n": len(mu), "target": target, "matched": matched}
    return found | {"methods": methods}


def seen_on_faces(judge: Judge, faces: Mapping[str, Tensor], name: str) -> dict[str, Any]:
    """Return the judge's mean probability of an attribute on several pictures of the same faces.

    faces maps "real", and how a face was decoded, to images (N, 3, S, S) of faces that have it.
    What decoded ones reach is what an edit can reach, because an edit is decoded too.
    """
    column = find_attribute(name, judge.arch["attribute_names"])
    return {"n": len(faces["real"])} | {
        kind: mean_and_margin(predict(judge, x)[:, column].sigmoid()) for kind, x in faces.items()
    }
