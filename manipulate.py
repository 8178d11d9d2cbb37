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
from vae.checkpoint import Checkpoint, find_checkpoint, load_model, require_statistics
from vae.device import pick_device
from vae.errors import UserError, script
from vae.figures import save_labelled_grid
from vae.images import above, picture_path, read_pictures, save_gif, save_grid, save_pictures
from vae.latent import (
    Statistics,
    attribute_direction,
    decode_codes,
    encode_batches,
    seeded_noise,
    sweep,
)
from vae.loader import batches, load_run_faces
from vae.model import VAE

GIF_FRAMES = 25


@script
def main(argv: Sequence[str] | None = None) -> None:
    """Load a model, take faces, edit them, print the paths of the pictures."""
    config, _ = resolve(ManipulateConfig, flag=read_flags(ManipulateConfig, argv, __doc__))
    path = find_checkpoint(config.checkpoint)
    model, checkpoint = load_model(path, pick_device(config.device))
    print(f"checkpoint: {path}, epoch {checkpoint.training['epoch']}")
    statistics = require_statistics(path, model, checkpoint, config.data)
    z, labels = take_faces(config, model, checkpoint, statistics)
    if config.add or config.remove:
        written = [write_arithmetic(config, path.parent, model, statistics, z, labels)]
    else:
        written = []
        for attribute in config.attribute:
            written += write_sweep(config, path.parent, model, statistics, z, labels, attribute)
    print(*written, sep="\n")


def take_faces(
    config: ManipulateConfig, model: VAE, checkpoint: Checkpoint, statistics: Statistics
) -> tuple[Tensor, list[str]]:
    """Return the codes (N, D) of the faces to edit, and a label for each."""
    device = model.fc_mu.weight.device
    if config.image:
        x = read_pictures(config.image, model.arch["image_size"]).to(device)
        return encode_batches(model, [x])[0], [Path(picture).stem for picture in config.image]
    if config.source == "mean":
        return statistics["mean"][None], ["mean"]
    labels = [str(face) for face in config.faces]
    if config.source == "random":
        return seeded_noise(config.seed, config.faces, model.arch["latent_dim"]), labels
    faces = load_run_faces(checkpoint.config, config.data)
    rows = faces.rows("val")
    if max(config.faces) >= len(rows):
        raise UserError(f"--faces of the val split go to {len(rows) - 1}; got {max(config.faces)}")
    chosen = rows[np.array(config.faces)]
    return encode_batches(model, batches(faces, chosen, 128, device))[0], labels


def write_sweep(
    config: ManipulateConfig,
    folder: Path,
    model: VAE,
    statistics: Statistics,
    z: Tensor,
    labels: list[str],
    attribute: str,
) -> list[Path]:
    """Write one row a face, one column a strength; return the paths written."""
    name = ATTRIBUTE_NAMES[find_attribute(attribute)]
    direction = attribute_direction(statistics, name)
    several = len(config.attribute) > 1
    path = picture_path(config.output, folder, name, several)
    codes = sweep(z, direction, config.strengths)
    x = decode_codes(model, codes.flatten(0, 1))
    columns = [f"{strength:+g}" if strength else "0" for strength in config.strengths]
    save_labelled_grid(x.unflatten(0, codes.shape[:2]), path, columns, labels, name)
    if config.files:
        names = [f"{label}-{name}{column}" for label in labels for column in columns]
        save_pictures(x, Path(config.files), names)
    if not config.gif:
        return [path]
    between = np.linspace(min(config.strengths), max(config.strengths), GIF_FRAMES)
    frames = [decode_codes(model, z + strength * direction) for strength in between.tolist()]
    save_gif(frames, path.with_suffix(".gif"), columns=min(4, len(z)))
    return [path, path.with_suffix(".gif")]


def write_arithmetic(
    config: ManipulateConfig,
    folder: Path,
    model: VAE,
    statistics: Statistics,
    z: Tensor,
    labels: list[str],
) -> Path:
    """Write the faces over the same with attributes added and removed; return the path."""
    edited = z.clone()
    for attribute in config.add:
        edited += attribute_direction(statistics, attribute)
    for attribute in config.remove:
        edited -= attribute_direction(statistics, attribute)
    x, x_edited = decode_codes(model, z), decode_codes(model, edited)
    path = picture_path(config.output, folder, "arithmetic", several=False)
    columns = min(8, len(z))
    save_grid(above(x, x_edited, columns), path, columns)
    if config.files:
        save_pictures(x_edited, Path(config.files), [f"{label}-edited" for label in labels])
    return path


if __name__ == "__main__":
    sys.exit(main())
