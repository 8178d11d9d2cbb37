"""Train one network with the field's usual loop and with ours, in turns, and compare images/s.

From the repository's root:

    python -m benchmarks.training --data data/celeba8k --image-size 64 --latent-dim 128

On a GPU, at CelebA's size and with random pixels, the 50 epochs really run at the end:

    python -m benchmarks.training --random-images 162770 --image-size 128 --latent-dim 200 \
        --steps 200 --workers 8 --full --epochs 50

The reference opens each JPEG with Pillow in the workers of a DataLoader and steps in float32,
contiguous, with unfused Adam and the loss read every step. Random pixels are nowhere a JPEG: it
then takes them from memory. Loading is in every figure; of the parts, load is the wait for it.
"""

import argparse
import contextlib
import itertools
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from vae.celeba import find_faces
from vae.checkpoint import Checkpoint, save_checkpoint
from vae.device import pick_compile, pick_device, pick_precision
from vae.errors import UserError, script
from vae.images import crop_box
from vae.loader import PackedFaces, load_faces
from vae.loss import Loss
from vae.model import VAE
from vae.training import READ_EVERY_STEPS, RunningLoss, StopSignal, Trainer, epoch_order
from vae.workers import usable_cores

LEARNING_RATE = 1e-3


@script
def main(argv: Sequence[str] | None = None) -> None:
    """Time both loops in turns, then their parts; print a table and a line of JSON."""
    args = parse_arguments(argv)
    device = pick_device(args.device)
    with contextlib.ExitStack() as stack:
        if args.random_images:
            faces = stack.enter_context(random_faces(args.random_images, args.image_size))
        else:
            faces = load_faces(args.data, args.image_size, args.cache_dir)
        root = None if args.random_images else Path(args.data)
        pictures = training_pictures(faces, root, args.image_size)
        loops = {"reference": Reference(args, pictures, device), "ours": Ours(args, faces, device)}
        rates = in_turns(
            {
                name: lambda loop=loop: throughput(loop, args.warm_up, args.steps)
                for name, loop in loops.items()
            },
            args.rounds,
        )
        parts = {name: dissect(loop, args.warm_up, args.steps) for name, loop in loops.items()}
        figures = summary(args, loops["ours"], rates, parts)
        if args.full:
            figures["full"] = run_fully(loops["ours"].trainer, args.epochs)
    print_table(figures)
    print(json.dumps(figures))


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return what is trained, for how long and on what."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    add = parser.add_argument
    add("--data", default="data/celeba8k", help="CelebA or another folder of pictures")
    add("--random-images", type=positive, metavar="N", help="train on N random images instead")
    add("--cache-dir", default="data/cache", help="where the packed array is kept")
    add("--image-size", type=positive, default=64, help="side in pixels")
    add("--latent-dim", type=positive, default=128, help="latent dimensions")
    add("--batch-size", type=positive, default=128, help="images a step")
    add("--steps", type=positive, default=30, help="timed steps a round")
    add("--warm-up", type=positive, default=5, help="untimed steps before them")
    add("--rounds", type=positive, default=5, help="turns of each loop")
    add("--workers", type=int, default=2, help="loading processes of the reference")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    add("--precision", default="auto", choices=["auto", "fp32", "bf16"], help="of ours")
    add("--compile", default="auto", choices=["auto", "on", "off"], help="of ours")
    add("--epochs", type=positive, default=50, help="epochs to predict the time of")
    add("--full", action="store_true", help="run ours for these epochs as well")
    return parser.parse_args(argv)


class Pictures(Dataset):
    """Picture files, or pixels (N, S, S, 3) to be made pictures, opened and transformed singly."""

    def __init__(self, sources: Sequence[str] | np.ndarray, transform: Callable) -> None:
        self.sources, self.transform = sources, transform

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, index: int) -> Tensor:
        source = self.sources[index]
        opened = Image.open(source) if isinstance(source, str) else Image.fromarray(source)
        with opened as picture:
            return self.transform(picture.convert("RGB"))


def training_pictures(faces: PackedFaces, root: Path | None, image_size: int) -> Pictures:
    """Return the training pictures under root as a tutorial reads them; without root, in memory.

    Raises UserError if they lie in a zip.
    """
    sources: Sequence[str] | np.ndarray = faces.pixels[: len(faces.rows("train"))]
    side = image_size
    if root:
        folder = find_faces(root).source
        if folder.is_file():
            raise UserError(f"{folder} is a zip: the reference loop reads a folder of pictures")
        sources = [str(folder / faces.names[row]) for row in faces.rows("train")]
        with Image.open(sources[0]) as picture:
            left, _, right, _ = crop_box(*picture.size, faces.crop)
        side = right - left
    resize = [transforms.Resize(image_size)] if side != image_size else []
    cut = [transforms.CenterCrop(side), *resize, transforms.ToTensor()]
    return Pictures(sources, transforms.Compose([*cut, transforms.RandomHorizontalFlip()]))


@contextlib.contextmanager
def random_faces(count: int, image_size: int) -> Iterator[PackedFaces]:
    """Yield count random images for training, and an eighth of it for validation, on disk."""
    splits = np.repeat([0, 1], [count, max(1, count // 8)]).astype(np.uint8)
    shape = (len(splits), image_size, image_size, 3)
    names = tuple(f"{index}.jpg" for index in range(len(splits)))
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "random.npy")
        pixels = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
        for start in range(0, len(pixels), 1024):
            part = pixels[start : start + 1024]
            part[:] = rng.integers(0, 256, part.shape, np.uint8)
        pixels.flush()
        yield PackedFaces(np.load(path, mmap_mode="r"), names, splits, None, "largest", path)


class Reference:
    """The field's usual loop: DataLoader, float32, contiguous, plain Adam, item() every step."""

    def __init__(self, args: argparse.Namespace, pictures: Dataset, device: torch.device) -> None:
        torch.manual_seed(0)
        self.model = VAE(args.image_size, latent_dim=args.latent_dim).to(device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), LEARNING_RATE, foreach=False)
        self.device, self.read = device, np.zeros(3)
        self.loader = DataLoader(
            pictures,
            args.batch_size,
            shuffle=True,
            num_workers=args.workers,
            pin_memory=device.type == "cuda",
        )

    def batches(self) -> Iterator[Tensor]:
        """Yield batches on the device without end."""
        while True:
            for x in self.loader:
                yield x.to(self.device)

    def step(self, x: Tensor) -> None:
        """Take a training step and read its loss."""
        loss = self.loss(x)
        self.optimizer.zero_grad()
        loss.total.backward()
        self.optimizer.step()
        self.read += [term.item() for term in loss]

    def loss(self, x: Tensor) -> Loss:
        """Return the loss of a batch, layer by layer as it is usually written."""
        model = self.model
        h = model.encoder(x).flatten(1)
        mu, logvar = model.fc_mu(h), model.fc_logvar(h)
        z = mu + torch.exp(0.5 * logvar) * torch.randn_like(logvar)
        x_hat = model.decoder(model.fc_decode(z).unflatten(1, model.code_shape))
        recon = functional.mse_loss(x_hat, x, reduction="sum") / len(x)
        kl = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp()) / len(x)
        return Loss(recon + kl, recon, kl)

    @contextlib.contextmanager
    def settings(self) -> Iterator[None]:
        """Put torch back to its defaults, which pick_device changes on cuda, for a while."""
        before = torch.get_float32_matmul_precision(), torch.backends.cudnn.deterministic
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.deterministic = False
        yield
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.deterministic = before[1]


class Ours:
    """The trainer's own batches and steps."""

    settings = staticmethod(contextlib.nullcontext)

    def __init__(
        self,
        args: argparse.Namespace,
        faces: PackedFaces,
        device: torch.device,
        flip: bool = True,
    ) -> None:
        torch.manual_seed(0)
        self.trainer = Trainer(
            VAE(args.image_size, latent_dim=args.latent_dim),
            faces,
            device,
            beta=1.0,
            batch_size=args.batch_size,
            learning_rate=LEARNING_RATE,
            flip=flip,
            seed=0,
            precision=pick_precision(device, args.precision),
            compile=pick_compile(device, args.compile),
        )
        self.optimizer, self.device = self.trainer.optimizer, device
        self.rows, self.running = faces.rows("train"), RunningLoss(self.trainer.ranks)

    def batches(self) -> Iterator[Tensor]:
        """Yield batches on the device without end."""
        for epoch in itertools.count(1):
            yield from self.epoch(epoch)

    def epoch(self, epoch: int) -> Iterator[Tensor]:
        """Return the batches of one epoch."""
        trainer = self.trainer
        return trainer.training_batches(*epoch_order(self.rows, trainer.seed, epoch, trainer.flip))

    def step(self, x: Tensor) -> None:
        """Take a training step; read the losses as seldom as training does."""
        self.running.add(self.trainer.step(x), len(x))
        if self.running.steps % READ_EVERY_STEPS == 0:
            self.running.read(epoch=1)

    def loss(self, x: Tensor) -> Loss:
        """Return the loss of a batch, as the trainer's step computes it."""
        trainer = self.trainer
        return trainer.loss_function(trainer.shared_model, x, trainer.beta, trainer.precision)


def positive(text: str) -> int:
    """Return a whole number above zero. Raises ValueError otherwise."""
    if int(text) < 1:
        raise ValueError
    return int(text)


def in_turns(measures: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Take each measure once a round, every other round in reverse; return figures by round."""
    figures: dict[str, list[float]] = {name: [] for name in measures}
    for turn in range(rounds):
        names = list(measures) if turn % 2 == 0 else list(reversed(measures))
        for name in names:
            figures[name].append(measures[name]())
    return figures


def throughput(loop: Reference | Ours, warm_up: int, steps: int) -> float:
    """Return the images/s of some steps after warm-up, loading included."""
    images = 0
    # closing: what loads for one loop must not go on while the other is timed
    with loop.settings(), contextlib.closing(loop.batches()) as batches:
        for x in itertools.islice(batches, warm_up):
            loop.step(x)
        start = now(loop.device)
        for x in itertools.islice(batches, steps):
            loop.step(x)
            images += len(x)
        return images / (now(loop.device) - start)


def dissect(loop: Reference | Ours, warm_up: int, steps: int) -> dict[str, float]:
    """Return the median milliseconds of a step's parts, each waited for before the next."""
    times = []
    with loop.settings(), contextlib.closing(loop.batches()) as batches:
        for _ in range(warm_up + steps):
            start = now(loop.device)
            x = next(batches)
            loaded = now(loop.device)
            loss = loop.loss(x)
            forward = now(loop.device)
            loop.optimizer.zero_grad(set_to_none=True)
            loss.total.backward()
            backward = now(loop.device)
            loop.optimizer.step()
            times.append(np.diff([start, loaded, forward, backward, now(loop.device)]))
    medians = 1000 * np.median(times[warm_up:], axis=0)
    return dict(zip(("load", "forward", "backward", "step"), medians.tolist(), strict=True))


def now(device: torch.device) -> float:
    """Return the time in seconds once the device has done all it was given."""
    if device.type != "cpu":
        torch.get_device_module(device).synchronize()
    return time.perf_counter()


def run_fully(trainer: Trainer, epochs: int) -> dict[str, float]:
    """Train for whole epochs as train.py does; return the seconds of its parts."""
    warm_up = now(trainer.device)
    with StopSignal() as stop:
        # the first epoch meets every shape, so it compiles what the rest runs
        trainer.run_epoch(stop)
        start = now(trainer.device)
        for _ in range(epochs):
            trainer.run_epoch(stop)
        total = now(trainer.device) - start
    images = len(trainer.faces.rows("train"))
    training = sum(images / row["images_per_second"] for row in trainer.history[1:])
    with tempfile.TemporaryDirectory() as folder:
        saving = time.perf_counter()
        state = Checkpoint({}, trainer.model.arch, trainer.faces.crop, "", trainer.state())
        save_checkpoint(state, Path(folder, "last.pt"))
        saved = time.perf_counter()
    return {
        "epochs": epochs,
        "training_seconds": training,
        "validation_seconds": total - training,
        "untimed_first_epoch_seconds": start - warm_up,
        "one_checkpoint_seconds": saved - saving,
    }


def summary(
    args: argparse.Namespace,
    ours: Ours,
    rates: dict[str, list[float]],
    parts: dict[str, dict[str, float]],
) -> dict[str, Any]:
    """Return all figures with what they were measured on; rates are images/s by round."""
    trainer, images = ours.trainer, args.epochs * len(ours.rows)
    return {
        "benchmark": "training",
        "machine": machine(ours.device),
        "settings": vars(args),
        "precision": trainer.precision,
        "pixels": "streamed" if trainer.resident is None else "on the device",
        "rates": rates,
        "ratio": spread(ratios(rates["ours"], rates["reference"])),
        "milliseconds": parts,
        "predicted_seconds": {
            name: images / statistics.median(values) for name, values in rates.items()
        },
    }


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Return the ratio of each round."""
    return [a / b for a, b in zip(above, below, strict=True)]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, smallest and largest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def machine(device: torch.device) -> dict[str, Any]:
    """Return what figures depend on beside the code: what computes, and versions."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.processor() or platform.machine(),
        "cores": usable_cores(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        **{name: version(name) for name in ("torch", "torchvision", "pillow")},
    }


def print_machine(facts: dict[str, Any]) -> None:
    """Print what machine returned, on a line."""
    print(*(f"{name} {value}" for name, value in facts.items() if value), sep=", ")


def print_spread(name: str, values: dict[str, float], unit: str = "", digits: int = 2) -> None:
    """Print median, smallest and largest on a line."""
    median, low, high = (f"{value:,.{digits}f}" for value in values.values())
    print(f"{name:36} {median:>8} ({low} to {high}) {unit}".rstrip())


def print_table(figures: dict[str, Any]) -> None:
    """Print the figures for people to read."""
    settings = figures["settings"]
    print_machine(figures["machine"])
    print(
        "{image_size} px, latent {latent_dim}, batch {batch_size}, {steps} steps, {rounds} rounds; "
        "ours in {precision}, pixels {pixels}".format(**{**settings, **figures})
    )
    for name, rates in figures["rates"].items():
        print_spread(name, spread(rates), "images/s", digits=0)
    print_spread("ours / reference", figures["ratio"])
    for name, parts in figures["milliseconds"].items():
        cells = ", ".join(f"{part} {value:.2f}" for part, value in parts.items())
        print(f"{name}, ms a step: {cells}")
    for name, seconds in figures["predicted_seconds"].items():
        print(f"{name}, predicted for {settings['epochs']} epochs: {seconds:,.0f} s")
    for name, value in figures.get("full", {}).items():
        print(f"{name.replace('_', ' ')}: {value:,.1f}")


if __name__ == "__main__":
    sys.exit(main())
