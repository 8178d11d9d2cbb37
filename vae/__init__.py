"""A convolutional variational autoencoder for faces.

The data's way:

    img_align_celeba/000001.jpg ...   178 x 218 RGB
       celeba.find_faces              which files, which of the 40 attributes, which split
       packing.pack                   square crop, resize -> uint8 .npy, written once
       loader.batches                 gather -> device -> /255 -> flip
    x            (B, 3, S, S)         in [0, 1]
       VAE.encode                     convolutions -> flatten -> two linear heads
    mu, logvar   (B, D)
       VAE.reparameterize             z = mu + std * eps
    z            (B, D)
       VAE.decode                     linear -> transposed convolutions -> sigmoid
    x_hat        (B, 3, S, S)         in [0, 1]
       loss.vae_loss                  total = recon + beta * kl, nats per image
    runs/<name>/last.pt, best.pt      weights, optimizer, config, latent statistics
       checkpoint.load_model          the only door for generate, manipulate and evaluate
"""

from vae.checkpoint import load_model
from vae.model import VAE

__all__ = ["VAE", "load_model"]
