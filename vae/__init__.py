"""A convolutional variational autoencoder for faces.

The data's way:

    img_align_celeba/000001.jpg ...   178 x 218 RGB
       data.celeba.find_faces         which files, which attributes, which split
       data.packing.pack              square crop, resize -> uint8 .npy, written once
       data.batches.batches           gather -> device -> /255 -> flip
    x            (B, 3, S, S)         in [0, 1]
       VAE.encode                     convolutions -> flatten -> two linear heads
    mu, logvar   (B, D)
       VAE.reparameterize             z = mu + std * eps
    z            (B, D)
       VAE.decode                     linear -> transposed convolutions -> sigmoid
    x_hat        (B, 3, S, S)         in [0, 1]
       training.loss.vae_loss         total = recon + beta * kl, nats per image
    runs/<name>/last.pt               to continue: weights, average, optimizer, statistics
    runs/<name>/best.pt               to use: weights, latent statistics
       run.open_run                   the only door for generate, manipulate and evaluate
"""

from vae.models.vae import VAE
from vae.run import open_run

__all__ = ["VAE", "open_run"]
