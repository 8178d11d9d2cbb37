"""Small trainers on random faces, for the tests of several folders."""

import numpy as np
import torch

from config import RECIPES, TrainConfig
from vae.data.faces import PackedFaces
from vae.models.vae import VAE
from vae.training.trainer import Trainer

CPU = torch.device("cpu")

CLASSIC = RECIPES["classic"] | {
    "beta": 1.5,
    "epochs": 3,
    "batch_size": 8,
    "seed": 3,
    "image_size": 32,
    "channels": (4, 6),
}
MODERN = {
    "likelihood": "calibrated",
    "schedule": "one-cycle",
    "clip_norm": 100.0,
    "ema_decay": 0.8,
}


def make_faces(train=37, val=7, side=32):
    """Return random pixels: train faces, then val faces."""
    pixels = np.random.default_rng(0).integers(0, 256, (train + val, side, side, 3), np.uint8)
    splits = np.repeat([0, 1], [train, val]).astype(np.uint8)
    names = tuple(f"{index}.jpg" for index in range(train + val))
    return PackedFaces(pixels, names, splits, None, "largest", None)


def make_config(**settings):
    """Return the settings of the recipe classic, made small, with these differences."""
    return TrainConfig(**CLASSIC | settings)


def make_trainer(faces, device=CPU, model=None, precision="fp32", compile=False, **settings):
    """Return a trainer of a small model, whose weights follow from the seed."""
    config = make_config(**settings)
    torch.manual_seed(config.seed)
    model = model or VAE(32, (4, 6), 5)
    return Trainer(model, faces, config, device, precision=precision, compile=compile)


def without_noise(model):
    """Return model with a posterior so narrow that its samples are its means, up to 1e-13."""
    with torch.no_grad():
        model.fc_logvar.weight.zero_()
        model.fc_logvar.bias.fill_(-60.0)
    return model
