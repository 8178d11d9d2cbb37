"""Directions in which an attribute grows, from the statistics of training codes.

N faces, D latent dimensions, K attributes. Codes are posterior means, mu. One unit of strength is
the same for every attribute and method: the distance between the mean codes with and without the
attribute, measured along the direction.
"""

import difflib
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from vae.errors import UserError
from vae.latent.codes import Statistics

PARTS = {"Smiling": ("High_Cheekbones", "Mouth_Slightly_Open")}
"""Attributes that are part of another: they are free to change with it."""

FEWEST_FACES = 20
"""with an attribute, and without it, for its direction to be more than chance"""
ROUND_TRIP_RIDGE = 3.0
"""weight of the ridge penalty, relative to the mean squared effect of a direction on its own
attribute"""


def find_attribute(name: str, names: Sequence[str]) -> int:
    """Return the column of an attribute among names; upper and lower case are the same.

    Raises UserError if it is not there; the message offers the nearest name.
    """
    columns = {known.lower(): column for column, known in enumerate(names)}
    if name.lower() in columns:
        return columns[name.lower()]
    near = difflib.get_close_matches(name.lower(), columns, n=1)
    hint = f': did you mean "{names[columns[near[0]]]}"?' if near else "."
    raise UserError(f'no attribute "{name}"{hint} Known: {", ".join(names)}')


def class_counts(statistics: Statistics, column: int) -> tuple[int, int]:
    """Return the number of training faces known to have an attribute, and not to have it.

    Raises UserError if either is below FEWEST_FACES.
    """
    n, count = statistics["attribute_n"], int(statistics["cooccurrence"][column, column])
    if min(count, n - count) < FEWEST_FACES:
        raise UserError(
            f"{statistics['attribute_names'][column]}: {count:,} of the {n:,} training faces have "
            f"it; a direction needs {FEWEST_FACES} faces with it and {FEWEST_FACES} without"
        )
    return count, n - count


def common_attributes(statistics: Statistics) -> Tensor:
    """Return which attributes have FEWEST_FACES faces in each class, (K,) bool."""
    counts = statistics["cooccurrence"].diagonal()
    return torch.minimum(counts, statistics["attribute_n"] - counts) >= FEWEST_FACES


def attribute_directions(statistics: Statistics, method: str) -> Tensor:
    """Return the direction in which each attribute grows, (K, D), scaled to one unit of strength.

    method is "mean", "balanced" or "round-trip". Zero for attributes that are not common.
    """
    directions = {
        "mean": mean_directions,
        "balanced": balanced_directions,
        "round-trip": round_trip_directions,
    }[method](statistics)
    units = _scale(directions, mean_directions(statistics))
    return units * common_attributes(statistics)[:, None]


def one_unit(statistics: Statistics, column: int, direction: Tensor) -> Tensor:
    """Return direction (D,) scaled to the distance between the attribute's class means along it."""
    return _scale(direction, mean_directions(statistics)[column])


def _scale(directions: Tensor, means: Tensor) -> Tensor:
    directions = directions.double()
    distances = (means * directions).sum(-1, keepdim=True).abs()
    squares = directions.square().sum(-1, keepdim=True).clamp(min=1e-30)
    return (directions * distances / squares).float()


def mean_directions(statistics: Statistics) -> Tensor:
    """Return the mean code with each attribute minus the mean code without it, (K, D).

    The attribute vector of Larsen et al. (2016), section 4. It also carries whatever else is more
    frequent among the faces that have the attribute.
    """
    fractions, cross = _moments(statistics)
    return cross / (fractions * (1 - fractions)).clamp(min=1e-12)[:, None]


def balanced_directions(statistics: Statistics) -> Tensor:
    """Return each attribute's partial effect on the code, all other attributes held constant.

    Least squares of mu on all attributes together: B = pinv(Cov(a, a)) Cov(a, mu), (K, D).
    Attributes that all faces have, or none, are left out.
    """
    fractions, cross = _moments(statistics)
    covariance = statistics["cooccurrence"].double() / statistics["attribute_n"]
    covariance = covariance - fractions[:, None] * fractions
    return torch.linalg.pinv(covariance, rtol=1e-6, hermitian=True) @ cross


def round_trip_directions(statistics: Statistics) -> Tensor:
    """Return the balanced directions, corrected for side effects of decoding, (K, D).

    M = statistics["round_trips"]: entry j, k is the change of attribute k when codes moved along
    balanced direction j are decoded and encoded again. Subtracted from direction k are the balanced
    directions of the other attributes o with the weights w that minimise
    |M[k, o] - w M[o, o]|^2 + ROUND_TRIP_RIDGE m^2 |w|^2, m the mean diagonal of M[o, o]: ridge
    regression (Hoerl & Kennard, 1970). PARTS are left free. This correction is the project's own.
    """
    trips, units = statistics["round_trips"].double(), attribute_directions(statistics, "balanced")
    common, units = common_attributes(statistics), units.double()
    names, corrected = statistics["attribute_names"], units.clone()
    for column in common.nonzero()[:, 0].tolist():
        free = {names[column], *PARTS.get(names[column], ())}
        others = common & torch.tensor([name not in free for name in names])
        among = trips[others][:, others]
        ridge = ROUND_TRIP_RIDGE * among.diagonal().mean() ** 2
        normal = among @ among.T + ridge * torch.eye(len(among), dtype=among.dtype)
        # pinv: a model that decodes all codes to one face gives zeros
        inverse = torch.linalg.pinv(normal, hermitian=True)
        corrected[column] -= inverse @ among @ trips[column, others] @ units[others]
    return corrected


def linear_probe(statistics: Statistics) -> Tensor:
    """Return the linear probe of each attribute on codes (Alain & Bengio, 2017), (K, D).

    Least squares of the attribute on mu, in units of the attribute's standard deviation. Zero for
    attributes that are not common.
    """
    fractions, cross = _moments(statistics)
    common, lines = common_attributes(statistics), torch.zeros_like(cross)
    covariance = statistics["covariance"].double()
    std = (fractions * (1 - fractions)).sqrt()[common, None]
    lines[common] = torch.linalg.lstsq(covariance, cross[common].T).solution.T / std
    return lines


def logistic_normal(mu: Tensor, has: Tensor, penalty: float = 1.0) -> Tensor:
    """Return the normal of the logistic classifier of an attribute on codes, (D,).

    The hyperplane's normal of InterFaceGAN (Shen et al., 2020). mu (N, D), has (N,) bool. Minimises
    the sum of the log losses plus penalty / 2 times the squared weights of standardised codes.
    """
    std = mu.double().std(0)
    std[std == 0] = 1.0
    x, target = (mu.double() - mu.double().mean(0)) / std, has.double()
    weights = torch.zeros(x.shape[1], dtype=x.dtype, requires_grad=True)
    bias = torch.zeros((), dtype=x.dtype, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weights, bias], max_iter=500, tolerance_grad=1e-6, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits = x @ weights + bias
        total = functional.binary_cross_entropy_with_logits(logits, target, reduction="sum")
        total = total + penalty / 2 * weights.square().sum()
        total.backward()
        return total

    optimizer.step(loss)
    return (weights.detach() / std).float()


def sweep(z: Tensor, direction: Tensor, strengths: Sequence[float]) -> Tensor:
    """Return codes moved along a direction, (N, strengths, D); strength 0 leaves z unchanged."""
    steps = torch.tensor(strengths, dtype=z.dtype)
    return z[:, None, :] + steps[None, :, None] * direction[None, None, :]


def _moments(statistics: Statistics) -> tuple[Tensor, Tensor]:
    """Return each attribute's fraction of the faces, (K,), and its covariance with mu, (K, D)."""
    n = statistics["attribute_n"]
    fractions = statistics["cooccurrence"].diagonal().double() / n
    mean = statistics["attribute_mean"].double()
    return fractions, statistics["class_sums"].double() / n - fractions[:, None] * mean
