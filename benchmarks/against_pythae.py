"""Train one network with pythae's trainer and with ours, in turns, and compare images/s.

From the repository's root, where pythae is installed (pip install pythae):

    python -m benchmarks.against_pythae --data data/celeba8k --image-size 64 --latent-dim 128

Both train the same layers on the same unmirrored images with Adam. A turn is an epoch without its
validation; the first turn of each is not counted. pythae gets its images as its users give them,
decoded before and held in memory as float32, so no JPEG is in its figure. Its objective halves the
squared error, which costs nothing.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from benchmarks.loops import LEARNING_RATE, Ours
from benchmarks.measuring import (
    in_turns,
    machine,
    now,
    positive,
    print_machine,
    print_spread,
    ratios,
    spread,
)
from vae.device import pick_device
from vae.errors import UserError, script
from vae.images import to_float
from vae.loader import PackedFaces, load_faces
from vae.model import VAE


@script
def main(argv: Sequence[str] | None = None) -> None:
    """Time epochs of both in turns; print a table and a line of JSON."""
    args = parse_arguments(argv)
    if find_spec("pythae") is None:
        raise UserError("pythae is not installed: pip install pythae")
    device = pick_device(args.device)
    faces = load_faces(args.data, args.image_size, args.cache_dir, max_images=args.max_images)
    with tempfile.TemporaryDirectory() as folder:
        theirs = make_pythae_trainer(args, faces, device, folder)
        ours = Ours(args, faces, device, flip=False)
        measures = {
            "pythae": lambda: pythae_epoch(theirs, device),
            "ours": lambda: our_epoch(ours),
        }
        rates = {name: rounds[1:] for name, rounds in in_turns(measures, args.rounds + 1).items()}
    figures = summary(args, ours, rates)
    print_table(figures)
    print(json.dumps(figures))


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return what is trained, for how long and on what."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    add = parser.add_argument
    add("--data", default="data/celeba8k", help="CelebA or another folder of pictures")
    add("--cache-dir", default="data/cache", help="where the packed array is kept")
    add("--max-images", type=positive, help="use at most this many, evenly over the folder")
    add("--image-size", type=positive, default=64, help="side in pixels")
    add("--latent-dim", type=positive, default=128, help="latent dimensions")
    add("--batch-size", type=positive, default=128, help="images a step")
    add("--rounds", type=positive, default=3, help="counted turns of each")
    add("--device", default="auto", choices=["auto", "cpu", "cuda"], help="of both")
    add("--precision", default="auto", choices=["auto", "fp32", "bf16"], help="of ours")
    add("--compile", default="auto", choices=["auto", "on", "off"], help="of ours")
    return parser.parse_args(argv)


def make_pythae_trainer(
    args: argparse.Namespace, faces: PackedFaces, device: torch.device, folder: str
) -> Any:
    """Return pythae's trainer, prepared, for our layers on the training images."""
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE as PythaeVAE
    from pythae.models import VAEConfig
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    torch.manual_seed(0)
    encoder, decoder = wrap(VAE(args.image_size, latent_dim=args.latent_dim))
    config = VAEConfig((3, args.image_size, args.image_size), args.latent_dim)
    rows = faces.rows("train")
    images = to_float(torch.from_numpy(faces.pixels[rows])).contiguous()
    settings = BaseTrainerConfig(
        output_dir=folder,
        per_device_train_batch_size=args.batch_size,
        learning_rate=LEARNING_RATE,
        no_cuda=device.type != "cuda",
    )
    dataset = BaseDataset(images, torch.zeros(len(images)))
    trainer = BaseTrainer(PythaeVAE(config, encoder, decoder), dataset, training_config=settings)
    trainer.prepare_training()
    return trainer


def wrap(model: VAE) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Return the model's layers as the encoder and the decoder that pythae takes."""
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.layers, self.fc_mu, self.fc_logvar = model.encoder, model.fc_mu, model.fc_logvar

        def forward(self, x: Tensor) -> ModelOutput:
            h = self.layers(x).flatten(1)
            return ModelOutput(embedding=self.fc_mu(h), log_covariance=self.fc_logvar(h))

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.fc_decode, self.layers = model.fc_decode, model.decoder

        def forward(self, z: Tensor) -> ModelOutput:
            h = self.fc_decode(z).unflatten(1, model.code_shape)
            return ModelOutput(reconstruction=self.layers(h))

    return Encoder(), Decoder()


def pythae_epoch(trainer: Any, device: torch.device) -> float:
    """Return the images/s of an epoch of pythae's own steps."""
    start = now(device)
    trainer.train_step(epoch=1)
    return len(trainer.train_dataset) / (now(device) - start)


def our_epoch(ours: Ours) -> float:
    """Return the images/s of an epoch of our own steps."""
    start = now(ours.device)
    for x in ours.epoch(1):
        ours.step(x)
    return len(ours.rows) / (now(ours.device) - start)


def summary(args: argparse.Namespace, ours: Ours, rates: dict[str, list[float]]) -> dict[str, Any]:
    """Return all figures with what they were measured on; rates are images/s by round."""
    return {
        "benchmark": "against_pythae",
        "machine": {**machine(ours.device), "pythae": version("pythae")},
        "settings": vars(args),
        "precision": ours.trainer.precision,
        "count": len(ours.rows),
        "rates": rates,
        "ratio": spread(ratios(rates["ours"], rates["pythae"])),
    }


def print_table(figures: dict[str, Any]) -> None:
    """Print the figures for people to read."""
    print_machine(figures["machine"])
    print("{count} images an epoch; pythae in fp32, ours in {precision}".format(**figures))
    for name, rates in figures["rates"].items():
        print_spread(name, spread(rates), "images/s", digits=0)
    print_spread("ours / pythae", figures["ratio"])


if __name__ == "__main__":
    sys.exit(main())
