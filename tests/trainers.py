"""Small trainers on random faces, for the tests of several folders."""

import numpy as np
import torch

from config import RECIPES, TrainConfig
from vae.data.faces import PackedFaces
from vae.errors import StopSignal
from vae.models.refiner import Refiner
from vae.models.vae import VAE
from vae.training.phases import RefinerTrainer, VAETrainer

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
    return PackedFaces(pixels, names, splits, None, "frame", None)


def make_config(**settings):
    """Return the settings of the recipe classic, made small, with these differences."""
    return TrainConfig(**CLASSIC | settings)


def make_model():
    """Return a small model of images of 32 pixels."""
    return VAE(32, (4, 6), 5)


def make_trainer(faces, make_model=make_model, device=CPU, **settings):
    """Return a trainer of a model whose first weights follow from the seed.

    settings are fields of TrainConfig, or keyword arguments of Trainer.
    """
    arguments = {name: settings.pop(name) for name in ("compile", "ranks") if name in settings}
    precision = settings.get("precision", "fp32")
    config = make_config(**settings)
    torch.manual_seed(config.seed)
    return VAETrainer(make_model(), faces, config, device, precision=precision, **arguments)


def make_vae():
    """Return a small VAE, and a checkpoint of it."""
    trainer = make_trainer(make_faces(), seed=3)
    trainer.run_epoch(StopSignal())
    return trainer.model.eval(), trainer.checkpoint({"seed": 3})


def make_refiner_trainer(vae, checkpoint, noise=0.25, residual=0.2, device=CPU, **settings):
    """Return the trainer of a refiner whose first weights follow from the seed."""
    config = make_config(**{"refiner_epochs": 3, "refiner_batch_size": 8, **settings})
    torch.manual_seed(config.seed)
    refiner = Refiner(32, (8, 8), noise, residual)
    precision = settings.get("precision", "fp32")
    vae = vae.to(device)
    return RefinerTrainer(
        checkpoint, vae, refiner, make_faces(), config, device, precision=precision
    )


def without_noise(model):
    """Return model with a posterior so narrow that its samples are its means, up to 1e-13."""
    with torch.no_grad():
        model.fc_logvar.weight.zero_()
        model.fc_logvar.bias.fill_(-60.0)
    return model
