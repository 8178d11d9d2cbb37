"""Train one network with the field's usual loop and with ours, in turns, and compare images/s.

From the repository's root:

    python -m benchmarks.training --data data/celeba8k --image-size 64 --latent-dim 128

On a GPU, at CelebA's size and with random pixels, the 50 epochs really run at the end:

    python -m benchmarks.training --random-images 162770 --image-size 128 --latent-dim 200 \
        --steps 200 --workers 8 --full --epochs 50

The loops are in benchmarks/loops.py: the reference and ours minimise the classic objective; beside
them stands the best recipe. Loading is in every figure; of the parts, load is the wait for it.
"""

import argparse
import contextlib
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.loops import Ours, Reference, random_faces, training_pictures
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
from vae.checkpoint import Checkpoint, save_checkpoint
from vae.device import pick_device
from vae.errors import StopSignal, script
from vae.loader import load_faces
from vae.training import Trainer


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
        loops = {
            "reference": Reference(args, pictures, device),
            "ours": Ours(args, faces, device),
            "ours, best recipe": Ours(args, faces, device, recipe="best"),
        }
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
    add("--batch-size", type=positive, default=128, help="images a step of the classic objective")
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
        state = Checkpoint({}, trainer.model.arch, trainer.faces.crop, "", {}, trainer.state())
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
        "recipe_ratio": spread(ratios(rates["ours, best recipe"], rates["ours"])),
        "milliseconds": parts,
        "predicted_seconds": {
            name: images / statistics.median(values) for name, values in rates.items()
        },
    }


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
    print_spread("best recipe / ours", figures["recipe_ratio"])
    for name, parts in figures["milliseconds"].items():
        cells = ", ".join(f"{part} {value:.2f}" for part, value in parts.items())
        print(f"{name}, ms a step: {cells}")
    for name, seconds in figures["predicted_seconds"].items():
        print(f"{name}, predicted for {settings['epochs']} epochs: {seconds:,.0f} s")
    for name, value in figures.get("full", {}).items():
        print(f"{name.replace('_', ' ')}: {value:,.1f}")


if __name__ == "__main__":
    sys.exit(main())
