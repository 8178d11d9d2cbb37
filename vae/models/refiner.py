"""The refiner: a small flow that gives a decoded face the texture that the VAE cannot code.

B batch, S image side, W the width of a level. Images are (B, 3, S, S) in [0, 1]: x is a real one,
x_hat what the VAE decodes.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional


class Refiner(nn.Module):
    """Velocity of the flow from x_hat + noise, at time 0, to x, at time 1; x_hat is a second input.

    Conditional flow matching (Lipman et al., 2023; Liu et al., 2023) with a U-Net (Ronneberger et
    al., 2015) on images of half the side and four times the channels; each level halves the side.
    noise and residual are the standard deviations of the noise and of x - x_hat.

    The input y - x_hat is scaled to unit variance. The output is the best linear estimate of the
    velocity plus a correction, which the network predicts at unit variance (after Karras et al.,
    2022, section 5).
    """

    def __init__(
        self, image_size: int, channels: Sequence[int], noise: float, residual: float
    ) -> None:
        super().__init__()
        self.arch = {
            "architecture": "refiner",
            "image_size": image_size,
            "channels": list(channels),
            "noise": noise,
            "residual": residual,
        }
        self.noise, self.residual = noise, residual
        first, last, time = channels[0], channels[-1], 4 * channels[0]
        self.time = nn.Sequential(
            nn.Linear(first, time), nn.SiLU(), nn.Linear(time, time), nn.SiLU()
        )
        self.first = nn.Conv2d(24, first, 3, padding=1)
        # faces are aligned: where a pixel lies says what it shows
        self.position = nn.Parameter(torch.zeros(1, first, image_size // 2, image_size // 2))
        self.down = nn.ModuleList(Block(width, width, time) for width in channels[:-1])
        self.downsample = nn.ModuleList(
            nn.Conv2d(wide, wider, 3, stride=2, padding=1) for wide, wider in pairwise(channels)
        )
        self.middle = nn.ModuleList([Block(last, last, time), Block(last, last, time)])
        self.upsample = nn.ModuleList(
            nn.Conv2d(wider, wide, 3, padding=1) for wide, wider in pairwise(channels)
        )
        self.up = nn.ModuleList(Block(2 * width, width, time) for width in channels[:-1])
        self.last = nn.Sequential(nn.GroupNorm(8, first), nn.SiLU(), nn.Conv2d(first, 12, 3, 1, 1))
        nn.init.zeros_(self.last[-1].weight)
        nn.init.zeros_(self.last[-1].bias)

    # fmt: off
    def forward(self, y: Tensor, x_hat: Tensor, time: Tensor) -> Tensor:
        """Return the velocity of y, (B, 3, S, S), at times (B,) in [0, 1]."""
        linear, scale, unit = self.coefficients(time)
        moved = y - x_hat
        h_time = self.time(embed_time(time, self.first.out_channels))  # (B, 4 W)
        h = torch.cat([unit * moved, 2 * x_hat - 1], 1)
        h = self.first(functional.pixel_unshuffle(h, 2))               # (B, W, S / 2, S / 2)
        h = h + self.position
        kept = []
        for block, downsample in zip(self.down, self.downsample, strict=True):
            h = block(h, h_time)
            kept.append(h)
            h = downsample(h)                                          # half the side, wider
        for block in self.middle:
            h = block(h, h_time)
        for block, upsample in zip(reversed(self.up), reversed(self.upsample), strict=True):
            h = upsample(functional.interpolate(h, scale_factor=2))
            h = block(torch.cat([h, kept.pop()], 1), h_time)
        return linear * moved + scale * functional.pixel_shuffle(self.last(h), 2)
    # fmt: on

    def coefficients(self, time: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return three factors at times (B,), each (B, 1, 1, 1), for Gaussian noise and residual.

        unit is 1 / the standard deviation of y - x_hat = (1 - t) noise + t residual. linear *
        (y - x_hat) is the expected velocity. scale is the standard deviation of the velocity
        around it.
        """
        t = time[:, None, None, None]
        noise, residual = self.noise**2, self.residual**2
        unit = (noise * (1 - t).square() + residual * t.square()).rsqrt()
        linear = (residual * t - noise * (1 - t)) * unit.square()
        return linear, self.noise * self.residual * unit, unit


class Block(nn.Module):
    """Residual block of two convolutions, which time scales and shifts."""

    def __init__(self, width_in: int, width: int, time: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, width_in), nn.GroupNorm(8, width)
        self.convolution1 = nn.Conv2d(width_in, width, 3, padding=1)
        self.convolution2 = nn.Conv2d(width, width, 3, padding=1)
        self.time = nn.Linear(time, 2 * width)
        self.skip = nn.Identity() if width_in == width else nn.Conv2d(width_in, width, 1)
        nn.init.zeros_(self.convolution2.weight)

    def forward(self, h: Tensor, h_time: Tensor) -> Tensor:
        """Return h (B, width_in, side, side) changed, with `width` channels."""
        scale, shift = self.time(h_time)[:, :, None, None].chunk(2, 1)
        inner = self.convolution1(functional.silu(self.norm1(h)))
        inner = self.norm2(inner) * (1 + scale) + shift
        return self.skip(h) + self.convolution2(functional.silu(inner))


def embed_time(time: Tensor, width: int) -> Tensor:
    """Return sines and cosines of times (B,) in [0, 1] at geometric frequencies, (B, width)."""
    rates = 10.0 ** torch.linspace(0, 3, width // 2, device=time.device)
    angles = time[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], 1)


@torch.no_grad()
def refine(refiner: Refiner, x_hat: Tensor, noise: Tensor, steps: int, strength: float) -> Tensor:
    """Return decoded images x_hat moved towards their refined ones, in [0, 1]; on their device.

    noise is standard normal, of x_hat's shape. `steps` Euler steps follow the flow; with 0 steps
    x_hat comes back. strength a gives x_hat + a * (refined - x_hat): squared error is least at 0,
    the distribution closest at 1 (Freirich et al., 2021).
    """
    if steps == 0:
        return x_hat
    y = x_hat + refiner.noise * noise
    for step in range(steps):
        time = torch.full((len(y),), step / steps, device=y.device)
        y = y + refiner(y, x_hat, time) / steps
    return (x_hat + strength * (y - x_hat)).clamp(0, 1)


def flow_loss(
    network: nn.Module, scale: Tensor, x: Tensor, x_hat: Tensor, noise: Tensor, time: Tensor
) -> Tensor:
    """Return the mean squared error of the velocity of each image, (B,), at times (B,).

    A path is a straight line from x_hat + noise to x: its velocity is their difference (Liu et al.,
    2023, equation 1). scale is the one of Refiner.coefficients: at every time the best linear
    estimate has loss 1.
    """
    start = x_hat + noise
    t = time[:, None, None, None]
    velocity = network((1 - t) * start + t * x, x_hat, time)
    return ((velocity - (x - start)) / scale).square().mean(dim=(1, 2, 3))
