"""Show what a VAE has learned: new faces, reconstructions, interpolations, its latent space.

Needs the data set for the faces of --show reconstructions and histograms alone.
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from config import GenerateConfig, read_flags, resolve
from vae.checkpoint import (
    Checkpoint,
    find_checkpoint,
    load_model,
    require_statistics,
    sample_codes,
)
from vae.device import pick_device
from vae.errors import UserError, script
from vae.figures import save_histograms, save_labelled_grid
from vae.images import above, picture_path, read_pictures, save_grid, save_pictures
from vae.latent import (
    decode_codes,
    encode_batches,
    lerp,
    sample_posterior,
    slerp,
    traverse,
    widest_dimensions,
)
from vae.loader import batches, load_run_faces
from vae.model import VAE


class Drawing(NamedTuple):
    """A picture, or a folder of them, that is made and not yet written."""

    path: Path
    write: Callable[[Path], None]


@dataclass(frozen=True)
class Job:
    """What every picture of a call is made from."""

    config: GenerateConfig
    path: Path
    model: VAE
    checkpoint: Checkpoint

    def output(self, subject: str, several: bool = False) -> Path:
        """Return where the picture of a subject goes."""
        several = several or len(self.config.show) > 1
        return picture_path(self.config.output, self.path.parent, subject, several)

    def files(self, x: Tensor, subject: str) -> list[Drawing]:
        """Return each face as a picture of its own, if that was asked for."""
        if not self.config.files:
            return []
        names = [f"{subject}-{number:04d}" for number in range(len(x))]
        return [Drawing(Path(self.config.files), lambda folder: save_pictures(x, folder, names))]

    def codes(self, count: int) -> Tensor:
        """Return codes of new faces, (count, D)."""
        config = self.config
        return sample_codes(
            self.path,
            self.model,
            self.checkpoint,
            config.seed,
            range(count),
            config.prior,
            config.temperature,
            config.data,
        )

    def dimensions(self, default: Iterable[int]) -> list[int]:
        """Return the latent dimensions to show: those asked for, or the default that exist."""
        latent_dim = self.model.arch["latent_dim"]
        unknown = [d for d in self.config.dimensions if d >= latent_dim]
        if unknown:
            raise UserError(f"--dimensions go to {latent_dim - 1} in this model; got {unknown[0]}")
        return list(self.config.dimensions) or [d for d in default if d < latent_dim]

    def pictures(self) -> Tensor:
        """Return the pictures of --image."""
        return read_pictures(self.config.image, self.model.arch["image_size"])


@script
def main(argv: Sequence[str] | None = None) -> None:
    """Load a model, make each picture that was asked for, print the paths."""
    config, _ = resolve(GenerateConfig, flag=read_flags(GenerateConfig, argv, __doc__))
    path = find_checkpoint(config.checkpoint)
    model, checkpoint = load_model(path, pick_device(config.device))
    print(f"checkpoint: {path}, epoch {checkpoint.training['epoch']}")
    job = Job(config, path, model, checkpoint)
    show = {
        "grid": show_grid,
        "reconstructions": show_reconstructions,
        "interpolation": show_interpolation,
        "histograms": show_histograms,
        "traversal": show_traversal,
    }
    # all are made before one is written: a mistake in the last leaves nothing behind
    drawings = [drawing for subject in config.show for drawing in show[subject](job)]
    for drawing in drawings:
        drawing.write(drawing.path)
    print(*(drawing.path for drawing in drawings), sep="\n")


def show_grid(job: Job) -> list[Drawing]:
    """Draw new faces from the prior."""
    x = decode_codes(job.model, job.codes(job.config.count))
    columns = job.config.columns
    grid = Drawing(job.output("grid"), lambda path: save_grid(x, path, columns))
    return [grid, *job.files(x, "grid")]


def show_reconstructions(job: Job) -> list[Drawing]:
    """Draw originals over their reconstructions from mu: the files of --image, or val faces."""
    config = job.config
    if config.image:
        x = job.pictures()
    else:
        faces = load_run_faces(job.checkpoint.config, config.data, job.checkpoint.crop)
        rows = np.random.default_rng(config.seed).permutation(faces.rows("val"))
        x = torch.cat(list(batches(faces, rows[: max(1, config.count // 2)])))
    mu, _ = encode_batches(job.model, x.split(128))
    x_hat = decode_codes(job.model, mu)
    columns = min(config.columns, len(x))
    both = above(x, x_hat, columns)
    grid = Drawing(job.output("reconstructions"), lambda path: save_grid(both, path, columns))
    return [grid, *job.files(x_hat, "reconstructions")]


def show_interpolation(job: Job) -> list[Drawing]:
    """Draw the ways from one code to the next, straight and on the circle, a pair of rows each."""
    config, steps = job.config, job.config.columns
    if config.image:
        if len(config.image) < 2:
            raise UserError("--show interpolation needs two --image pictures or more")
        mu, _ = encode_batches(job.model, [job.pictures()])
        start, end = mu[:-1], mu[1:]
    else:
        ends = job.codes(2 * max(1, config.count // (2 * steps)))
        start, end = ends[0::2], ends[1::2]
    z = torch.stack([lerp(start, end, steps), slerp(start, end, steps)], dim=1)
    x = decode_codes(job.model, z.flatten(0, 2))
    labels = [f"{100 * step / (steps - 1):.0f} %" for step in range(steps)]
    grid = x.unflatten(0, (2 * len(start), steps))
    ways = ["lerp", "slerp"] * len(start)
    rows = Drawing(
        job.output("interpolation"), lambda path: save_labelled_grid(grid, path, labels, ways)
    )
    return [rows, *job.files(x, "interpolation")]


def show_histograms(job: Job) -> list[Drawing]:
    """Draw the distribution of each latent variable over the val split, under N(0, 1)."""
    config = job.config
    faces = load_run_faces(job.checkpoint.config, config.data, job.checkpoint.crop)
    rows = faces.rows("val")
    mu, logvar = encode_batches(job.model, batches(faces, rows, label="encoding"))
    codes = {"means": mu, "samples": sample_posterior(mu, logvar, config.seed)}
    dimensions = job.dimensions(range(50))
    return [
        Drawing(
            job.output(f"histograms-{kind}", several=True),
            partial(
                save_histograms,
                z,
                dimensions=dimensions,
                title=f"Posterior {kind} of {len(rows):,} val faces; the curve is N(0, 1)",
            ),
        )
        for kind, z in codes.items()
    ]


def show_traversal(job: Job) -> list[Drawing]:
    """Draw the mean face with one latent variable at a time set from -3 to 3."""
    statistics = require_statistics(job.path, job.model, job.checkpoint, job.config.data)
    dimensions = job.dimensions(widest_dimensions(statistics, count=8))
    values = np.linspace(-3, 3, job.config.columns).tolist()
    z = traverse(statistics["mean"], dimensions, values)
    x = decode_codes(job.model, z.flatten(0, 1))
    grid = x.unflatten(0, z.shape[:2])
    labels = [f"{value:+.1f}" for value in values]
    names = [f"z{dimension}" for dimension in dimensions]
    rows = Drawing(
        job.output("traversal"), lambda path: save_labelled_grid(grid, path, labels, names)
    )
    return [rows, *job.files(x, "traversal")]


if __name__ == "__main__":
    sys.exit(main())
