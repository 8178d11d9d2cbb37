"""The faces of a data set, ready for use: their packed pixels, splits, attributes and people."""

import os
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np

from vae.data.celeba import SPLITS, Faces, find_faces
from vae.data.decoding import Crop
from vae.data.packing import pack
from vae.data.synthetic.dataset import write_synthetic
from vae.errors import UserError
from vae.files import write_text

SYNTHETIC_ROOT = Path("data/synthetic")
UNUSED = 255
"""The split of a picture that cannot be read."""


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

    def rows(self, split: str) -> np.ndarray:
        """Return the row numbers of a split, ascending. Raises UserError if there are none."""
        rows = np.flatnonzero(self.splits == SPLITS.index(split))
        if not len(rows):
            raise UserError(f"the {split} split of {len(self.names):,} faces is empty")
        return rows

    def digest(self) -> str:
        """Return 16 hex digits that identify this set of faces, wherever its files are."""
        digest = sha256(os.fsencode("\n".join(self.names)) + self.splits.tobytes())
        if self.attributes is not None:
            digest.update(" ".join(self.attribute_names).encode() + self.attributes.tobytes())
        return digest.hexdigest()[:16]


def load_faces(
    data: str,
    image_size: int,
    cache_dir: str,
    crop: Crop | None = None,
    max_images: int | None = None,
    skip_bad_images: bool = False,
) -> PackedFaces:
    """Return the faces under data, packed on first use; "synthetic" faces are drawn on first use.

    crop defaults to "celeba" for CelebA's layout and to "largest" for other pictures. max_images is
    the maximum number of images, evenly sampled from the sorted list.

    Raises UserError if there are no pictures, or if some cannot be read and skip_bad_images is off.
    """
    if data == "synthetic":
        write_synthetic(SYNTHETIC_ROOT)
    faces = find_faces(SYNTHETIC_ROOT if data == "synthetic" else Path(data))
    if max_images:
        faces = faces.take(max_images)
    crop = crop or ("celeba" if faces.aligned else "largest")
    path, bad = pack(faces, image_size, crop, Path(cache_dir))
    splits = faces.splits.copy()
    if bad:
        _require_skip(faces, bad, path, skip_bad_images)
        splits[[name in bad for name in faces.names]] = UNUSED
    return PackedFaces(
        np.load(path, mmap_mode="r"),
        faces.names,
        splits,
        faces.attributes,
        crop,
        path,
        faces.attribute_names,
        faces.people,
    )


def _require_skip(faces: Faces, bad: dict[str, str], path: Path, skip: bool) -> None:
    """Write the list of unreadable pictures; raise UserError unless they are to be skipped."""
    listing = path.with_suffix(".bad.txt")
    write_text(listing, "".join(f"{name}\t{reason}\n" for name, reason in bad.items()))
    if not skip:
        name, reason = next(iter(bad.items()))
        raise UserError(
            f"{faces.source / name} is not a readable image: {reason}. {len(bad):,} such files of "
            f"{len(faces.names):,} (list in {listing}). train.py --skip-bad-images leaves them out"
        )
