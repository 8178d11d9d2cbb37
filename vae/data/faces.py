"""The faces of a data set, ready for use: their packed pixels, splits, attributes and people."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from vae.data.celeba import BY_HASH, SPLITS, UNUSED, Faces, fill_splits, find_faces
from vae.data.decoding import Crop
from vae.data.packing import Contents, checksums_of, pack
from vae.data.synthetic.dataset import write_synthetic
from vae.errors import RunStopped, UserError
from vae.files import write_whole

SYNTHETIC_ROOT = Path("data/synthetic")


@dataclass(frozen=True)
class PackedFaces:
    """A packed data set. Row i of every array is one face."""

    pixels: np.ndarray  # (N, S, S, 3) uint8, memory-mapped
    names: tuple[str, ...]
    splits: np.ndarray  # (N,) uint8, an index into SPLITS, or UNUSED
    attributes: np.ndarray | None  # (N, K) bool, one column for each name; None without a table
    crop: Crop
    path: Path  # of the packed array
    attribute_names: tuple[str, ...] = ()
    people: np.ndarray | None = None  # (N,) int64, the number of the person; None without a table
    known: np.ndarray | None = None  # (N,) bool, whether a face has attributes; None: all
    checksums: tuple[int, ...] | None = None  # crc32 of each block of 1,024 rows
    framed: int = 0  # number of pictures in CelebA's frame
    description: tuple[str, ...] = ()  # lines to print: splits, tables, crop, left out

    def rows(self, split: str) -> np.ndarray:
        """Return the row numbers of a split, ascending. Raises UserError if there are none."""
        rows = np.flatnonzero(self.splits == SPLITS.index(split))
        if not len(rows):
            raise UserError(f"the {split} split of {len(self.names):,} faces is empty")
        return rows

    def with_attributes(self, rows: np.ndarray) -> np.ndarray:
        """Return those rows whose faces have a row in the table of attributes."""
        return rows if self.known is None else rows[self.known[rows]]

    def digest(self) -> str:
        """Return 24 hex digits: 8 for the names, 8 for the splits and 8 for the pixels."""
        checksums = checksums_of(self.pixels) if self.checksums is None else self.checksums
        names, sums = os.fsencode("\n".join(self.names)), str(list(checksums)).encode()
        parts = (names, self.splits.tobytes(), sums)
        return "".join(sha256(part).hexdigest()[:8] for part in parts)

    def table_digest(self) -> int:
        """Return a 60-bit number that identifies the attributes of the faces."""
        arrays = (array for array in (self.attributes, self.known) if array is not None)
        parts = ("\n".join(self.attribute_names).encode(), *(array.tobytes() for array in arrays))
        return int(sha256(b"\n".join(parts)).hexdigest()[:15], 16)


def load_config_faces(config: Any) -> PackedFaces:
    """Return the result of load_faces for the data fields of a TrainConfig or JudgeConfig."""
    names = ("data", "image_size", "cache_dir", "crop_size", "max_images", "skip_bad_images")
    return load_faces(*(getattr(config, name) for name in names))


def load_faces(
    data: str,
    image_size: int,
    cache_dir: str,
    crop: Crop | None = None,
    max_images: int | None = None,
    skip_bad_images: bool = False,
) -> PackedFaces:
    """Return the faces under data, packed on first use. "synthetic" is the built-in data set.

    crop defaults to "frame". max_images is the maximum number of images, evenly sampled from the
    sorted list.

    Raises UserError if there are no pictures, if the train split is empty, or if some pictures
    cannot be used and skip_bad_images is off.
    """
    if data == "synthetic":
        write_synthetic(SYNTHETIC_ROOT)
    faces = find_faces(SYNTHETIC_ROOT if data == "synthetic" else Path(data))
    if max_images:
        faces = faces.take(max_images)
    crop = crop or "frame"
    path, contents = pack(faces, image_size, crop, Path(cache_dir), max_images)
    bad, lines = contents["bad"], []
    if left_out := faces.left_out | bad:
        listing = write_left_out(path.with_suffix(".left-out.txt"), left_out)
        if bad and (not skip_bad_images or len(bad) == len(faces.names)):
            raise UserError(_describe_bad(faces, bad, listing))
        kinds = Counter(faces.left_out.values()) + Counter({"not readable": len(bad)})
        lines = [describe_left_out(kinds, listing)]
    splits, filled = _usable_splits(faces, bad)
    origins = "; ".join(f"{what}: {origin}" for what, origin in faces.origins.items())
    lines = [f"{origins}; crop: {_describe_crop(crop, contents, len(splits))}", *filled, *lines]
    first = f"data: {_counts(splits)} of {len(splits):,} images in {faces.source}"
    return PackedFaces(
        pixels=np.load(path, mmap_mode="r"),
        names=faces.names,
        splits=splits,
        attributes=faces.attributes,
        crop=crop,
        path=path,
        attribute_names=faces.attribute_names,
        people=faces.people,
        known=faces.known,
        checksums=tuple(contents["checksums"]),
        framed=contents["framed"],
        description=(first, *(f"      {line}" for line in lines)),
    )


def _describe_bad(faces: Faces, bad: dict[str, str], listing: str) -> str:
    """Return the message about the files of faces that cannot be read."""
    name, reason = next(iter(bad.items()))
    some = len(bad) < len(faces.names)
    advice = "train.py --skip-bad-images leaves them out" if some else "pass pictures as --data"
    return (
        f"{faces.source / name} is not a readable image: {reason}. {len(bad):,} of "
        f"{len(faces.names):,} files are not (list in {listing}). {advice}"
    )


def _usable_splits(faces: Faces, bad: dict[str, str]) -> tuple[np.ndarray, Sequence[str]]:
    """Return the split of each face, and lines about it. Raises UserError if train is empty."""
    splits = np.where([name in bad for name in faces.names], UNUSED, faces.splits).astype(np.uint8)
    splits, filled = fill_splits(faces.names, splits, faces.origins["splits"] == BY_HASH)
    if not (splits == SPLITS.index("train")).any():
        raise UserError(
            f"the train split of {faces.source} is empty: {_counts(splits)} of "
            f"{len(splits):,} images, by {faces.origins['splits']}"
        )
    return splits, filled


def describe_left_out(kinds: Counter[str], listing: str) -> str:
    """Return the line about files that are left out, counted by the kind of reason."""
    counts = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items())
    return f"left out: {kinds.total():,} ({counts}; {listing})"


def write_left_out(path: Path, left_out: dict[str, str]) -> str:
    """Write the names of the files left out, and the reasons, to path. Returns path.

    On a read-only disk, returns why there is no list.
    """
    lines = "".join(f"{name}\t{reason}\n" for name, reason in left_out.items())
    content = lines.encode("utf-8", "surrogateescape")
    if not (path.exists() and path.read_bytes() == content):
        try:
            write_whole(path, content)
        except RunStopped as error:
            return str(error)
    return str(path)


def _counts(splits: np.ndarray) -> str:
    counts = (np.count_nonzero(splits == code) for code in range(len(SPLITS)))
    return ", ".join(f"{count:,} {name}" for count, name in zip(counts, SPLITS, strict=True))


def _describe_crop(crop: Crop, contents: Contents, count: int) -> str:
    if crop != "frame":
        return f"the centred {crop} pixels"
    framed, others = contents["framed"], count - len(contents["bad"]) - contents["framed"]
    if framed and others:
        return f"CelebA's 128 of 178 for {framed:,} images, the largest square for {others:,}"
    return "CelebA's 128 of 178" if framed else "the largest square"
