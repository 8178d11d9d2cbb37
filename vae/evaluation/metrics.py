"""Measures of images, likelihood, codes and classifiers. Pure functions of tensors.

B images of side S, N faces, D latent dimensions, K attributes. Codes are posterior means, mu.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

LEAST_FACES = 5
"""of each class, for the linear probe of an attribute to be measured"""


def psnr(sse: float, image_size: int) -> float:
    """Return the peak signal-to-noise ratio in dB of a squared error summed over one image."""
    return 10.0 * math.log10(3 * image_size**2 / sse) if sse > 0 else math.inf


def compare_images(pairs: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Return sse per image, psnr in dB and the mean ssim over pairs of batches (x_hat, x).

    Images are (B, 3, S, S) in [0, 1].
    """
    errors, similarities = [], []
    for x_hat, x in pairs:
        errors.append((x_hat - x).square().sum(dim=(1, 2, 3)))
        similarities.append(ssim(x_hat, x))
    sse, similarity = (
        torch.cat(values).double().mean().item() for values in (errors, similarities)
    )
    return {"sse": sse, "psnr": psnr(sse, x.shape[-1]), "ssim": similarity}


def ssim(x_hat: Tensor, x: Tensor) -> Tensor:
    """Return the structural similarity of each pair of images (B, 3, S, S) in [0, 1]: (B,).

    Wang et al. (2004), equation 13, with their window (11 x 11, Gaussian, standard deviation 1.5)
    and constants (0.01, 0.03). The mean over channels and over the positions where the window fits.
    """
    mean_hat, mean = _blur(x_hat), _blur(x)
    variance_hat = _blur(x_hat.square()) - mean_hat.square()
    variance = _blur(x.square()) - mean.square()
    covariance = _blur(x_hat * x) - mean_hat * mean
    c1, c2 = 0.01**2, 0.03**2
    similarity = (2 * mean_hat * mean + c1) * (2 * covariance + c2)
    scale = (mean_hat.square() + mean.square() + c1) * (variance_hat + variance + c2)
    return (similarity / scale).mean(dim=(1, 2, 3))


def _blur(x: Tensor) -> Tensor:
    """Return the weighted mean in each window that fits, (B, 3, S - 10, S - 10)."""
    offsets = torch.arange(-5, 6, dtype=x.dtype, device=x.device)
    window = torch.softmax(-offsets.square() / (2 * 1.5**2), dim=0).expand(3, 1, 1, -1)
    rows = functional.conv2d(x, window, groups=3)
    return functional.conv2d(rows, window.mT, groups=3)


def bits_per_dimension(recon: float, kl: float, variance: float, count: int) -> float:
    """Return an upper bound on the bits/dim: what the model needs for one 8-bit value of an image.

    recon and kl are means per image, in nats. recon is gaussian_nll (without its constant) for the
    decoder's variance and the count = 3 * S * S values of an image.

    Uniform dequantisation (Theis et al., 2016, section 3.1) makes the density one of 8-bit values.
    By Jensen's inequality log P(x) >= E[log p(x + u)] - count * log(255), where u is uniform over
    one 8-bit level and x is level / 255. For a Gaussian decoder the expectation is exact: u adds
    its variance, 1 / (12 * 255^2), to each squared error. The posterior of x without u is used;
    the bound holds for every posterior.
    """
    constant = 0.5 * count * math.log(math.pi)
    dequantisation = count / (12 * 255**2) / (2 * variance)
    return (recon + constant + dequantisation + kl) / (count * math.log(2)) + math.log2(255)


def active_units(mu: Tensor) -> Tensor:
    """Return which dimensions of the codes (N, D) are active, (D,) bool: variance of mu > 0.01.

    Burda et al. (2016), section 5.2.
    """
    return mu.double().var(0, correction=min(1, len(mu) - 1)) > 0.01


def area_under_curve(scores: Tensor, has: Tensor) -> float | None:
    """Return the area under the ROC curve of scores (N,) for the classes has (N,) bool.

    It is the probability that a positive has a higher score than a negative; a tie counts half.
    Computed from ranks (Mann & Whitney, 1947); tied scores share their mean rank. None if a class
    is empty.
    """
    positives, negatives = int(has.sum()), int((~has).sum())
    if not positives or not negatives:
        return None
    _, group, sizes = torch.unique(scores, return_inverse=True, return_counts=True)
    ranks = sizes.cumsum(0) - (sizes - 1) / 2
    above = ranks[group][has].double().sum().item() - positives * (positives + 1) / 2
    return above / (positives * negatives)


def attribute_areas(scores: Tensor, has: Tensor, names: Sequence[str]) -> dict[str, Any]:
    """Return the AUC of each attribute's scores, the mean AUC, and the number of positives.

    scores and has are (N, K). Not measured are attributes with fewer than LEAST_FACES faces in one
    class, and constant scores.
    """
    common = torch.minimum(has.sum(0), (~has).sum(0)) >= LEAST_FACES
    columns = torch.nonzero(common & (scores != scores[0]).any(0))[:, 0].tolist()
    areas = {names[one]: area_under_curve(scores[:, one], has[:, one]) for one in columns}
    return {
        "mean_auc": sum(areas.values()) / len(areas) if areas else None,
        "auc": areas,
        "positives": {names[one]: int(has[:, one].sum()) for one in columns},
        "too_rare": [name for name in names if name not in areas],
    }
