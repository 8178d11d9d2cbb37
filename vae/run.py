"""An opened run: its model and what is derived from it. Every script but train.py starts here."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vae.checkpoint import (
    AlignerCheckpoint,
    Checkpoint,
    JudgeCheckpoint,
    build_model,
    build_refiner,
    load_checkpoint,
)
from vae.data.batches import batches
from vae.data.decoding import Crop
from vae.data.faces import PackedFaces, load_faces
from vae.device import pick_device, prepare_backend, require_memory
from vae.editing.finding import find_faces
from vae.editing.photos import Find, PhotoFace, faces_of_photos
from vae.errors import UserError
from vae.latent.codes import Statistics, image_noise
from vae.latent.directions import (
    attribute_directions,
    class_counts,
    find_attribute,
    logistic_normal,
    one_unit,
)
from vae.latent.prior import Mixture, make_prior
from vae.models.aligner import Aligner
from vae.models.coding import decode_codes, encode_batches, refine_images
from vae.models.refiner import Refiner
from vae.run_folders import FACES, PRETRAINED, RUNS, find_checkpoint, run_name
from vae.training.statistics import training_statistics

WEAK_DIRECTION = 0.3
"""length of a unit, as a fraction of the one by mean, below which an edit is hardly visible"""
ALIGNER = PRETRAINED / "aligner.pt"
"""the network that locates the eyes in photos"""


@dataclass(frozen=True, eq=False)
class Run:
    """A trained VAE and what belongs to it."""

    path: Path
    """of the checkpoint"""
    checkpoint: Checkpoint
    model: nn.Module
    device: torch.device
    data: str | None = None
    """the present place of the data set, if it has moved"""

    @property
    def folder(self) -> Path:
        """Where pictures go: the folder of the checkpoint; for the pretrained one in RUNS."""
        return RUNS / "pretrained" if self.is_pretrained else self.path.parent

    @property
    def is_pretrained(self) -> bool:
        """Whether this is the model that comes with the repository."""
        return self.path.parent.resolve() == PRETRAINED.resolve()

    @property
    def arch(self) -> dict[str, Any]:
        """The description of the model: see build."""
        return self.checkpoint.arch

    @cached_property
    def faces(self) -> PackedFaces:
        """The faces of the run's data set, cut as in training."""
        config = self.checkpoint.config
        return load_faces(
            self.data or config["data"],
            config["image_size"],
            config["cache_dir"],
            self.checkpoint.crop,
            config["max_images"],
            config["skip_bad_images"],
        )

    @cached_property
    def statistics(self) -> Statistics:
        """The statistics of the training codes. If the file has none, they are computed in memory.

        Raises UserError if the training faces are needed for that and are not there.
        """
        if self.checkpoint.statistics is not None:
            return self.checkpoint.statistics
        try:
            require_same_faces(self.checkpoint, self.faces, self.folder)
        except UserError as error:
            lacks = f"{self.path} has no latent statistics, and they come from its training faces"
            raise UserError(f"{lacks}: {error}") from error
        print(
            f"{self.path} has no latent statistics: computing them (train.py --resume stores them)"
        )
        return training_statistics(self.model, self.faces)

    def images(self, rows: np.ndarray, label: str | None = None) -> Iterator[Tensor]:
        """Yield the faces of these rows as batches on the device; label names a progress bar."""
        return batches(self.faces, rows, device=self.device, label=label)

    @property
    def in_celebas_frame(self) -> bool:
        """Whether the model is trained on pictures in CelebA's frame, cut by its rule."""
        statistics = self.checkpoint.statistics or {}
        return self.checkpoint.crop == "frame" and statistics.get("framed", 1) > 0.5

    @cache  # noqa: B019  a run lives as long as its script
    def photo_faces(self, config: Any) -> list[PhotoFace]:
        """Return the faces in the photos of a script's --image; print where they are.

        Raises UserError as faces_of_photos does.
        """
        find = face_finder() if self.in_celebas_frame else None
        return faces_of_photos(config, self.arch["image_size"], find)

    def encode(self, images: Tensor | Iterable[Tensor]) -> tuple[Tensor, Tensor]:
        """Return mu and logvar of images (N, 3, S, S), or of batches of them, both (N, D)."""
        return encode_batches(
            self.model, images.split(128) if isinstance(images, Tensor) else images
        )

    def decode(self, z: Tensor) -> Tensor:
        """Return the decoded images (N, 3, S, S) in [0, 1] of codes z (N, D).

        Raises UserError if they do not fit into memory.
        """
        # the images in float32, and once more in a grid
        require_memory(len(z), 2 * 4 * 3 * self.arch["image_size"] ** 2, "faces")
        return decode_codes(self.model, z)

    @cached_property
    def refiner(self) -> Refiner | None:
        """The refiner, if the run has one."""
        return build_refiner(self.path, self.checkpoint, self.device)

    def refine(
        self,
        x_hat: Tensor,
        numbers: Sequence[int],
        seed: int = 0,
        steps: int | None = None,
        strength: float | None = None,
    ) -> Tensor:
        """Return decoded images x_hat (N, 3, S, S) refined, or unchanged without a refiner.

        The noise of a face depends on seed and its number alone: a face keeps it in all frames of a
        sweep. steps and strength are by default the run's.
        """
        if not self.refiner:
            return x_hat
        noise = image_noise(seed, numbers, x_hat.shape[-1])
        return refine_images(self.refiner, x_hat, noise, *self.refinement(steps, strength))

    def refinement(self, steps: int | None, strength: float | None) -> tuple[int, float]:
        """Return the steps and the strength of the refiner: the run's where None is given.

        Raises UserError if one is given, and the run has no refiner.
        """
        config = self.checkpoint.config
        if not self.refiner and (steps, strength) != (None, None):
            trains = "train.py --resume RUN --refiner-epochs N trains one"
            raise UserError(f"{self.path} has no refiner: {trains}")
        steps = config["refine_steps"] if steps is None else steps
        return steps, config["refine_strength"] if strength is None else strength

    def render(self, z: Tensor, numbers: Sequence[int], config: Any) -> Tensor:
        """Return the images of codes z as a script shows them: decoded, and refined if it can be.

        config has the script's seed, refine, refine_steps and refine_strength.

        Raises UserError if steps or a strength are given, and the run has no refiner.
        """
        x_hat = self.decode(z)
        settings = self.refinement(config.refine_steps, config.refine_strength)
        return self.refine(x_hat, numbers, config.seed, *settings) if config.refine else x_hat

    def prior(self, name: str | None = None) -> Mixture:
        """Return the prior of this name, by default the run's.

        Raises UserError if the statistics are missing and cannot be computed.
        """
        name = name or self.checkpoint.config["prior"]
        statistics = None if name == "standard" else self.statistics
        return make_prior(name, statistics, self.arch["latent_dim"])

    def sample(
        self,
        seed: int,
        indices: Iterable[int],
        prior: str | None = None,
        temperature: float | None = None,
    ) -> Tensor:
        """Return codes of new faces, (N, D); a code depends on seed and its index alone.

        prior and temperature are by default the run's; both are printed.
        """
        config = self.checkpoint.config
        name = prior or config["prior"]
        temperature = config["temperature"] if temperature is None else temperature
        print(f"prior: {name}, temperature {temperature:g}")
        return self.prior(name).sample(seed, indices, temperature)

    @property
    def attribute_names(self) -> list[str]:
        """The names of the attributes that the run was trained with.

        Raises UserError if the data set had no attributes.
        """
        if "attribute_names" not in self.statistics:
            raise UserError(
                "this model was trained on pictures without attributes: edits need a data set "
                "with a table of them, such as list_attr_celeba.txt"
            )
        return self.statistics["attribute_names"]

    def column(self, name: str) -> int:
        """Return the column of an attribute, named in any case. Raises UserError if unknown."""
        return find_attribute(name, self.attribute_names)

    def chosen_attributes(self, names: Sequence[str], default: Sequence[str]) -> list[str]:
        """Return the exact names of attributes: names, else default, else the model's first two."""
        known = self.attribute_names
        if not names:
            names = default if set(default) <= set(known) else known[:2]
        return [known[find_attribute(name, known)] for name in names]

    def direction(self, name: str, method: str = "round-trip") -> Tensor:
        """Return the direction in which an attribute grows, (D,); adding it is one unit.

        Raises UserError if the attribute is unknown or too rare, or if method is "logistic" and the
        training faces are not there.
        """
        column, statistics = self.column(name), self.statistics
        class_counts(statistics, column)
        if method == "logistic":
            require_same_table(statistics, self.faces)
            rows = self.faces.rows("train")
            known = np.isin(rows, self.faces.with_attributes(rows))
            has = torch.from_numpy(self.faces.attributes[rows[known], column])
            return one_unit(statistics, column, logistic_normal(self._training_codes[known], has))
        direction, mean = self._directions(method)[column], self._directions("mean")[column]
        fraction = (direction.norm() / mean.norm()).item()
        if fraction < WEAK_DIRECTION:
            print(
                f"{name}: a unit by {method} has {fraction:.0%} of the length by mean, since most "
                "of the difference belongs to other attributes; for larger edits: --method mean"
            )
        return direction

    @cache  # noqa: B019  a run lives as long as its script
    def _directions(self, method: str) -> Tensor:
        return attribute_directions(self.statistics, method)

    @cached_property
    def _training_codes(self) -> Tensor:
        require_same_faces(self.checkpoint, self.faces, self.folder)
        return self.encode(self.images(self.faces.rows("train"), "encoding"))[0]


def open_run(path: Path | str | None = None, device: str = "auto", data: str | None = None) -> Run:
    """Return the run of a checkpoint or folder, by default the newest.

    data is the present place of the data set, if it has moved.

    Raises UserError if there is none or it cannot be read.
    """
    found, place = find_checkpoint(path), pick_device(device)
    prepare_backend(place)
    checkpoint = load_checkpoint(found)
    return Run(found, checkpoint, build_model(found, checkpoint, place), place, data)


def face_finder() -> Find:
    """Return the function that finds faces: it opens the aligner at its first call.

    Its calls raise UserError if the aligner or OpenCV is not there.
    """

    @cache
    def opened() -> Aligner:
        stored = load_checkpoint(ALIGNER, AlignerCheckpoint)
        return build_model(ALIGNER, stored, torch.device("cpu"))

    return lambda picture: find_faces(picture, opened())


@dataclass(frozen=True)
class OpenedJudge:
    """A guide or a judge, and where it comes from."""

    path: Path
    checkpoint: JudgeCheckpoint
    model: nn.Module


def open_judge(role: str, run: Run, folder: str | None = None) -> OpenedJudge:
    """Return the "guide" or the "judge" in folder, by default the newest for the run's data.

    Raises UserError if it is not there, or was trained on faces of another crop or size.
    """
    path = _find_judge(role, folder, run)
    checkpoint = load_checkpoint(path, JudgeCheckpoint)
    trained, needed = _kind_of_faces(checkpoint), _kind_of_faces(run.checkpoint)
    if trained != needed:
        raise UserError(f"{path} is for faces of {trained}; the run's are of {needed}")
    return OpenedJudge(path, checkpoint, build_model(path, checkpoint, run.device))


def _kind_of_faces(checkpoint: Checkpoint | JudgeCheckpoint) -> str:
    return f"{checkpoint.config['image_size']} px, crop {checkpoint.crop}"


def _find_judge(role: str, folder: str | None, run: Run) -> Path:
    config = run.checkpoint.config
    data, size, crop = (config[name] for name in ("data", "image_size", "crop_size"))
    name = f"{run_name(data, size)}-judges"
    folders = [Path(folder)] if folder else [RUNS / name, *RUNS.glob(f"{name}-[0-9]*")]
    found = [path for place in folders if (path := place / f"{role}.pt").exists()]
    shipped = PRETRAINED / f"{role}.pt"
    if not folder and (not found or run.is_pretrained) and shipped.exists():
        kind = _kind_of_faces(load_checkpoint(shipped, JudgeCheckpoint))
        found = [shipped] if kind == _kind_of_faces(run.checkpoint) else found
    if not found:
        command = f"python train_judge.py --data {data} --image-size {size}"
        command += f" --crop-size {crop}" if crop else ""
        raise UserError(
            f"there is no {role} at {folders[0]}/{role}.pt: {command}, or pass --judges"
        )
    return max(found, key=lambda path: path.stat().st_mtime)


def require_same_faces(
    checkpoint: Checkpoint, faces: PackedFaces, folder: Path | None = None
) -> None:
    """Raise UserError if these are not the faces, or not the crop, of the checkpoint.

    The names are in the FACES of the run's folder, where that is still there.
    """
    old: tuple[str, Crop] = (checkpoint.digest, checkpoint.crop)
    new = (faces.digest(), faces.crop)
    if old == new:
        return
    trained, given = (f"faces {digest}, crop {crop}" for digest, crop in (old, new))
    what = [("names", 0), ("splits", 8), ("pixels", 16)]
    other = [name for name, at in what if old[0][at : at + 8] != new[0][at : at + 8]]
    listed = folder and folder / FACES
    if "names" in other and listed and listed.is_file():
        before = set(os.fsdecode(listed.read_bytes()).split("\n")) - {""}
        added, gone = set(faces.names) - before, before - set(faces.names)
        other = [f"names: {len(added):,} added, {len(gone):,} gone"]  # splits and pixels follow
    differs = f"other {', '.join(other) or 'crop'}"
    raise UserError(
        f"the run has {trained}; --data has {given} ({differs}): "
        "train.py with another --run-dir starts anew"
    )


def require_same_table(statistics: Statistics, faces: PackedFaces) -> None:
    """Raise UserError if the statistics are of another table of attributes than the faces'."""
    if statistics["table"] != faces.table_digest():
        raise UserError("the attributes have changed since training: train.py --resume takes them")
