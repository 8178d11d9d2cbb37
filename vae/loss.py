"""The objective, in nats per image. B batch, D latent dimensions, S image side."""

import math
from typing import NamedTuple

from torch import Tensor


class Loss(NamedTuple):
    """Scalars in nats per image, averaged over the batch: total = recon + beta * kl."""

    total: Tensor
    recon: Tensor
    kl: Tensor


def vae_loss(x_hat: Tensor, x: Tensor, mu: Tensor, logvar: Tensor, beta: float = 1.0) -> Loss:
    """Return what is minimised: with beta 1 the negative ELBO, constants dropped.

    The reconstruction term is that of a Gaussian decoder with variance 1/2. beta weighs the KL
    term (Higgins et al., 2017).
    """
    recon = squared_error(x_hat, x).mean()
    kl = kl_divergence(mu, logvar).mean()
    return Loss(recon + beta * kl, recon, kl)


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
