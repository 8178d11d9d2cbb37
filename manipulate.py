"""Move faces along attribute directions: sweeps such as "make it smile" and "add glasses".

Faces are random samples, faces of the val split, the mean face, or picture files. With --add or
--remove, plain arithmetic takes the place of the sweeps.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
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
from vae.errors import UserError, script
from vae.figures import save_labelled_grid
from vae.images import above, picture_path, read_pictures, save_gif, save_grid, save_pictures
from vae.latent import (
    add_and_remove,
    attribute_direction,
    decode_codes,
    encode_batches,
    sweep,
)
from vae.loader import batches, load_run_faces
from vae.model import VAE

GIF_FRAMES = 25


@script
def main(argv: Sequence[str] | None = None) -> None:
    """Load a model, take faces, edit them, print the paths of the pictures."""
    config, _ = resolve(ManipulateConfig, flag=read_flags(ManipulateConfig, argv, __doc__))
    names = [ATTRIBUTE_NAMES[find_attribute(name)] for name in config.attribute]
    path = find_checkpoint(config.checkpoint)
    model, checkpoint = load_model(path, pick_device(config.device))
    print(f"checkpoint: {path}, epoch {checkpoint.training['epoch']}")
    statistics = require_statistics(path, model, checkpoint, config.data)
    z, labels = take_faces(config, path, model, checkpoint)
    if config.add or config.remove:
        edited = add_and_remove(z, statistics, config.add, config.remove)
        picture = picture_path(config.output, path.parent, "arithmetic", several=False)
        written = write_pairs(config, model, z, edited, labels, picture)
    else:
        # all directions are found before a picture is written
        directions = {name: attribute_direction(statistics, name) for name in names}
        written = []
        for name, direction in directions.items():
            picture = picture_path(config.output, path.parent, name, several=len(directions) > 1)
            written += write_sweep(config, model, z, direction, labels, picture, name)
    print(*written, *([config.files] if config.files else []), sep="\n")


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


def write_sweep(
    config: ManipulateConfig,
    model: VAE,
    z: Tensor,
    direction: Tensor,
    labels: list[str],
    path: Path,
    name: str,
) -> list[Path]:
    """Write one row a face, one column a strength; return the paths written."""
    codes = sweep(z, direction, config.strengths)
    x = decode_codes(model, codes.flatten(0, 1))
    columns = [f"{strength:+g}" if strength else "0" for strength in config.strengths]
    save_labelled_grid(x.unflatten(0, codes.shape[:2]), path, columns, labels, name)
    if config.files:
        names = [f"{label}-{name}{column}" for label in labels for column in columns]
        save_pictures(x, Path(config.files), names)
    if not config.gif:
        return [path]
    steps = np.linspace(min(config.strengths), max(config.strengths), GIF_FRAMES).tolist()
    frames = [decode_codes(model, frame) for frame in sweep(z, direction, steps).unbind(1)]
    save_gif(frames, path.with_suffix(".gif"), columns=min(4, len(z)))
    return [path, path.with_suffix(".gif")]


def write_pairs(
    config: ManipulateConfig,
    model: VAE,
    z: Tensor,
    edited: Tensor,
    labels: list[str],
    path: Path,
) -> list[Path]:
    """Write the faces of the codes z over those of the edited codes; return the paths written."""
    x, x_edited = decode_codes(model, z), decode_codes(model, edited)
    columns = min(8, len(z))
    save_grid(above(x, x_edited, columns), path, columns)
    if config.files:
        save_pictures(x_edited, Path(config.files), [f"{label}-edited" for label in labels])
    return [path]


if __name__ == "__main__":
    sys.exit(main())
