"""The objective, in nats per image. B batch, D latent dimensions, S image side."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

CLASSIC_VARIANCE = 0.5
"""The decoder's variance for which the reconstruction term is the squared error itself."""


class Loss(NamedTuple):
    """Scalars of a batch: total = recon + beta * kl, in nats per image."""

    total: Tensor
    recon: Tensor
    kl: Tensor
    variance: Tensor
    """mean squared error a pixel and channel: the decoder variance for which recon is least"""


def vae_loss(
    x_hat: Tensor,
    x: Tensor,
    mu: Tensor,
    logvar: Tensor,
    beta: float | Tensor = 1.0,
    variance: float | Tensor | None = CLASSIC_VARIANCE,
) -> Loss:
    """Return what is minimised: with beta 1 the negative ELBO, a constant dropped.

    The decoder is Gaussian with one variance for all pixels: the published 1/2, or with None the
    batch's optimum. beta weighs the KL term (Higgins et al., 2017).
    """
    sse = squared_error(x_hat, x).mean()
    optimum = optimal_variance(sse, x[0].numel())
    recon = gaussian_nll(sse, optimum if variance is None else variance, x[0].numel())
    kl = kl_divergence(mu, logvar).mean()
    return Loss(recon + beta * kl, recon, kl, optimum)


def optimal_variance(sse: Tensor, count: int) -> Tensor:
    """Return the variance that makes gaussian_nll least, without a gradient of its own.

    sse is the squared error of an image over its count = 3 * S * S values. Rybkin et al. (2021),
    equation 7: the maximum of the likelihood in closed form. At it the derivative by the variance
    is zero, so none is lost by cutting it off.
    """
    # an error of exactly zero would have no logarithm
    return (sse.detach() / count).clamp(min=torch.finfo(sse.dtype).tiny)


def gaussian_nll(sse: Tensor, variance: float | Tensor, count: int) -> Tensor:
    """Return -log N(x; x_hat, variance * I) in nats, less the constant count / 2 * log(pi).

    sse is the squared error over an image's count = 3 * S * S values. With that constant dropped
    variance 1/2 gives sse itself, and all variances can be compared.
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


def kl_per_dimension(mu: Tensor, logvar: Tensor) -> Tensor:
    """Return the KL term of each image and latent dimension in nats, (B, D)."""
    return 0.5 * (mu.square() + logvar.exp() - 1.0 - logvar)


def psnr(sse: float, image_size: int) -> float:
    """Return the peak signal-to-noise ratio in dB of a squared error summed over one image."""
    return 10.0 * math.log10(3 * image_size**2 / sse) if sse > 0 else math.inf
