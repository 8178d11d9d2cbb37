"""Show what a VAE has learned: new faces, reconstructions, interpolations, its latent space.

Needs the data set for the faces of --show reconstructions and histograms alone.
"""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from config import GenerateConfig, read_flags, resolve
from vae.checkpoint import Checkpoint, find_checkpoint, load_model, require_statistics
from vae.device import pick_device
from vae.errors import UserError, script
from vae.figures import save_histograms, save_labelled_grid
from vae.images import above, picture_path, read_pictures, save_grid, save_pictures
from vae.latent import (
    decode_codes,
    encode_batches,
    lerp,
    sample_posterior,
    seeded_noise,
    slerp,
    traverse,
)
from vae.loader import batches, load_run_faces
from vae.model import VAE


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

    def keep_files(self, x: Tensor, subject: str) -> None:
        """Write each face as a picture of its own, if that was asked for."""
        if self.config.files:
            names = [f"{subject}-{number:04d}" for number in range(len(x))]
            save_pictures(x, Path(self.config.files), names)

    def noise(self, count: int) -> Tensor:
        """Return codes from N(0, temperature^2 I), (count, D)."""
        noise = seeded_noise(self.config.seed, range(count), self.model.arch["latent_dim"])
        return self.config.temperature * noise

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
    device = pick_device(config.device)
    model, checkpoint = load_model(path, device)
    print(f"checkpoint: {path}, epoch {checkpoint.training['epoch']}")
    job = Job(config, path, model, checkpoint)
    show = {
        "grid": show_grid,
        "reconstructions": show_reconstructions,
        "interpolation": show_interpolation,
        "histograms": show_histograms,
        "traversal": show_traversal,
    }
    written = [path for subject in config.show for path in show[subject](job)]
    print(*written, sep="\n")


def show_grid(job: Job) -> list[Path]:
    """Draw new faces from the prior."""
    x = decode_codes(job.model, job.noise(job.config.count))
    save_grid(x, job.output("grid"), job.config.columns)
    job.keep_files(x, "grid")
    return [job.output("grid")]


def show_reconstructions(job: Job) -> list[Path]:
    """Draw originals over their reconstructions from mu: the files of --image, or val faces."""
    config = job.config
    if config.image:
        x = job.pictures()
    else:
        faces = load_run_faces(job.checkpoint.config, config.data)
        rows = np.random.default_rng(config.seed).permutation(faces.rows("val"))
        (x,) = batches(faces, rows[: max(1, config.count // 2)], config.count)
    mu, _ = encode_batches(job.model, [x.to(job.model.fc_mu.weight.device)])
    x_hat = decode_codes(job.model, mu)
    columns = min(config.columns, len(x))
    save_grid(above(x, x_hat, columns), job.output("reconstructions"), columns)
    job.keep_files(x_hat, "reconstructions")
    return [job.output("reconstructions")]


def show_interpolation(job: Job) -> list[Path]:
    """Draw the ways from one code to the next, straight and on the circle, a pair of rows each."""
    config, steps = job.config, job.config.columns
    if config.image:
        if len(config.image) < 2:
            raise UserError("--show interpolation needs two --image pictures or more")
        mu, _ = encode_batches(job.model, [job.pictures().to(job.model.fc_mu.weight.device)])
        start, end = mu[:-1], mu[1:]
    else:
        start, end = job.noise(2 * max(1, config.count // (2 * steps))).chunk(2)
    z = torch.stack([lerp(start, end, steps), slerp(start, end, steps)], dim=1)
    x = decode_codes(job.model, z.flatten(0, 2))
    job.keep_files(x, "interpolation")
    labels = [f"{100 * step / (steps - 1):.0f} %" for step in range(steps)]
    grid = x.unflatten(0, (2 * len(start), steps))
    save_labelled_grid(grid, job.output("interpolation"), labels, ["lerp", "slerp"] * len(start))
    return [job.output("interpolation")]


def show_histograms(job: Job) -> list[Path]:
    """Draw the distribution of each latent variable over the val split, under N(0, 1)."""
    config = job.config
    faces = load_run_faces(job.checkpoint.config, config.data)
    rows, device = faces.rows("val"), job.model.fc_mu.weight.device
    mu, logvar = encode_batches(job.model, batches(faces, rows, 128, device))
    z = sample_posterior(mu, logvar, config.seed)
    dimensions = job.dimensions(range(50))
    of = f"of {len(rows):,} val faces; the curve is N(0, 1)"
    paths = [job.output(f"histograms-{kind}", several=True) for kind in ("means", "samples")]
    save_histograms(mu, paths[0], dimensions, f"Posterior means {of}")
    save_histograms(z, paths[1], dimensions, f"Posterior samples {of}")
    return paths


def show_traversal(job: Job) -> list[Path]:
    """Draw the mean face with one latent variable at a time set from -3 to 3."""
    statistics = require_statistics(job.path, job.model, job.checkpoint, job.config.data)
    widest = statistics["covariance"].diagonal().argsort(descending=True)
    dimensions = job.dimensions(widest[:8].tolist())
    values = np.linspace(-3, 3, job.config.columns).tolist()
    z = traverse(statistics["mean"], dimensions, values)
    x = decode_codes(job.model, z.flatten(0, 1))
    job.keep_files(x, "traversal")
    grid = x.unflatten(0, z.shape[:2])
    labels = [f"{value:+.1f}" for value in values]
    save_labelled_grid(grid, job.output("traversal"), labels, [f"z{d}" for d in dimensions])
    return [job.output("traversal")]


if __name__ == "__main__":
    sys.exit(main())
