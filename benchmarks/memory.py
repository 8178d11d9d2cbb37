"""Train on random pixels for a while and print the largest memory that is not a file's.

From the repository's root:

    python -m benchmarks.memory --images 40000 --image-size 128 --latent-dim 200

Linux counts a process's own pages as RssAnon in /proc/self/status; pages of the mapped array are
not among them. What weights, gradients and Adam's moments take is told apart. A thread reads the
count while training runs.
"""

import argparse
import contextlib
import itertools
import json
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import torch

from benchmarks.loops import Ours, random_faces
from benchmarks.measuring import machine, positive, print_machine
from vae.errors import UserError, script

STATUS = Path("/proc/self/status")


@script
def main(argv: Sequence[str] | None = None) -> None:
    """Train while a thread watches memory; print a table and a line of JSON."""
    args = parse_arguments(argv)
    if not STATUS.exists():
        raise UserError(f"{STATUS} is Linux's: elsewhere this cannot be measured")
    with random_faces(args.images, args.image_size) as faces:
        libraries = anonymous_memory()
        ours = Ours(args, faces, torch.device("cpu"))
        peak, state = peak_while_training(ours, args.steps), state_memory(ours)
        sizes = {
            "packed array": faces.pixels.nbytes,
            "RssAnon before the model": libraries,
            "largest RssAnon": peak,
            "weights, gradients and Adam": state,
            "RssAnon beyond those": peak - state,
        }
    megabytes = {name: size / 1e6 for name, size in sizes.items()}
    figures = {"benchmark": "memory", "machine": machine(ours.device), "settings": vars(args)}
    figures |= {"precision": ours.trainer.precision, "megabytes": megabytes}
    print_machine(figures["machine"])
    for name, size in megabytes.items():
        print(f"{name:28} {size:8,.0f} MB")
    print(json.dumps(figures))


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return what is trained, and for how long."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    add = parser.add_argument
    add("--images", type=positive, default=40_000, help="random training images")
    add("--image-size", type=positive, default=128, help="side in pixels")
    add("--latent-dim", type=positive, default=200, help="latent dimensions")
    add("--batch-size", type=positive, default=128, help="images a step")
    add("--steps", type=positive, default=8, help="training steps")
    add("--precision", default="auto", choices=["auto", "fp32", "bf16"], help="of the steps")
    parser.set_defaults(compile="off")
    return parser.parse_args(argv)


def anonymous_memory() -> int:
    """Return the memory of this process that no file stands behind, in bytes."""
    lines = STATUS.read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def peak_while_training(ours: Ours, steps: int) -> int:
    """Take some training steps; return the largest anonymous memory meanwhile, in bytes."""
    done, seen = Event(), [anonymous_memory()]

    def watch() -> None:
        while not done.wait(0.01):
            seen.append(anonymous_memory())

    with ThreadPoolExecutor(1) as pool, contextlib.closing(ours.batches()) as batches:
        pool.submit(watch)
        try:
            for x in itertools.islice(batches, steps):
                ours.step(x)
        finally:
            done.set()
    return max(seen)


def state_memory(ours: Ours) -> int:
    """Return what weights, gradients and Adam's moments take, in bytes."""
    weights = list(ours.trainer.model.parameters())
    moments = (t for state in ours.optimizer.state.values() for t in state.values())
    tensors = [*weights, *(weight.grad for weight in weights), *moments]
    return sum(tensor.nbytes for tensor in tensors)


if __name__ == "__main__":
    sys.exit(main())
