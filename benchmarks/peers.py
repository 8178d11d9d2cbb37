"""Train pythae's models on the same faces for the same time; measure them as evaluate.py does.

    python -m benchmarks.peers runs/calibrated-0 --output peers.json --pictures pictures

pythae (Chadebec et al., 2022) trains its VAE, its RAE (RAE_L2: Ghosh et al., 2020) and its VAEGAN
(Larsen et al., 2016) by its own trainers, in float32 and without validation. Each trains as long
as the VAE of the run did, validation included. The encoder and decoder are those of
vae/models/vae.py, with the run's channels and latent dimension. make_trainer has what differs from
pythae's defaults.
"""

import argparse
import csv
import json
import logging
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from config import EvaluateConfig
from vae.errors import UserError, script
from vae.evaluation.distributions import compare, held_out_halves
from vae.evaluation.metrics import compare_images
from vae.evaluation.report import print_rows
from vae.files import require_writable, write_text
from vae.models.judge import look
from vae.models.vae import VAE
from vae.pictures.images import save_grid
from vae.run import Run, open_judge, open_run

MODELS = ("vae", "rae", "vaegan")
SAMPLERS = {"normal": "NormalSampler", "mixture": "GaussianMixtureSampler"}
LEARNING_RATE = 1e-3
"""Better for each model than pythae's default of 1e-4, in trials of one minute."""


@script
def main(argv: Sequence[str] | None = None) -> None:
    """Train and measure each model; print two tables, and write them as JSON."""
    args = parse_arguments(argv)
    run = open_run(args.run, data=args.data)
    seconds = training_seconds(run) if args.seconds is None else args.seconds
    judge = open_judge("judge", run, args.judges)
    halves = held_out_halves(run.faces, EvaluateConfig().samples)
    reference, real = (look(judge.model, run.images(rows, "looking"))[1] for rows in halves)
    images = torch.cat([x.cpu() for x in run.images(run.faces.rows("train"), "loading")])
    models, features, lines = {}, {"real": compare(real, reference)}, []
    for name in args.models:
        network, model, progress = train(name, run.arch, images, seconds, args.seed)
        peer = replace(run, model=network)
        models[name] = progress | measure_reconstructions(peer)
        sets = {"reconstructions": reconstruct(peer, halves[1])}
        for sampler in SAMPLERS:
            sets[sampler] = draw(sampler, model, images, len(halves[1]), args.seed)
        for kind, x in sets.items():
            features[f"{name}, {kind}"] = compare(look(judge.model, x.split(128))[1], reference)
            if args.pictures:
                path = Path(args.pictures, f"{name}-{kind}.png")
                lines.append(save_grid(x[:24], path, columns=12))
    print_rows(models)
    print_rows(features)
    if args.output:
        protocol = vars(args) | {"seconds": seconds, "faces": run.faces.digest(), "arch": run.arch}
        protocol |= {"judge": str(judge.path), "pythae": version("pythae")}
        report = {"protocol": protocol, "models": models, "features_of_the_judge": features}
        lines.append(write_text(Path(args.output), json.dumps(report, indent=2) + "\n"))
    print(*lines, sep="\n")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return what is trained and measured; silence pythae. Raises UserError without pythae."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    add = parser.add_argument
    add("run", help="checkpoint file, run folder, or pretrained")
    add("--data", help="the run's data set, if it has moved")
    add("--judges", help="folder of train_judge.py; default: that of the run's data")
    add("--seconds", type=float, help="time to train each model; default: that of the run")
    add("--models", nargs="+", default=MODELS, choices=MODELS, help="default: all")
    add("--seed", type=int, default=0, help="seed of weights, order and noise")
    add("--output", help="JSON file to write")
    add("--pictures", help="folder for a picture of 24 images of each set")
    args = parser.parse_args(argv)
    if find_spec("pythae") is None:
        raise UserError("pythae is not installed: pip install pythae")
    for path in (args.output, args.pictures and Path(args.pictures, "vae-normal.png")):
        if path:
            require_writable(Path(path))
    logging.disable(logging.WARNING)  # each of pythae's modules logs to the console
    return args


def training_seconds(run: Run) -> float:
    """Return the time of the run's epochs. Raises UserError if its metrics are not there."""
    path = run.path.with_name("metrics.csv")
    if not path.is_file():
        raise UserError(f"{path}, with the time of the run's epochs, is not there: pass --seconds")
    with open(path, newline="") as file:
        return sum(float(row["seconds"]) for row in csv.DictReader(file))


class TimedLoader:
    """Yield the batches of pythae's loader until the time is over; count their images."""

    def __init__(self, loader: Any, seconds: float, label: str) -> None:
        self.loader, self.dataset, self.label = loader, loader.dataset, label
        self.images, self.end = 0, time.perf_counter() + seconds

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        for batch in tqdm(self.loader, self.label, unit="step", leave=False, disable=None):
            if time.perf_counter() >= self.end:
                return
            self.images += len(batch["data"])
            yield batch


def train(
    name: str, arch: Mapping[str, Any], images: Tensor, seconds: float, seed: int
) -> tuple[VAE, Any, dict[str, float]]:
    """Return the trained layers, pythae's model of them, and how long it was trained.

    images (N, 3, S, S) are the training faces; arch describes the run's model.
    """
    torch.manual_seed(seed)
    network = VAE(**{key: arch[key] for key in ("image_size", "channels", "latent_dim")})
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(name, network, images, folder, seed)
        trainer.prepare_training()
    trainer.callback_handler.callbacks = []  # they are progress bars
    start, loader = time.perf_counter(), TimedLoader(trainer.train_loader, seconds, name)
    trainer.train_loader = loader
    while time.perf_counter() < loader.end:
        trainer.train_step(epoch=1)  # an epoch; these models do not use its number
    progress = {"seconds": time.perf_counter() - start, "images": loader.images}
    return network, trainer.model, progress | {"epochs": loader.images / len(images)}


def make_trainer(name: str, network: VAE, images: Tensor, folder: str, seed: int) -> Any:
    """Return the trainer that pythae's TrainingPipeline chooses, with a model of our layers."""
    from pythae import models, trainers
    from pythae.data.datasets import BaseDataset

    side, layers = network.arch["image_size"], wrap(network)
    shape = {"input_dim": (3, side, side), "latent_dim": network.arch["latent_dim"]}
    common = {"output_dir": folder, "seed": seed}
    rates = dict.fromkeys(("encoder_learning_rate", "decoder_learning_rate"), LEARNING_RATE)
    if name == "vae":
        model = models.VAE(models.VAEConfig(**shape), *layers)
        config = trainers.BaseTrainerConfig(learning_rate=LEARNING_RATE, **common)
        trainer = trainers.BaseTrainer
    elif name == "rae":
        model = models.RAE_L2(models.RAE_L2_Config(**shape), *layers)
        decay = {"weight_decay": model.model_config.reg_weight}
        config = trainers.CoupledOptimizerTrainerConfig(
            decoder_optimizer_params=decay, **rates, **common
        )
        trainer = trainers.CoupledOptimizerTrainer
    else:
        # As in pythae's example for CelebA. By default the error is measured on the
        # discriminator's output, a probability, which says almost nothing about the image.
        shape["reconstruction_layer"] = len(network.arch["channels"]) - 1
        settings = models.VAEGANConfig(adversarial_loss_scale=0.1, **shape)
        model = models.VAEGAN(settings, *layers, make_discriminator(network))
        config = trainers.CoupledOptimizerAdversarialTrainerConfig(
            discriminator_learning_rate=LEARNING_RATE, **rates, **common
        )
        trainer = trainers.CoupledOptimizerAdversarialTrainer
    return trainer(model, BaseDataset(images, torch.zeros(len(images))), training_config=config)


def make_discriminator(network: VAE) -> nn.Module:
    """Return a discriminator with the widths of the network's encoder.

    pythae's own for CelebA, with widths of 128 to 1,024, needs 15 seconds per step on one core.
    """
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDiscriminator

    widths, side = network.arch["channels"], network.arch["image_size"]
    layers: list[nn.Module] = [
        nn.Sequential(nn.Conv2d(one, other, 4, 2, 1), nn.BatchNorm2d(other), nn.ReLU())
        for one, other in pairwise((3, *widths))
    ]
    values = widths[-1] * (side // 2 ** len(widths)) ** 2
    layers.append(nn.Sequential(nn.Flatten(), nn.Linear(values, 1), nn.Sigmoid()))

    class Discriminator(BaseDiscriminator):
        def forward(self, x: Tensor, output_layer_levels: object = None) -> ModelOutput:
            levels = ModelOutput()
            for level, layer in enumerate(self.layers, 1):
                x = levels[f"embedding_layer_{level}"] = layer(x)
            levels["embedding"] = x
            return levels

    discriminator = Discriminator()
    discriminator.layers, discriminator.depth = nn.ModuleList(layers), len(layers)
    return discriminator


def wrap(network: VAE) -> tuple[nn.Module, nn.Module]:
    """Return the network's layers as the encoder and the decoder that pythae takes."""
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    class Encoder(BaseEncoder):
        def forward(self, x: Tensor) -> ModelOutput:
            mu, logvar = network.encode(x)
            return ModelOutput(embedding=mu, log_covariance=logvar)

    class Decoder(BaseDecoder):
        def forward(self, z: Tensor) -> ModelOutput:
            return ModelOutput(reconstruction=network.decode(z))

    encoder, decoder = Encoder(), Decoder()
    encoder.layers = nn.ModuleList([network.encoder, network.fc_mu, network.fc_logvar])
    decoder.layers = nn.ModuleList([network.fc_decode, network.decoder])
    return encoder, decoder


def reconstruct(run: Run, rows: np.ndarray) -> Tensor:
    """Return what the faces of these rows decode to from mu, (N, 3, S, S)."""
    return run.decode(run.encode(run.images(rows, "encoding"))[0])


def measure_reconstructions(run: Run) -> dict[str, float]:
    """Return the quality of the reconstructions of the test split."""
    rows = run.faces.rows("test")
    pairs = zip(reconstruct(run, rows).split(128), run.images(rows), strict=True)
    return compare_images((x_hat, x.cpu()) for x_hat, x in pairs)


@torch.no_grad()
def draw(name: str, model: Any, images: Tensor, count: int, seed: int) -> Tensor:
    """Return count samples by one of pythae's samplers, fitted to the training images."""
    from pythae import samplers
    from pythae.trainers.trainer_utils import set_seed

    set_seed(seed)
    sampler = getattr(samplers, SAMPLERS[name])(model)
    sampler.fit(images)
    return sampler.sample(count).cpu()


if __name__ == "__main__":
    sys.exit(main())
