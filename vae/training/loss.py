"""The objective, in nats per image. B batch, D latent dimensions, S image side."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from vae.latent.codes import kl_per_dimension

CLASSIC_VARIANCE = 0.5
"""The decoder's variance at which the reconstruction term is the squared error itself."""


class Loss(NamedTuple):
    """Scalars of a batch: total = recon + beta * kl, in nats per image."""

    total: Tensor
    recon: Tensor
    kl: Tensor
    variance: Tensor
    """of the decoder"""


def vae_loss(
    x_hat: Tensor,
    x: Tensor,
    mu: Tensor,
    logvar: Tensor,
    beta: float = 1.0,
    likelihood: str = "classic",
) -> Loss:
    """Return the loss, which is with beta 1 the negative ELBO up to a constant.

    The decoder is Gaussian with one variance for all pixels: likelihood is "classic", 1/2, or
    "calibrated", the batch's optimum. beta weighs the KL term (Higgins et al., 2017).
    """
    nats, variance = reconstruction_term(x_hat, x, likelihood)
    recon, kl = nats.mean(), kl_divergence(mu, logvar).mean()
    return Loss(recon + beta * kl, recon, kl, variance)


def reconstruction_term(
    x_hat: Tensor, x: Tensor, likelihood: str, variance: float | None = None
) -> tuple[Tensor, Tensor]:
    """Return -log p(x | z) of each image in nats, (B,), up to a constant; and the variance used.

    variance is that of a calibrated decoder; None takes the batch's optimum.
    """
    sse, count = squared_error(x_hat, x), x[0].numel()
    if likelihood == "classic":
        variance = CLASSIC_VARIANCE
    if variance is None:
        used = optimal_variance(sse.mean(), count)
    else:
        used = torch.full_like(sse[0], variance)
    return gaussian_nll(sse, used, count), used


def optimal_variance(sse: Tensor, count: int) -> Tensor:
    """Return the variance that minimises gaussian_nll, detached from the graph.

    sse is the squared error of an image over its count = 3 * S * S values. Rybkin et al. (2021),
    equation 7: the maximum likelihood in closed form. The derivative by the variance is zero there,
    so detaching it does not change the gradient.
    """
    # an error of exactly zero has no logarithm
    return (sse.detach() / count).clamp(min=torch.finfo(sse.dtype).tiny)


def gaussian_nll(sse: Tensor, variance: float | Tensor, count: int) -> Tensor:
    """Return -log N(x; x_hat, variance * I) in nats, without the constant count / 2 * log(pi).

    sse is the squared error over an image's count = 3 * S * S values. Without that constant,
    variance 1/2 gives sse itself, and values at different variances are comparable.
    """
    log = torch.log if isinstance(variance, Tensor) else math.log
    return sse / (2 * variance) + 0.5 * count * log(2 * variance)


def squared_error(x_hat: Tensor, x: Tensor) -> Tensor:
    """Return the sum of squared errors of each image, (B,), over its pixels and channels."""
    # float32: bfloat16 loses the last digits of a sum over 49,152 values
    return (x_hat.to(x.dtype) - x).square().sum(dim=(1, 2, 3))


def kl_divergence(mu: Tensor, logvar: Tensor) -> Tensor:
    """Return KL(N(mu, exp(logvar)) || N(0, I)) of each image in nats, (B,), summed over D.

    Kingma & Welling (2014), appendix B.
    """
    return kl_per_dimension(mu, logvar).sum(dim=1)
