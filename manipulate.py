"""Move faces along attribute directions: sweeps such as "make it smile" and "add glasses".

Faces are random samples, faces of the val split, the mean face, or picture files. With --to each
face goes as far as it takes until the guide (train_judge.py) sees the attribute. With --add or
--remove, plain arithmetic takes the place of the sweeps.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from config import ManipulateConfig, read_flags, resolve
from vae.celeba import ATTRIBUTE_NAMES, find_attribute
from vae.checkpoint import (
    Checkpoint,
    find_checkpoint,
    load_model,
    require_statistics,
    sample_codes,
)
from vae.device import pick_device
from vae.directions import add_and_remove, attribute_direction, class_counts, sweep
from vae.edits import keep_still, move_until
from vae.errors import UserError, script
from vae.figures import save_labelled_grid
from vae.images import picture_path, read_pictures, save_gif, save_pictures
from vae.judge import Judge, open_judge
from vae.latent import decode_codes, encode_batches
from vae.loader import batches, load_run_faces
from vae.model import VAE

GIF_FRAMES = 25


@dataclass(frozen=True)
class Job:
    """What every picture of a call is made from."""

    config: ManipulateConfig
    path: Path
    model: VAE
    checkpoint: Checkpoint
    z: Tensor
    """(N, D) the codes of the faces"""
    labels: list[str]
    """one a face"""

    def picture(self, subject: str, several: bool = False) -> Path:
        """Return where the picture of a subject goes."""
        return picture_path(self.config.output, self.path.parent, subject, several)

    def title(self, name: str) -> str:
        """Return what a picture of an attribute's edit shows."""
        return f"{name} ({describe_method(self.config)})"

    def save_files(self, x: Tensor, names: Sequence[str]) -> None:
        """Write each face as a picture of its own, if that was asked for."""
        if self.config.files:
            save_pictures(x, Path(self.config.files), names)


@script
def main(argv: Sequence[str] | None = None) -> None:
    """Load a model, take faces, edit them, print the paths of the pictures."""
    config, _ = resolve(ManipulateConfig, flag=read_flags(ManipulateConfig, argv, __doc__))
    names = [ATTRIBUTE_NAMES[find_attribute(name)] for name in config.attribute]
    path = find_checkpoint(config.checkpoint)
    model, checkpoint = load_model(path, pick_device(config.device))
    print(f"checkpoint: {path}, epoch {checkpoint.training['epoch']}")
    require_statistics(path, model, checkpoint, config.data)
    guide = find_guide(config, checkpoint) if config.keep or config.to is not None else None
    # all directions are found before a picture is written
    wanted = [*config.add, *config.remove] or names
    directions = {name: find_direction(config, model, checkpoint, guide, name) for name in wanted}
    job = Job(config, path, model, checkpoint, *take_faces(config, path, model, checkpoint))
    if config.add or config.remove:
        written = write_arithmetic(job, directions)
    elif config.to is not None:
        written = [write_reached(job, guide, *one, len(names) > 1) for one in directions.items()]
    else:
        sweeps = (write_sweep(job, *one, len(names) > 1) for one in directions.items())
        written = [picture for pictures in sweeps for picture in pictures]
    print(*written, *([config.files] if config.files else []), sep="\n")


def find_direction(
    config: ManipulateConfig, model: VAE, checkpoint: Checkpoint, guide: Judge | None, name: str
) -> Tensor:
    """Return the direction of an attribute, (D,); say what it is made from."""
    statistics = checkpoint.statistics
    direction = attribute_direction(statistics, name, config.method)
    if config.keep:
        direction = keep_still(model, guide, statistics, name, direction, config.keep)
    having, lacking = class_counts(statistics, find_attribute(name))
    method = describe_method(config)
    print(f"{name}: {method}, from {having:,} faces with it, {lacking:,} without")
    return direction


def describe_method(config: ManipulateConfig) -> str:
    """Return how directions are found, in words."""
    return config.method + (f", keeping {' '.join(config.keep)}" if config.keep else "")


def find_guide(config: ManipulateConfig, checkpoint: Checkpoint) -> Judge:
    """Return the guide that --to and --keep ask."""
    path, guide, _ = open_judge("guide", config.guide, checkpoint, pick_device(config.device))
    print(f"guide: {path}")
    return guide


def take_faces(
    config: ManipulateConfig, path: Path, model: VAE, checkpoint: Checkpoint
) -> tuple[Tensor, list[str]]:
    """Return the codes (N, D) of the faces to edit, and a label for each."""
    if config.image:
        x = read_pictures(config.image, model.arch["image_size"])
        labels = [f"{number}-{Path(name).stem}" for number, name in enumerate(config.image)]
        return encode_batches(model, x.split(128))[0], labels
    if config.source == "mean":
        return checkpoint.statistics["mean"][None], ["mean"]
    labels = [str(face) for face in config.faces]
    if config.source == "random":
        sampling = (config.seed, config.faces, config.prior, config.temperature, config.data)
        return sample_codes(path, model, checkpoint, *sampling), labels
    faces = load_run_faces(checkpoint.config, config.data, checkpoint.crop)
    rows = faces.rows("val")
    if max(config.faces) >= len(rows):
        raise UserError(f"--faces of the val split go to {len(rows) - 1}; got {max(config.faces)}")
    return encode_batches(model, batches(faces, rows[list(config.faces)]))[0], labels


def write_sweep(job: Job, name: str, direction: Tensor, several: bool) -> list[Path]:
    """Write one row a face, one column a strength; return the paths written."""
    config, path = job.config, job.picture(name, several)
    codes = sweep(job.z, direction, config.strengths)
    x = decode_codes(job.model, codes.flatten(0, 1))
    columns = [f"{strength:+g}" if strength else "0" for strength in config.strengths]
    save_labelled_grid(x.unflatten(0, codes.shape[:2]), path, columns, job.labels, job.title(name))
    job.save_files(x, [f"{label}-{name}{column}" for label in job.labels for column in columns])
    if not config.gif:
        return [path]
    steps = np.linspace(min(config.strengths), max(config.strengths), GIF_FRAMES).tolist()
    frames = [decode_codes(job.model, z) for z in sweep(job.z, direction, steps).unbind(1)]
    save_gif(frames, path.with_suffix(".gif"), columns=min(4, len(job.z)))
    return [path, path.with_suffix(".gif")]


def write_reached(job: Job, guide: Judge, name: str, direction: Tensor, several: bool) -> Path:
    """Write each face beside it with the attribute, as far as the guide asks; return the path.

    A face that does not get there is shown where the guide sees the most of the attribute.
    """
    target, path = job.config.to, job.picture(f"{name}-to-{job.config.to:g}", several)
    edited, strengths, highest = move_until(job.model, guide, job.z, direction, name, target)
    labels = []
    for label, strength, most in zip(job.labels, strengths, highest, strict=True):
        missed = "" if most >= target else f"not reached, {most:.2f} at "
        labels.append(f"{label}: {missed}{strength:+.2f}")
    print(f"{name}, strength for P = {target:g}:", *labels, sep="\n  ")
    pairs = torch.stack([decode_codes(job.model, job.z), decode_codes(job.model, edited)], dim=1)
    save_labelled_grid(
        pairs, path, ["before", "after"], labels, f"{job.title(name)} to P {target:g}"
    )
    job.save_files(pairs[:, 1], [f"{label}-{name}-to-{target:g}" for label in job.labels])
    return path


def write_arithmetic(job: Job, directions: dict[str, Tensor]) -> list[Path]:
    """Write each face beside it with some attributes added and others removed."""
    config, path = job.config, job.picture("arithmetic")
    added, removed = ([directions[name] for name in names] for names in (config.add, config.remove))
    edited = add_and_remove(job.z, added, removed)
    pairs = torch.stack([decode_codes(job.model, z) for z in (job.z, edited)], dim=1)
    terms = [*(f"+{name}" for name in config.add), *(f"-{name}" for name in config.remove)]
    save_labelled_grid(pairs, path, ["before", "after"], job.labels, job.title(" ".join(terms)))
    job.save_files(pairs[:, 1], [f"{label}-edited" for label in job.labels])
    return [path]


if __name__ == "__main__":
    sys.exit(main())
