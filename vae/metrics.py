"""What is measured on images and codes. Pure tensors, no models, no files.

B images of side S, N faces, D latent dimensions, K attributes. Codes are posterior means,
mu, where nothing else is said.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from vae.loss import kl_per_dimension

LEAST_FACES = 5
"""with an attribute, and without it, for the attribute's probe to be measured"""


def ssim(x_hat: Tensor, x: Tensor) -> Tensor:
    """Return the structural similarity of each pair of images (B, 3, S, S) in [0, 1]: (B,).

    Wang et al. (2004), equation 13, with their window (11 x 11, Gaussian of deviation 1.5) and
    constants (0.01, 0.03), of each channel where the window fits, then the mean. 1 is equality.
    """
    mean_hat, mean = _blur(x_hat), _blur(x)
    variance_hat = _blur(x_hat.square()) - mean_hat.square()
    variance = _blur(x.square()) - mean.square()
    covariance = _blur(x_hat * x) - mean_hat * mean
    c1, c2 = 0.01**2, 0.03**2
    likeness = (2 * mean_hat * mean + c1) * (2 * covariance + c2)
    scale = (mean_hat.square() + mean.square() + c1) * (variance_hat + variance + c2)
    return (likeness / scale).mean(dim=(1, 2, 3))


def _blur(x: Tensor) -> Tensor:
    """Return the mean under the window around each pixel where it fits, (B, 3, S - 10, S - 10)."""
    offsets = torch.arange(-5, 6, dtype=x.dtype, device=x.device)
    window = torch.softmax(-offsets.square() / (2 * 1.5**2), dim=0).expand(3, 1, 1, -1)
    rows = functional.conv2d(x, window, groups=3)
    return functional.conv2d(rows, window.mT, groups=3)


def bits_per_dimension(recon: float, kl: float, variance: float, count: int) -> float:
    """Return an upper bound on the bits that a model needs for one 8-bit value of an image.

    recon and kl are an image's, in nats: recon as gaussian_nll gives it (count / 2 * log(pi)
    dropped) for the variance of the decoder and the count = 3 * S * S values of an image.

    The density is made one of 8-bit values by uniform dequantisation (Theis et al., 2016, section
    3.1): by Jensen's inequality log P(x) >= E[log p(x + u)] - count * log(255), u uniform over one
    level of grey in the units of x = level / 255. The decoder is Gaussian, so the expectation is
    in closed form: u adds its variance, 1 / (12 * 255^2), to each squared error. The posterior
    may stay that of the x without u: with any posterior the bound holds.
    """
    constant = 0.5 * count * math.log(math.pi)
    dequantisation = count / (12 * 255**2) / (2 * variance)
    return (recon + constant + dequantisation + kl) / (count * math.log(2)) + math.log2(255)


def active_units(mu: Tensor) -> Tensor:
    """Return which dimensions of the codes (N, D) tell faces apart, (D,) bool.

    Burda et al. (2016), section 5.2: those in which the variance of mu is above 0.01.
    """
    return mu.double().var(0) > 0.01


def kl_to_standard(mean: Tensor, covariance: Tensor) -> float:
    """Return KL(N(mean, covariance) || N(0, I)) in nats; mean is (D,), covariance (D, D).

    For the moments of the aggregate posterior it is the least that the posteriors' mean KL spends
    on not being N(0, I) as a whole, rather than on telling faces apart (Hoffman & Johnson, 2016):
    the aggregate's own KL is this and its KL to the Gaussian of its moments.
    """
    mean, covariance = mean.double(), covariance.double()
    excess = covariance.trace() + mean.square().sum() - len(mean) - torch.logdet(covariance)
    return 0.5 * excess.item()


def squared_distance(z: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """Return the squared Mahalanobis distance of codes z (N, D), by D: (N,), near 1 for their own.

    Codes drawn from a Gaussian with this mean (D,) and covariance (D, D) have 1 on average.
    """
    factor = torch.linalg.cholesky(covariance.double())
    centred = (z.double() - mean.double()).T
    whitened = torch.linalg.solve_triangular(factor, centred, upper=False)
    return whitened.square().mean(0)


def correlations(covariance: Tensor) -> Tensor:
    """Return the correlation matrix (D, D) of a covariance matrix."""
    deviation = covariance.diagonal().sqrt()
    return covariance / deviation[:, None] / deviation


def latent_health(mu: Tensor, logvar: Tensor, mean: Tensor, covariance: Tensor) -> dict[str, Any]:
    """Return what the posteriors of faces, and all of them together, are like beside N(0, I).

    mu and logvar are some faces', (N, D); mean (D,) and covariance (D, D) the moments of the
    aggregate posterior. KL in nats; eigenvalues of the covariance from the largest down.
    """
    kl = kl_per_dimension(mu.double(), logvar.double()).mean(0)
    eigenvalues = torch.linalg.eigvalsh(covariance.double()).flip(0)
    off_diagonal = correlations(covariance.double()).fill_diagonal_(0).abs()
    return {
        "active_units": int(active_units(mu).sum()),
        "aggregate_kl": kl_to_standard(mean, covariance),
        "aggregate_mean_norm": mean.double().norm().item(),
        "largest_eigenvalue": eigenvalues[0].item(),
        "smallest_eigenvalue": eigenvalues[-1].item(),
        "uneven_directions": ((eigenvalues < 0.5) | (eigenvalues > 2)).double().mean().item(),
        "largest_correlation": off_diagonal.max().item(),
        "kl_per_dimension": kl.tolist(),
        "eigenvalues": eigenvalues.tolist(),
    }


def area_under_curve(scores: Tensor, has: Tensor) -> float:
    """Return the chance that a positive's score is above a negative's; a tie counts half.

    scores (N,) and has (N,) bool. The area under the ROC curve, from the ranks: Mann & Whitney
    (1947), tied scores given the mean of their ranks. NaN where one of the classes is empty.
    """
    _, group, sizes = torch.unique(scores, return_inverse=True, return_counts=True)
    ranks = sizes.cumsum(0) - (sizes - 1) / 2
    positives, negatives = int(has.sum()), int((~has).sum())
    above = ranks[group][has].double().sum().item() - positives * (positives + 1) / 2
    return above / (positives * negatives) if positives and negatives else math.nan


def fit_logistic(x: Tensor, has: Tensor, penalty: float = 1.0) -> tuple[Tensor, Tensor]:
    """Return weights (D, K) and intercepts (K,) of logistic regressions from x (N, D), float64.

    has is (N, K) bool; each column is fitted by itself. What is least is the sum of the log losses
    plus penalty / 2 times the squared weights, intercepts free: a convex problem with one answer.
    """
    x = torch.cat([x.double(), torch.ones(len(x), 1, dtype=torch.float64)], dim=1)
    ridge = torch.full((x.shape[1],), penalty, dtype=torch.float64)
    ridge[-1] = 0.0
    fits = torch.stack([_newton(x, target, ridge) for target in has.double().T], dim=1)
    return fits[:-1], fits[-1]


def _newton(x: Tensor, target: Tensor, ridge: Tensor, steps: int = 100) -> Tensor:
    """Return the weights (D,) of least loss by Newton's method, steps halved until they help."""

    def loss(weights: Tensor) -> Tensor:
        misfit = functional.binary_cross_entropy_with_logits(x @ weights, target, reduction="sum")
        return misfit + 0.5 * (ridge * weights.square()).sum()

    weights = torch.zeros(x.shape[1], dtype=torch.float64)
    for _ in range(steps):
        chances = torch.sigmoid(x @ weights)
        gradient = x.T @ (chances - target) + ridge * weights
        if gradient.abs().max() < 1e-8 * len(x):
            break
        hessian = (x * (chances * (1 - chances))[:, None]).T @ x + ridge.diag()
        step = torch.linalg.solve(hessian, gradient)
        while loss(weights - step) > loss(weights) and step.abs().max() > 1e-12:
            step = step / 2
        weights = weights - step
    return weights


def probe_attributes(
    normals: Tensor, mu: Tensor, has: Tensor, names: Sequence[str]
) -> dict[str, Any]:
    """Return how well each attribute is read off the codes by a straight line: areas under curves.

    normals (K, D) are those of logistic classifiers that were fitted to the training codes, zero
    where they had too few faces; the areas are measured on other faces, their codes mu (N, D) and
    attributes has (N, K) (Alain & Bengio, 2017, call it a linear probe). An attribute that fewer
    than LEAST_FACES of these have, or lack, is not measured.
    """
    common = torch.minimum(has.sum(0), (~has).sum(0)) >= LEAST_FACES
    columns = torch.nonzero(common & normals.any(1))[:, 0].tolist()
    if not columns:
        return {"not_measured": f"under {LEAST_FACES} faces have, or lack, each attribute"}
    scores = mu @ normals.T
    areas = {
        names[column]: area_under_curve(scores[:, column], has[:, column]) for column in columns
    }
    return {
        "mean_auc": sum(areas.values()) / len(areas),
        "auc": areas,
        "positives": {names[column]: int(has[:, column].sum()) for column in columns},
        "too_rare": [name for name in names if name not in areas],
    }
