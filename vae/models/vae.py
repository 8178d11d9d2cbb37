"""The network: a convolutional encoder, two linear heads, and a transposed-convolution decoder.

B batch, S image side in pixels, C channels of the last convolution, s = S / 2^stages, D latent
dimensions. Images are (B, 3, S, S) in [0, 1].
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class VAE(nn.Module):
    """Variational autoencoder with a diagonal Gaussian posterior (Kingma & Welling, 2014).

    Each of the len(channels) convolutions halves the side, each transposed convolution doubles it.

    Raises ValueError if image_size is not a positive multiple of 2 ** len(channels).
    """

    def __init__(
        self,
        image_size: int = 128,
        channels: Sequence[int] = (32, 64, 128, 256),
        latent_dim: int = 200,
    ) -> None:
        super().__init__()
        if min(image_size, *channels) < 1 or image_size % 2 ** len(channels):
            multiple = 2 ** len(channels)
            raise ValueError(f"image_size must be a multiple of {multiple}, got {image_size}")
        self.arch = {
            "architecture": "listed",
            "image_size": image_size,
            "channels": list(channels),
            "latent_dim": latent_dim,
        }
        side = image_size // 2 ** len(channels)
        self.code_shape = (channels[-1], side, side)
        flat = channels[-1] * side * side

        self.encoder = make_encoder(channels)
        self.fc_mu = nn.Linear(flat, latent_dim)
        self.fc_logvar = nn.Linear(flat, latent_dim)
        self.fc_decode = nn.Linear(latent_dim, flat)
        self.decoder = make_decoder(channels)
        self.apply(initialize)

    # fmt: off
    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the posterior's mean and log variance, mu and logvar, of images x in [0, 1]."""
        h = self.encoder(x).flatten(1)               # (B, C * s * s)
        # float32: bfloat16 would round mu and logvar before the KL term
        with torch.autocast(h.device.type, enabled=False):
            h = h.to(self.fc_mu.weight.dtype)
            return self.fc_mu(h), self.fc_logvar(h)  # (B, D), (B, D)

    def reparameterize(self, mu: Tensor, logvar: Tensor) -> Tensor:
        """Draw z = mu + std * eps, differentiable in mu and logvar (Kingma & Welling, 2014)."""
        std = torch.exp(0.5 * logvar)                # (B, D)
        eps = torch.randn_like(std)                  # (B, D)
        return mu + std * eps

    def decode(self, z: Tensor) -> Tensor:
        """Return the images in [0, 1] that the codes z decode to."""
        h = self.fc_decode(z)                        # (B, C * s * s)
        h = h.unflatten(1, self.code_shape)          # (B, C, s, s)
        return self.decoder(h)                       # (B, 3, S, S)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruct x through a sampled code. Return x_hat, mu, logvar."""
        mu, logvar = self.encode(x)                  # (B, D), (B, D)
        z = self.reparameterize(mu, logvar)          # (B, D)
        return self.decode(z), mu, logvar            # (B, 3, S, S)
    # fmt: on


def make_encoder(channels: Sequence[int]) -> nn.Sequential:
    """Return the convolutions (B, 3, S, S) -> (B, C, s, s); batch norm after all but the last."""
    layers: list[nn.Module] = []
    widths = [3, *channels]
    for width_in, width_out in pairwise(widths):
        layers += [
            nn.Conv2d(width_in, width_out, kernel_size=4, stride=2, padding=1),
            nn.BatchNorm2d(width_out),
            nn.LeakyReLU(),
        ]
    del layers[-2]
    return nn.Sequential(*layers)


def make_decoder(channels: Sequence[int]) -> nn.Sequential:
    """Return the transposed convolutions (B, C, s, s) -> (B, 3, S, S), in [0, 1]."""
    layers: list[nn.Module] = []
    widths = [*reversed(channels), 3]
    for width_in, width_out in pairwise(widths):
        layers += [
            nn.ConvTranspose2d(width_in, width_out, kernel_size=4, stride=2, padding=1),
            nn.LeakyReLU(),
        ]
    layers[-1] = nn.Sigmoid()
    return nn.Sequential(*layers)


def initialize(layer: nn.Module) -> None:
    """Give a convolution or linear layer Xavier-uniform weights and zero biases."""
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)
