"""Directions in which an attribute grows, from the statistics of training codes; moves along them.

N faces, D latent dimensions, K = 40 attributes. Codes are posterior means, mu. One unit of strength
is the same for every attribute and method: the distance between the mean codes with and without
the attribute, measured along the direction.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from vae.celeba import ATTRIBUTE_NAMES, find_attribute
from vae.errors import UserError
from vae.latent import Statistics, decode_codes, encode_batches
from vae.metrics import fit_logistic
from vae.model import VAE
from vae.prior import make_prior

PARTS = {"Smiling": ("High_Cheekbones", "Mouth_Slightly_Open")}
"""Attributes that others consist of: they are to change with them."""

FEWEST_FACES = 20
"""of either class, for a direction to be more than chance"""
MOST_FACES = 50_000
"""that logistic classifiers are fitted to"""
TRIP_STRENGTH, TRIP_FACES = 3.0, 64
"""how far round trips go along each direction, and over how many new faces they are averaged"""
TRIP_RIDGE = 3.0
"""weight of the shares' squares, in mean squared changes of an attribute by its own direction"""


def attribute_direction(statistics: Statistics, name: str, method: str) -> Tensor:
    """Return the direction in which an attribute grows, (D,); adding it is one unit of strength.

    method is one of METHODS.

    Raises UserError if the attribute is unknown or has fewer than FEWEST_FACES faces with it or
    without.
    """
    column = find_attribute(name)
    class_counts(statistics, column)
    return one_unit(statistics, column, METHODS[method](statistics, column)).float()


def one_unit(statistics: Statistics, column: int, direction: Tensor) -> Tensor:
    """Return direction (D,) as long as the way between the attribute's class means along it."""
    distance = (mean_direction(statistics, column) @ direction.double()).abs()
    return direction * (distance / direction.double().square().sum())


def class_counts(statistics: Statistics, column: int) -> tuple[int, int]:
    """Return how many training faces have an attribute, and how many do not.

    Raises UserError if either are fewer than FEWEST_FACES, or nothing is known of the attributes.
    """
    if "class_sums" not in statistics:
        raise UserError(
            "this model was trained on pictures without attributes: an edit needs a data set "
            "with list_attr_celeba.txt"
        )
    n, count = int(statistics["n"]), int(statistics["cooccurrence"][column, column])
    if min(count, n - count) < FEWEST_FACES:
        raise UserError(
            f"{ATTRIBUTE_NAMES[column]}: {count:,} of the {n:,} training faces have it; "
            f"a direction needs {FEWEST_FACES} faces with it and {FEWEST_FACES} without"
        )
    return count, n - count


def mean_direction(statistics: Statistics, column: int) -> Tensor:
    """Return the mean code with an attribute minus the mean code without it, (D,).

    The attribute vector of Larsen et al. (2016), section 4. It carries along whatever else is more
    frequent among the faces that have the attribute.
    """
    shares, cross = _shares_and_cross(statistics)
    share = shares[column]
    return cross[column] / (share * (1 - share))


def balanced_direction(statistics: Statistics, column: int) -> Tensor:
    """Return the attribute's partial effect on the code, all other attributes held as they are.

    Least squares of mu on the 40 attributes together: B = pinv(Cov(a, a)) Cov(a, mu), row column,
    (D,). An attribute that no face or every face has takes no part.
    """
    shares, cross = _shares_and_cross(statistics)
    together = statistics["cooccurrence"].double() / int(statistics["n"])
    covariance = together - shares[:, None] * shares
    return torch.linalg.pinv(covariance, rtol=1e-6, hermitian=True)[column] @ cross


def round_trip_direction(statistics: Statistics, column: int) -> Tensor:
    """Return the balanced direction less what comes back with it from a round trip, (D,).

    M = statistics["round_trips"] says how attributes look changed once an edited code is decoded
    and encoded again: more changes on this way than the code's arithmetic says. Of the balanced
    directions B of the other attributes o, shares w are taken off, least in
    |M[column, o] - w M[o, o]|^2 + TRIP_RIDGE m^2 |w|^2, m the mean of M[o, o]'s diagonal: a ridge
    (Hoerl & Kennard, 1970) so high that w follows what many attributes agree on. PARTS are left to
    change. The correction is this project's own.
    """
    parts = map(find_attribute, PARTS.get(ATTRIBUTE_NAMES[column], ()))
    others = _common(statistics)
    others[[column, *parts]] = False
    trips, units = statistics["round_trips"].double(), _balanced_units(statistics)
    coming_back, among = trips[column, others], trips[others][:, others]
    ridge = TRIP_RIDGE * among.diagonal().mean() ** 2
    normal = among @ among.T + ridge * torch.eye(len(among), dtype=among.dtype)
    # pinv: a model that decodes all codes to one face has no round trips to learn from
    taken = torch.linalg.pinv(normal, hermitian=True) @ among @ coming_back
    return units[column] - taken @ units[others]


def round_trips(model: VAE, statistics: Statistics) -> Tensor:
    """Return how attributes change on the way from a code to a face and back, (K, K).

    Entry j, k: codes of new faces are moved along attribute j's balanced direction, decoded and
    encoded again. What a straight line then reads off the codes of attribute k (least squares of
    the attributes on mu) has changed by so many of its deviations, a unit of strength. Zero where
    either attribute has fewer than FEWEST_FACES faces of one class.
    """
    common, units = _common(statistics), _balanced_units(statistics).float()
    shares, cross = _shares_and_cross(statistics)
    deviations = (shares * (1 - shares))[common].sqrt()
    lines = torch.linalg.lstsq(statistics["covariance"].double(), cross[common].T).solution
    z = make_prior("gaussian", statistics, units.shape[1]).sample(0, range(TRIP_FACES))

    def read(codes: Tensor) -> Tensor:
        mu, _ = encode_batches(model, decode_codes(model, codes).split(TRIP_FACES))
        return (mu.double() @ lines / deviations).mean(0)

    before, trips = read(z), torch.zeros(len(common), len(common))
    for column in common.nonzero()[:, 0].tolist():
        after = read(z + TRIP_STRENGTH * units[column])
        trips[column, common] = ((after - before) / TRIP_STRENGTH).float()
    return trips


def _common(statistics: Statistics) -> Tensor:
    """Return which attributes have FEWEST_FACES faces with them and as many without, (K,) bool."""
    counts = statistics["cooccurrence"].diagonal()
    return torch.minimum(counts, statistics["n"] - counts) >= FEWEST_FACES


def _balanced_units(statistics: Statistics) -> Tensor:
    """Return the common attributes' balanced directions, one unit long, (K, D); zero elsewhere."""
    common = _common(statistics)
    units = torch.zeros(len(common), len(statistics["mean"]), dtype=torch.float64)
    for column in common.nonzero()[:, 0].tolist():
        units[column] = one_unit(statistics, column, balanced_direction(statistics, column))
    return units


def lda_direction(statistics: Statistics, column: int) -> Tensor:
    """Return the normal of the linear discriminant, inverse(S) (mean with - mean without), (D,).

    Fisher (1936). The within-class covariance S is drawn towards a multiple of the identity by
    D / (n + D), as a regularised discriminant's is (Friedman, 1989).
    """
    n, shares = int(statistics["n"]), _shares_and_cross(statistics)[0]
    difference = mean_direction(statistics, column)
    between = shares[column] * (1 - shares[column]) * difference.outer(difference)
    within = statistics["covariance"].double() * ((n - 1) / n) - between
    latent_dim = len(within)
    sphere = within.diagonal().mean() * torch.eye(latent_dim, dtype=within.dtype)
    shrunk = torch.lerp(within, sphere, latent_dim / (n + latent_dim))
    return torch.linalg.solve(shrunk, difference)


def logistic_direction(statistics: Statistics, column: int) -> Tensor:
    """Return the normal of the attribute's logistic classifier, fitted to the codes, (D,).

    The hyperplane's normal that InterFaceGAN moves along (Shen et al., 2020).

    Raises UserError if there were too few faces to fit it to.
    """
    normal = statistics["logistic_normals"][column].double()
    if not normal.any():
        raise UserError(
            f"{ATTRIBUTE_NAMES[column]}: fewer than {FEWEST_FACES} of the faces that the logistic "
            "classifiers are fitted to have it, or lack it: take another --method"
        )
    return normal


METHODS: dict[str, Callable[[Statistics, int], Tensor]] = {
    "mean": mean_direction,
    "balanced": balanced_direction,
    "round-trip": round_trip_direction,
    "lda": lda_direction,
    "logistic": logistic_direction,
}


def _shares_and_cross(statistics: Statistics) -> tuple[Tensor, Tensor]:
    """Return each attribute's share of the faces, (K,), and its covariance with mu, (K, D)."""
    n = int(statistics["n"])
    shares = statistics["cooccurrence"].diagonal().double() / n
    mean = statistics["mean"].double()
    return shares, statistics["class_sums"].double() / n - shares[:, None] * mean


def sweep(z: Tensor, direction: Tensor, strengths: Sequence[float]) -> Tensor:
    """Return codes moved along a direction, (N, strengths, D); strength 0 leaves z as it is."""
    steps = torch.tensor(strengths, dtype=z.dtype)
    return z[:, None, :] + steps[None, :, None] * direction[None, None, :]


def add_and_remove(z: Tensor, add: Iterable[Tensor], remove: Iterable[Tensor]) -> Tensor:
    """Return codes (N, D) with some directions added and others taken away."""
    return z + sum(add) - sum(remove)


def logistic_normals(mu: Tensor, has: Tensor) -> Tensor:
    """Return the normal of each attribute's logistic classifier of codes, (K, D).

    mu (N, D), of which at most MOST_FACES are taken, evenly; has (N, K) bool. Regularised on codes
    of unit deviation. Zero where either class has fewer than FEWEST_FACES.
    """
    rows = torch.arange(min(len(mu), MOST_FACES)) * len(mu) // min(len(mu), MOST_FACES)
    mu, has = mu[rows].double(), has[rows]
    deviation = mu.std(0)
    deviation[deviation == 0] = 1.0
    normals = torch.zeros(has.shape[1], mu.shape[1])
    fitted = torch.minimum(has.sum(0), (~has).sum(0)) >= FEWEST_FACES
    if fitted.any():
        weights, _ = fit_logistic((mu - mu.mean(0)) / deviation, has[:, fitted])
        normals[fitted] = (weights / deviation[:, None]).T.float()
    return normals
