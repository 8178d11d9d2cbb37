"""One training step: its loss, its way down, and the sums of many steps' losses."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from vae.device import autocast
from vae.errors import RunStopped
from vae.loss import CLASSIC_VARIANCE, Loss, optimal_variance, squared_error, vae_loss
from vae.parallel import ALONE, Ranks


def batch_loss(
    model: nn.Module,
    x: Tensor,
    beta: float | Tensor,
    precision: str = "fp32",
    variance: float | None = CLASSIC_VARIANCE,
    ranks: Ranks = ALONE,
) -> Loss:
    """Return the loss of a batch; convolutions run in the given precision, sums in x's own.

    variance is the decoder's; None is the optimum over the shares of all ranks.
    """
    with autocast(x.device, precision):
        x_hat, mu, logvar = model(x)
    shared = variance
    if variance is None and ranks.size > 1:
        shared = ranks.mean(optimal_variance(squared_error(x_hat, x).mean(), x[0].numel()))
    return vae_loss(x_hat, x, mu.to(x.dtype), logvar.to(x.dtype), beta, shared)


def descend(optimizer: Optimizer, loss: Loss, clip_norm: float = 0.0) -> Loss:
    """Take one step down the gradient of loss; return its terms, detached.

    A gradient longer than clip_norm is cut to that length (Pascanu et al., 2013); 0 cuts none.
    """
    optimizer.zero_grad(set_to_none=True)
    loss.total.backward()
    if clip_norm:
        parameters = (p for group in optimizer.param_groups for p in group["params"])
        nn.utils.clip_grad_norm_(parameters, clip_norm)
    optimizer.step()
    # clones: a CUDA graph writes its next loss where it wrote this one
    return Loss(*(term.detach().clone() for term in loss))


class RunningLoss:
    """Sums loss terms over the images of an epoch, reading them from the device once in a while.

    Reading waits for the device, so it is not done every step.
    """

    def __init__(
        self, ranks: Ranks, steps: int = 0, images: int = 0, sums: Sequence[float] = (0, 0, 0, 0)
    ) -> None:
        self.ranks, self.steps, self.images = ranks, steps, images
        self.sums = np.array(sums, np.float64)
        self.unread: list[tuple[Loss, int]] = []

    def add(self, loss: Loss, count: int) -> None:
        """Take in the loss of one step on count images, of all ranks together."""
        self.unread.append((loss, count))
        self.steps += 1
        self.images += count

    def read(self, epoch: int) -> None:
        """Bring the sums up to date. Raises RunStopped, naming the step, if one was not finite."""
        if not self.unread:
            return
        unread = torch.stack([torch.stack(loss) for loss, _ in self.unread])
        terms = self.ranks.mean(unread).cpu().double().numpy()
        for step, values in enumerate(terms, self.steps - len(terms) + 1):
            for name, value in zip(("recon", "kl"), values[1:3], strict=True):
                if not math.isfinite(value):
                    raise RunStopped(f"{name} became {value} at epoch {epoch}, step {step}")
        self.sums += np.array([count for _, count in self.unread]) @ terms
        self.unread.clear()

    def means(self) -> Loss:
        """Return the terms read so far, in nats per image."""
        images = self.images - sum(count for _, count in self.unread)
        return Loss(*(self.sums / max(images, 1)).tolist())
