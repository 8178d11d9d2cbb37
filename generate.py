"""Show what a trained VAE does: samples, reconstructions, interpolations, its latent space.

Only histograms, and reconstructions without --image, need the data set.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

if __name__ == "__main__":
    # until main begins, Ctrl-C ends the process without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # figures are files: the backend that a notebook exports may not be here
    os.environ.pop("MPLBACKEND", None)

import numpy as np
import torch
from torch import Tensor

from config import GenerateConfig
from vae.errors import UserError, script
from vae.flags import read_flags
from vae.latent.codes import sample_posterior
from vae.latent.interpolation import lerp, slerp, traverse, widest_dimensions
from vae.pictures.figures import save_histograms, save_labelled_grid
from vae.pictures.images import above, picture_paths, save_grid, save_pictures
from vae.run import Run, open_run

Paths = Mapping[str, Path]
"""Where each picture goes, by its subject."""

Write = Callable[[], str]
"""Writes a finished picture; returns the line to print."""


@script
def main(argv: Sequence[str] | None = None) -> None:
    """Open a run, make the pictures that were asked for, write them, print their paths."""
    config = read_flags(GenerateConfig, argv, __doc__)
    run = open_run(config.checkpoint, config.device, config.data)
    print(f"checkpoint: {run.path}, epoch {run.checkpoint.epoch}")
    parts = {"histograms": ("histograms-means", "histograms-samples")}
    subjects = [subject for show in config.show for subject in parts.get(show, (show,))]
    suffix = "" if config.refine else "-decoded"
    paths = picture_paths(config.output, run.folder, subjects, config.files, suffix)
    shows = {
        "grid": show_grid,
        "reconstructions": show_reconstructions,
        "interpolation": show_interpolation,
        "histograms": show_histograms,
        "traversal": show_traversal,
    }
    # all pictures are made before one is written: an error in the last writes none
    writes = [write for show in config.show for write in shows[show](config, run, paths)]
    print(*[write() for write in writes], sep="\n")


def show_grid(config: GenerateConfig, run: Run, paths: Paths) -> list[Write]:
    """Return the writes of a grid of samples."""
    z = run.sample(config.seed, range(config.count), config.prior, config.temperature)
    x = run.render(z, range(len(z)), config)
    grid = partial(save_grid, x, paths["grid"], config.columns)
    return [grid, *single_faces(config, x, "grid")]


def show_reconstructions(config: GenerateConfig, run: Run, paths: Paths) -> list[Write]:
    """Return the writes of images over their reconstructions from mu: --image, or val faces."""
    if config.image:
        x = torch.stack([face.image for face in run.photo_faces(config)])
    else:
        rows = np.random.default_rng(config.seed).permutation(run.faces.rows("val"))
        x = torch.cat(list(run.images(rows[: max(1, config.count // 2)]))).cpu()
    mu, _ = run.encode(x)
    x_hat = run.render(mu, range(len(mu)), config)
    columns = min(config.columns, len(x))
    grid = partial(save_grid, above(x, x_hat, columns), paths["reconstructions"], columns)
    return [grid, *single_faces(config, x_hat, "reconstructions")]


def show_interpolation(config: GenerateConfig, run: Run, paths: Paths) -> list[Write]:
    """Return the writes of two rows for each pair of codes: a line and a great circle."""
    steps = config.columns
    if config.image:
        photos = run.photo_faces(config)
        if len(photos) < 2:
            raise UserError("--show interpolation needs two faces or more of --image pictures")
        mu, _ = run.encode(torch.stack([face.image for face in photos]))
        start, end = mu[:-1], mu[1:]
    else:
        indices = range(2 * max(1, config.count // (2 * steps)))
        ends = run.sample(config.seed, indices, config.prior, config.temperature)
        start, end = ends[0::2], ends[1::2]
    z = torch.stack([lerp(start, end, steps), slerp(start, end, steps)], dim=1)
    percentages = [f"{100 * step / (steps - 1):.0f} %" for step in range(steps)]
    rows = ["lerp", "slerp"] * len(start)
    # all pictures between two codes are refined with the same noise
    numbers = np.repeat(range(len(start)), 2 * steps)
    x = run.render(z.flatten(0, 2), numbers, config).unflatten(0, (len(rows), steps))
    grid = partial(save_labelled_grid, x, paths["interpolation"], percentages, rows)
    return [grid, *single_faces(config, x.flatten(0, 1), "interpolation")]


def show_histograms(config: GenerateConfig, run: Run, paths: Paths) -> list[Write]:
    """Return the writes of histograms of the latent dimensions over the val split."""
    dimensions = chosen_dimensions(config, run, range(50))
    rows = run.faces.rows("val")
    mu, logvar = run.encode(run.images(rows, "encoding"))
    title = f"Posterior {{}} of {len(rows):,} val faces; the curve is N(0, 1)"
    codes = {"means": mu, "samples": sample_posterior(mu, logvar, config.seed)}
    return [
        partial(save_histograms, z, paths[f"histograms-{kind}"], dimensions, title.format(kind))
        for kind, z in codes.items()
    ]


def show_traversal(config: GenerateConfig, run: Run, paths: Paths) -> list[Write]:
    """Return the writes of the mean face with one latent dimension at a time set from -3 to 3."""
    dimensions = chosen_dimensions(config, run, widest_dimensions(run.statistics, count=8))
    values = np.linspace(-3, 3, config.columns).tolist()
    z = traverse(run.statistics["mean"], dimensions, values)
    columns, rows = [f"{value:+.1f}" for value in values], [f"z{one}" for one in dimensions]
    x = run.render(z.flatten(0, 1), [0] * z[..., 0].numel(), config).unflatten(0, z.shape[:2])
    grid = partial(save_labelled_grid, x, paths["traversal"], columns, rows)
    return [grid, *single_faces(config, x.flatten(0, 1), "traversal")]


def single_faces(config: GenerateConfig, x: Tensor, subject: str) -> list[Write]:
    """Return the write of each face as a picture of its own, if --files asks for it."""
    names = [f"{subject}-{number:04d}" for number in range(len(x))]
    return [partial(save_pictures, x, Path(config.files), names)] if config.files else []


def chosen_dimensions(config: GenerateConfig, run: Run, default: Iterable[int]) -> list[int]:
    """Return the latent dimensions to show: those of --dimensions, or the default that exist."""
    latent_dim = run.arch["latent_dim"]
    unknown = [one for one in config.dimensions if one >= latent_dim]
    if unknown:
        raise UserError(f"--dimensions go to {latent_dim - 1} in this model; got {unknown[0]}")
    return list(config.dimensions) or [one for one in default if one < latent_dim]


if __name__ == "__main__":
    sys.exit(main())
