"""Compare the training speed of the loop that tutorials teach with ours, in images per second.

    python -m benchmarks.training --data data/celeba8k --image-size 64 --latent-dim 128

On a GPU, with as many random images as CelebA's training split has; --full also trains 50 epochs:

    python -m benchmarks.training --random-images 162770 --image-size 128 --latent-dim 200 \
        --steps 200 --workers 8 --full --epochs 50

"reference" and "classic" train the same network with the same loss and 128 images per step;
"calibrated" and "sharp" (the default) take 64 images per step. Of "sharp" only the VAE is trained.
The loops take turns; loading is part of every figure.
"""

import argparse
import contextlib
import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import CenterCrop, Compose, RandomHorizontalFlip, Resize, ToTensor

from config import RECIPES, TrainConfig
from vae.checkpoint import save_checkpoint
from vae.data.celeba import find_faces
from vae.data.decoding import crop_box
from vae.data.faces import PackedFaces, load_faces
from vae.data.packing import usable_cores
from vae.device import pick_compile, pick_device, pick_precision, prepare_backend
from vae.errors import StopSignal, UserError, script
from vae.models.build import build
from vae.models.vae import VAE
from vae.training.phases import VAETrainer
from vae.training.schedule import epoch_order
from vae.training.trainer import READ_EVERY_STEPS


@script
def main(argv: Sequence[str] | None = None) -> None:
    """Time the loops in turns; print medians and ratios, with the range of the rounds."""
    args = parse_arguments(argv)
    if args.random_images:
        faces = random_faces(args.random_images, args.image_size)
    else:
        faces = load_faces(args.data, args.image_size, "data/cache")
    gpu = torch.cuda.get_device_name(args.device) if args.device.type == "cuda" else "no GPU"
    print(f"{usable_cores()} cores, {gpu}, torch {torch.__version__}\n{args}")
    if args.full:
        print_full(Ours(args, faces, "classic").trainer, args.epochs)
    loops = {
        "reference": Reference(args, faces),
        "classic": Ours(args, faces, "classic"),
        "calibrated": Ours(args, faces, "calibrated"),
        "sharp": Ours(args, faces, "sharp"),
    }
    rates: dict[str, list[float]] = {name: [] for name in loops}
    for turn in range(args.rounds):
        for name in reversed(loops) if turn % 2 else loops:
            rates[name].append(images_per_second(loops[name], args.warm_up, args.steps))
            print(f"round {turn + 1}, {name}: {rates[name][-1]:,.0f} images/s")
    for name, values in rates.items():
        print_median(f"{name}, images/s", values, digits=0)
    for above, below in (("classic", "reference"), ("calibrated", "classic"), ("sharp", "classic")):
        ratios = [a / b for a, b in zip(rates[above], rates[below], strict=True)]
        print_median(f"{above} / {below}", ratios, digits=2)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return what is trained, on what and for how long; "auto" is resolved."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    add = parser.add_argument
    add("--data", default="data/celeba8k", help="CelebA or another folder of pictures")
    add("--random-images", type=int, metavar="N", help="train on N random images instead")
    add("--image-size", type=int, default=64, help="side in pixels")
    add("--latent-dim", type=int, default=128, help="dimensions of the latent code")
    add("--steps", type=int, default=30, help="timed steps per turn")
    add("--warm-up", type=int, default=5, help="untimed steps before them")
    add("--rounds", type=int, default=5, help="turns of each loop")
    add("--workers", type=int, default=2, help="loading processes of the reference")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    add("--precision", default="auto", choices=["auto", "fp32", "bf16"], help="of our loops")
    add("--compile", default="auto", choices=["auto", "on", "off"], help="of our loops")
    add("--full", action="store_true", help="first train the recipe classic for --epochs")
    add("--epochs", type=int, default=50, help="epochs of --full")
    args = parser.parse_args(argv)
    args.device = pick_device(args.device)
    args.precision = pick_precision(args.device, args.precision)
    args.compile = pick_compile(args.device, args.compile)
    return args


def random_faces(count: int, image_size: int) -> PackedFaces:
    """Return count random images for training, and an eighth as many for validation."""
    splits = np.repeat([0, 1], [count, max(1, count // 8)]).astype(np.uint8)
    shape = (len(splits), image_size, image_size, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    names = tuple(map(str, range(len(splits))))
    return PackedFaces(pixels, names, splits, None, "frame", Path("random.npy"))


def new_model(args: argparse.Namespace, architecture: str = "listed") -> VAE:
    """Return a new network; loops of one architecture start from the same weights."""
    arch = {"architecture": architecture, "image_size": args.image_size}
    arch |= {"channels": TrainConfig().channels, "latent_dim": args.latent_dim}
    torch.manual_seed(0)
    return build(arch)


class Pictures(Dataset):
    """Picture files, or the pixels (N, S, S, 3) of pictures, transformed one by one."""

    def __init__(self, sources: Sequence[str] | np.ndarray, transform: Callable) -> None:
        self.sources, self.transform = sources, transform

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, index: int) -> Tensor:
        source = self.sources[index]
        opened = Image.open(source) if isinstance(source, str) else Image.fromarray(source)
        with opened as picture:
            return self.transform(picture.convert("RGB"))


def training_pictures(args: argparse.Namespace, faces: PackedFaces) -> Pictures:
    """Return the training split, as files or, if random, pixels. Raises UserError for a zip."""
    rows, side = faces.rows("train"), args.image_size
    sources: Sequence[str] | np.ndarray = faces.pixels[: len(rows)]
    if not args.random_images:
        folder = find_faces(Path(args.data)).source
        if not folder.is_dir():
            raise UserError(f"{args.data} is a zip: the reference loop needs a folder of pictures")
        sources = [str(folder / faces.names[row]) for row in rows]
        with Image.open(sources[0]) as picture:
            left, _, right, _ = crop_box(*picture.size, faces.crop)
        side = right - left
    steps = [CenterCrop(side), Resize(args.image_size), ToTensor(), RandomHorizontalFlip()]
    return Pictures(sources, Compose(steps))


class Reference:
    """The usual loop: JPEGs opened by DataLoader workers, float32, NCHW, unfused Adam."""

    def __init__(self, args: argparse.Namespace, faces: PackedFaces) -> None:
        self.model, self.device = new_model(args).to(args.device), args.device
        self.optimizer = torch.optim.Adam(self.model.parameters(), 1e-3, foreach=False)
        pictures, pin = training_pictures(args, faces), args.device.type == "cuda"
        self.loader = DataLoader(
            pictures, 128, shuffle=True, num_workers=args.workers, pin_memory=pin
        )

    def batches(self) -> Iterator[Tensor]:
        """Yield batches (B, 3, S, S) on the device without end, under torch's own settings."""
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.deterministic = False
        while True:
            for x in self.loader:
                yield x.to(self.device)

    def step(self, x: Tensor) -> list[float]:
        """Take a training step on x; return its total, recon and kl in nats per image."""
        x_hat, mu, logvar = self.model(x)
        recon = nn.functional.mse_loss(x_hat, x, reduction="sum") / len(x)
        kl = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp()) / len(x)
        total = recon + kl
        self.optimizer.zero_grad()
        total.backward()
        self.optimizer.step()
        return [total.item(), recon.item(), kl.item()]


class Ours:
    """The trainer's batches and steps: packed pixels, NHWC, fused Adam."""

    def __init__(self, args: argparse.Namespace, faces: PackedFaces, recipe: str) -> None:
        config, self.device = TrainConfig(recipe=recipe, **RECIPES[recipe]), args.device
        options = {"precision": args.precision, "compile": args.compile}
        model = new_model(args, config.architecture)
        self.trainer = VAETrainer(model, faces, config, args.device, **options)

    def batches(self) -> Iterator[Tensor]:
        """Yield batches (B, 3, S, S) on the device without end, under train.py's settings."""
        prepare_backend(self.device)
        config, rows = self.trainer.config, self.trainer.faces.rows("train")
        for epoch in itertools.count(1):
            order = epoch_order(rows, config.seed, epoch, config.flip)
            yield from self.trainer.training_batches(*order)

    def step(self, x: Tensor) -> Tensor:
        """Take a training step on x; return its total, recon and kl in nats per image."""
        terms = self.trainer.step(x)[:3]
        # waits for the device as seldom as training does
        return terms if self.trainer.steps % READ_EVERY_STEPS else terms.cpu()


def images_per_second(loop: Reference | Ours, warm_up: int, steps: int) -> float:
    """Return the speed of some steps after warm-up, loading included."""
    images = 0
    # closing: one loop must not load while another is timed
    with contextlib.closing(loop.batches()) as batches:
        for x in itertools.islice(batches, warm_up):
            loop.step(x)
        start = now(loop.device)
        for x in itertools.islice(batches, steps):
            loop.step(x)
            images += len(x)
        return images / (now(loop.device) - start)


def now(device: torch.device) -> float:
    """Return the time in seconds, after the device has finished its work."""
    if device.type != "cpu":
        torch.get_device_module(device).synchronize()
    return time.perf_counter()


def print_full(trainer: VAETrainer, epochs: int) -> None:
    """Train for an epoch that compiles, then for epochs more; print the seconds of each part."""
    prepare_backend(trainer.device)
    with StopSignal() as stop:
        for _ in range(1 + epochs):
            trainer.run_epoch(stop)
    first, *rows = trainer.history
    training = sum(trainer.images_per_epoch / row["images_per_second"] for row in rows)
    validation = sum(row["seconds"] for row in rows) - training
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(trainer.checkpoint({}), Path(folder, "last.pt"))
    saving = time.perf_counter() - start
    print(f"first epoch, which compiles: {first['seconds']:.2f} s; one checkpoint: {saving:.2f} s")
    print(f"{epochs} epochs more: training {training:.2f} s, validation {validation:.2f} s")


def print_median(label: str, values: Sequence[float], digits: int) -> None:
    """Print the median of some values, and their range."""
    median, low, high = (f"{f(values):,.{digits}f}" for f in (np.median, min, max))
    print(f"{label:24}{median:>8} ({low} to {high})")


if __name__ == "__main__":
    sys.exit(main())
