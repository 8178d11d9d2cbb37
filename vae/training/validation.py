"""The validation of the two networks on held-out faces: a VAE's bound, a refiner's loss."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from vae.device import device_of
from vae.errors import NotFinite, StopSignal
from vae.evaluation.metrics import active_units, psnr
from vae.latent.codes import image_noise, sample_posterior
from vae.models.refiner import Refiner, flow_loss
from vae.training.loss import kl_divergence, reconstruction_term, squared_error


@torch.no_grad()
def validate(
    model: nn.Module,
    images: Iterable[Tensor],
    beta: float,
    seed: int,
    likelihood: str = "classic",
    variance: float | None = None,
    stop: StopSignal | None = None,
) -> dict[str, float]:
    """Return total, recon, kl in nats per image; sse per image, psnr in dB; active_units.

    recon and total are those of z sampled from the posterior, with noise that depends on the seed
    and the image alone: a bound comparable with training's. variance is that of a calibrated
    decoder. sse and psnr are of the reconstruction from mu, clamped to [0, 1]. Computed in float32
    (on cuda: TF32, see device.py) whatever the precision of training.

    Raises NotFinite if a term is not finite.
    """
    model.eval()
    sums, means, device = torch.zeros(3, dtype=torch.float64), [], device_of(model)
    count = 0
    for x in images:
        x = x.to(device)
        mu, logvar = model.encode(x)
        z = sample_posterior(mu, logvar, seed, first=count)
        nats, _ = reconstruction_term(model.decode(z), x, likelihood, variance)
        sse = squared_error(model.decode(mu).clamp(0, 1), x)  # of the picture that is shown
        terms = torch.stack([nats, kl_divergence(mu, logvar), sse])
        sums += terms.cpu().double().sum(1)
        means.append(mu.cpu())
        count += len(x)
        if stop:
            stop.check()
    recon, kl, sse = (sums / count).tolist()
    if not math.isfinite(recon + kl + sse):
        raise NotFinite(f"validation gave recon {recon}, kl {kl}, sse {sse}")
    return {
        "total": recon + beta * kl,
        "recon": recon,
        "kl": kl,
        "sse": sse,
        "psnr": psnr(sse, x.shape[-1]),
        "active_units": int(active_units(torch.cat(means)).sum()),
    }


@torch.no_grad()
def validate_refiner(
    vae: nn.Module,
    refiner: Refiner,
    images: Iterable[Tensor],
    seed: int,
    stop: StopSignal | None = None,
) -> dict[str, float]:
    """Return total, the loss of the refiner; its noise depends on the seed and the image alone.

    Raises NotFinite if it is not finite.
    """
    refiner.eval()
    total, count, device = 0.0, 0, device_of(refiner)
    for x in images:
        x = x.to(device)
        numbers = range(count, count + len(x))
        mu, logvar = vae.encode(x)
        x_hat = vae.decode(sample_posterior(mu, logvar, seed, first=count)).clamp(0, 1)
        # evenly spread times, in an order that mixes them over neighbouring images
        time = torch.tensor([number * 0.618034 % 1 for number in numbers], device=device)
        noise = refiner.noise * image_noise(seed, numbers, x.shape[-1]).to(device)
        _, scale, _ = refiner.coefficients(time)
        total += flow_loss(refiner, scale, x, x_hat, noise, time).sum().item()
        count += len(x)
        if stop:
            stop.check()
    if not math.isfinite(total):
        raise NotFinite(f"validation gave total {total}")
    return {"total": total / count}
