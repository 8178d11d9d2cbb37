"""The listed network beside a linear skip that starts at PCA.

B batch, S image side in pixels, P = 3 * S * S values an image, D latent dimensions.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vae.models.pca import PCA
from vae.models.vae import VAE


class SkipVAE(VAE):
    """VAE whose layers add to a linear autoencoder: mu = A (x - m) + ..., x_hat = m + B z + ....

    decode is not clamped: its values are the likelihood's mean.
    """

    def __init__(self, image_size: int, channels: Sequence[int], latent_dim: int) -> None:
        super().__init__(image_size, channels, latent_dim)
        self.arch["architecture"] = "skip"
        values = 3 * image_size**2
        self.skip_encode = nn.Linear(values, latent_dim)
        self.skip_decode = nn.Linear(latent_dim, values)
        self.decoder[-1] = nn.Identity()

    # fmt: off
    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the posterior's mean and log variance, mu and logvar, of images x in [0, 1]."""
        mu, logvar = super().encode(x)
        with torch.autocast(x.device.type, enabled=False):
            skip = self.skip_encode(x.flatten(1))    # (B, D)
        return mu + skip, logvar                     # (B, D), (B, D)

    def decode(self, z: Tensor) -> Tensor:
        """Return the images that the codes z decode to, about [0, 1]."""
        x_hat = super().decode(z)                    # (B, 3, S, S)
        with torch.autocast(z.device.type, enabled=False):
            skip = self.skip_decode(z)               # (B, P)
        return x_hat + skip.view_as(x_hat)           # (B, 3, S, S)
    # fmt: on

    @torch.no_grad()
    def start_at(self, pca: PCA) -> None:
        """Make the network the probabilistic PCA: its layers give zero, the skip is PCA's."""
        for layer in (self.fc_mu, self.fc_logvar, self.decoder[-2]):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.fc_logvar.bias.copy_(pca.posterior_variance.log())
        self.skip_encode.weight.copy_(pca.encoder)
        self.skip_encode.bias.copy_(-pca.encoder @ pca.mean)
        self.skip_decode.weight.copy_(pca.decoder)
        self.skip_decode.bias.copy_(pca.mean)
