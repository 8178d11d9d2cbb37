"""Encode, decode or refine many images, in batches and without gradients.

N images of side S, D latent dimensions. Computed in float32 (on cuda: TF32, see device.py).
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from vae.device import device_of
from vae.models.refiner import Refiner, refine


@torch.no_grad()
def encode_batches(model: nn.Module, batches: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Return mu and logvar of all images, both (N, D) on the CPU."""
    model.eval()
    device = device_of(model)
    codes = [model.encode(x.to(device)) for x in batches]
    mu = torch.cat([mu.cpu() for mu, _ in codes])
    logvar = torch.cat([logvar.cpu() for _, logvar in codes])
    return mu, logvar


@torch.no_grad()
def decode_codes(model: nn.Module, z: Tensor, batch_size: int = 64) -> Tensor:
    """Return the decoded images (N, 3, S, S) in [0, 1] of codes z (N, D), on the CPU."""
    model.eval()
    device = device_of(model)
    parts = z.split(batch_size)
    return torch.cat([model.decode(part.to(device)).clamp(0, 1).cpu() for part in parts])


def refine_images(
    refiner: Refiner, x_hat: Tensor, noise: Tensor, steps: int, strength: float
) -> Tensor:
    """Return decoded images x_hat (N, 3, S, S) refined, on the CPU; noise has their shape."""
    refiner.eval()
    device = device_of(refiner)
    pairs = zip(x_hat.split(64), noise.split(64), strict=True)
    refined = [refine(refiner, x.to(device), eps.to(device), steps, strength) for x, eps in pairs]
    return torch.cat([x.cpu() for x in refined])
