"""Edit faces along attribute directions: make them smile, add glasses.

The faces are random samples, validation faces, the mean face, or picture files. Each attribute
gives a sweep over --strengths. With --to, each face moves until the guide (train_judge.py) gives
the attribute this probability. With --add and --remove, all named attributes change at once, by
one unit each. In a photo of --image the faces are found, and the edit is put back into the photo:
--files gets the photos.
"""

import itertools
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

if __name__ == "__main__":
    # until main begins, Ctrl-C ends the process without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # figures are files: the backend that a notebook exports may not be here
    os.environ.pop("MPLBACKEND", None)

import torch
from PIL import Image
from torch import Tensor

from config import DEFAULT_ATTRIBUTES, STRENGTHS, ManipulateConfig
from vae.data.decoding import Photo
from vae.editing.photos import PhotoFace, edit_photos
from vae.editing.steering import keep_still, move_until
from vae.errors import UserError, script
from vae.files import require_writable, write_whole
from vae.flags import read_flags
from vae.latent.directions import (
    class_counts,
    common_attributes,
    find_attribute,
    linear_probe,
    sweep,
)
from vae.latent.interpolation import lerp
from vae.models.judge import Judge
from vae.pictures.figures import save_labelled_grid
from vae.pictures.images import describe_folder, file_name, picture_paths, save_gif, save_pictures
from vae.pictures.page.write import PageContent, unit_probes, write_page
from vae.run import Run, open_judge, open_run

GIF_FRAMES = 25


class Faces(NamedTuple):
    """The N faces to edit."""

    codes: Tensor
    """(N, D)"""
    labels: Sequence[str]
    numbers: Sequence[int]
    """each gives a face its noise of the refiner"""
    photos: Sequence[PhotoFace] = ()
    """where the faces of --image come from"""


class Edit(NamedTuple):
    """What one picture shows: N rows, one for each face."""

    title: str
    codes: Tensor
    """(N, columns, D)"""
    columns: Sequence[str]
    notes: Sequence[str] = ()
    """one for each face, or none"""


@script
def main(argv: Sequence[str] | None = None) -> None:
    """Open a run, find directions, edit faces, write the pictures, print their paths."""
    config = read_flags(ManipulateConfig, argv, __doc__)
    run = open_run(config.checkpoint, config.device, config.data)
    print(f"checkpoint: {run.path}, epoch {run.checkpoint.epoch}")
    if config.html is not None:
        print(write_sliders(config, run, Path(config.html)))
        return
    wanted = [*config.add, *config.remove] or config.attribute
    names = list(dict.fromkeys(run.chosen_attributes(wanted, DEFAULT_ATTRIBUTES)))
    subjects, suffix = picture_subjects(config, names), "" if config.refine else "-decoded"
    paths = picture_paths(config.output, run.folder, subjects, config.files, suffix)
    guide = find_guide(config, run)
    # all edits are found before a picture is written: an error writes no picture
    directions = {name: find_direction(config, run, guide, name) for name in names}
    faces = take_faces(config, run)
    if config.add or config.remove:
        edits = [edit_together(config, run, directions, faces.codes)]
    elif config.to is not None:
        edits = [edit_until(config, run, guide, *one, faces.codes) for one in directions.items()]
    else:
        edits = [edit_in_steps(config, *one, faces.codes) for one in directions.items()]
    pictures = zip(edits, paths.items(), strict=True)
    lines = [write_edit(config, run, edit, faces, *place) for edit, place in pictures]
    print(*itertools.chain(*lines), sep="\n")


def write_sliders(config: ManipulateConfig, run: Run, path: Path) -> str:
    """Write a page with a slider for each attribute; return the line to print."""
    require_writable(path)
    statistics, (names, first) = run.statistics, slider_names(config, run)
    directions, probes = {name: run.direction(name, config.method) for name in names}, {}
    if names:
        units = unit_probes(linear_probe(statistics), statistics["covariance"])
        probes = {name: units[run.column(name)] for name in names}
    settings, faces = run.checkpoint.config, take_faces(config, run)
    about = {
        "checkpoint": "/".join(run.path.parts[-2:]),
        "epoch": run.checkpoint.epoch,
        "faces": statistics["n"],
        "method": config.method,
        "real": bool(config.image) or config.source == "val",
    }
    content = PageContent(
        run.model,
        run.prior(config.prior),
        settings["temperature"] if config.temperature is None else config.temperature,
        faces.codes,
        faces.labels,
        directions,
        first,
        probes,
        statistics["mean"],
        about,
        run.refiner if config.refine else None,
        *run.refinement(config.refine_steps, config.refine_strength),
    )
    return write_page(path, content)


def slider_names(config: ManipulateConfig, run: Run) -> tuple[list[str], list[str]]:
    """Return the attributes that get a slider, and those of them whose slider always shows."""
    if "attribute_names" not in run.statistics and not config.attribute:
        return [], []
    common = common_attributes(run.statistics)
    wanted = run.chosen_attributes(config.attribute, DEFAULT_ATTRIBUTES)
    known = dict.fromkeys([*wanted, *run.attribute_names])
    names = [name for name in known if common[run.column(name)]]
    return names, [name for name in wanted if name in names]


def picture_subjects(config: ManipulateConfig, names: Sequence[str]) -> list[str]:
    """Return the subject of each picture, for its file name."""
    if config.add or config.remove:
        return ["arithmetic"]
    return [name if config.to is None else f"{name}-to-{config.to:g}" for name in names]


def find_guide(config: ManipulateConfig, run: Run) -> Judge | None:
    """Return the guide if --to or --keep needs it."""
    if config.to is None and not config.keep:
        return None
    guide = open_judge("guide", run, config.judges)
    print(f"guide: {guide.path}")
    return guide.model


def find_direction(config: ManipulateConfig, run: Run, guide: Judge | None, name: str) -> Tensor:
    """Return the direction of an attribute, (D,); print how it was found."""
    column, statistics = run.column(name), run.statistics
    direction = run.direction(name, config.method)
    if config.keep:
        direction = keep_still(run.decode, guide, statistics, column, direction, config.keep)
    having, lacking = class_counts(statistics, column)
    print(f"{name}: {describe_method(config)}, from {having:,} faces with it, {lacking:,} without")
    return direction


def describe_method(config: ManipulateConfig) -> str:
    """Return how directions are found, in words."""
    return config.method + (f", keeping {' '.join(config.keep)}" if config.keep else "")


def take_faces(config: ManipulateConfig, run: Run) -> Faces:
    """Return the faces to edit."""
    if config.image:
        photos = run.photo_faces(config)
        codes, _ = run.encode(torch.stack([face.image for face in photos]))
        return Faces(codes, [face.label for face in photos], range(len(photos)), photos)
    if config.source == "mean":
        return Faces(run.statistics["mean"][None], ["mean"], [0])
    labels = [str(face) for face in config.faces]
    if config.source == "random":
        z = run.sample(config.seed, config.faces, config.prior, config.temperature)
        return Faces(z, labels, config.faces)
    rows = run.faces.rows("val")
    if max(config.faces) >= len(rows):
        raise UserError(f"--faces of the val split go to {len(rows) - 1}; got {max(config.faces)}")
    return Faces(run.encode(run.images(rows[list(config.faces)]))[0], labels, config.faces)


def edit_in_steps(config: ManipulateConfig, name: str, direction: Tensor, z: Tensor) -> Edit:
    """Return a sweep of codes z (N, D): a column for each strength."""
    strengths = config.strengths or STRENGTHS
    columns = [f"{strength:+g}" if strength else "0" for strength in strengths]
    return Edit(name, sweep(z, direction, strengths), columns)


def edit_until(
    config: ManipulateConfig, run: Run, guide: Judge, name: str, direction: Tensor, z: Tensor
) -> Edit:
    """Return codes z (N, D) before and after each moves until the guide's probability is --to.

    A face that does not reach it moves to its highest probability.
    """
    target, column = config.to, find_attribute(name, guide.arch["attribute_names"])
    edited, strengths, highest = move_until(run.decode, guide, z, direction, column, target)
    notes = [
        f"{strength:+.2f}" if most >= target else f"not reached, {most:.2f} at {strength:+.2f}"
        for strength, most in zip(strengths, highest, strict=True)
    ]
    codes = torch.stack([z, edited], dim=1)
    return Edit(f"{name} to a probability of {target:g}", codes, ("before", "after"), notes)


def edit_together(
    config: ManipulateConfig, run: Run, directions: Mapping[str, Tensor], z: Tensor
) -> Edit:
    """Return codes z (N, D) before and after --add and --remove."""
    added, removed = (run.chosen_attributes(names, ()) for names in (config.add, config.remove))
    edited = z + sum(directions[name] for name in added) - sum(directions[name] for name in removed)
    title = " ".join([*(f"+{name}" for name in added), *(f"-{name}" for name in removed)])
    return Edit(title, torch.stack([z, edited], dim=1), ("before", "after"))


def write_edit(
    config: ManipulateConfig, run: Run, edit: Edit, faces: Faces, subject: str, path: Path
) -> list[str]:
    """Write the picture of an edit, its GIF and its single faces; return the lines to print."""
    shape, labels = edit.codes.shape[:2], faces.labels
    rows, title = labels, f"{edit.title} ({describe_method(config)})"
    if edit.notes:
        rows = [f"{label}: {note}" for label, note in zip(labels, edit.notes, strict=True)]
        print(f"{title}, strength:", *rows, sep="\n  ")
    # such as Smiling+1 and arithmetic-after
    suffixes = [subject + (one if one[0] in "+-0" else f"-{one}") for one in edit.columns]
    if faces.photos:
        lines = write_photos(config, run, edit, faces, suffixes, rows, title, path)
    else:
        numbers = [number for number in faces.numbers for _ in edit.columns]
        x = run.render(edit.codes.flatten(0, 1), numbers, config).unflatten(0, shape)
        lines = [save_labelled_grid(x, path, edit.columns, rows, title)]
        if config.files:
            names = [f"{label}-{suffix}" for label in labels for suffix in suffixes]
            lines.append(save_pictures(x.flatten(0, 1), Path(config.files), names))
    if config.gif:
        z = lerp(edit.codes[:, 0], edit.codes[:, -1], GIF_FRAMES)
        frames = [run.render(codes, faces.numbers, config) for codes in z.unbind(1)]
        lines.append(save_gif(frames, path.with_suffix(".gif"), columns=min(4, len(labels))))
    return lines


def write_photos(
    config: ManipulateConfig,
    run: Run,
    edit: Edit,
    faces: Faces,
    suffixes: Sequence[str],
    rows: Sequence[str],
    title: str,
    path: Path,
) -> list[str]:
    """Write the picture of an edit of photos, and the edited photos; return the lines to print."""
    codes = torch.cat([faces.codes[:, None], edit.codes], dim=1)
    numbers = [number for number in faces.numbers for _ in range(codes.shape[1])]
    shown = run.render(codes.flatten(0, 1), numbers, config).unflatten(0, codes.shape[:2])
    written = []

    def keep(name: str, photo: Photo, column: int, own: Image.Image) -> None:
        if config.files:
            file = Path(config.files, file_name(f"{name}-{suffixes[column]}") + ".png")
            written.append(write_whole(file, photo.encode(own)))

    panels = edit_photos(faces.photos, shown, keep)
    labels = [f"{row}, {what}" for row in rows for what in ("decoded", "photo")]
    columns = ["photo, crop", "unedited", *edit.columns]
    lines = [save_labelled_grid(panels, path, columns, labels, title)]
    return [*lines, describe_folder(Path(config.files), written)] if config.files else lines


if __name__ == "__main__":
    sys.exit(main())
