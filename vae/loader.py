"""From the packed uint8 array to batches: gathered, moved to the device, mirrored."""

import itertools
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from vae.celeba import SPLITS, Faces, find_faces
from vae.errors import UserError
from vae.files import write_text
from vae.images import Crop, to_float
from vae.packing import pack
from vae.synthetic import write_synthetic

SYNTHETIC_ROOT = Path("data/synthetic")


@dataclass(frozen=True)
class PackedFaces:
    """A data set ready for training. Row i of every field is one face."""

    pixels: np.ndarray
    """(N, S, S, 3) uint8, mapped from the file"""
    names: tuple[str, ...]
    splits: np.ndarray
    """(N,) uint8, an index into SPLITS; UNUSED where the picture could not be read"""
    attributes: np.ndarray | None
    """(N, 40) bool, columns as ATTRIBUTE_NAMES; None where nothing is known"""
    crop: Crop
    path: Path
    """of the packed array"""

    def rows(self, split: str) -> np.ndarray:
        """Return the row numbers of a split, ascending. Raises UserError if there are none."""
        rows = np.flatnonzero(self.splits == SPLITS.index(split))
        if not len(rows):
            raise UserError(f"the {split} split of {len(self.names):,} faces is empty")
        return rows

    def digest(self) -> str:
        """Return what tells this set of faces from another, wherever it lies on disk."""
        digest = sha256(os.fsencode("\n".join(self.names)) + self.splits.tobytes())
        digest.update(b"" if self.attributes is None else self.attributes.tobytes())
        return digest.hexdigest()[:16]


UNUSED = 255


def load_faces(
    data: str,
    image_size: int,
    cache_dir: str,
    crop: Crop | None = None,
    max_images: int | None = None,
    skip_bad_images: bool = False,
) -> PackedFaces:
    """Return the faces under data, packed on first use; "synthetic" are drawn on first use.

    Without crop the layout decides how the square is cut. max_images takes that many, evenly over
    the file list.

    Raises UserError if there are none, or if some cannot be read and are not to be skipped.
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
    pixels = np.load(path, mmap_mode="r")
    return PackedFaces(pixels, faces.names, splits, faces.attributes, crop, path)


def load_run_faces(
    config: Mapping[str, Any], data: str | None = None, crop: Crop | None = None
) -> PackedFaces:
    """Return the faces that a training configuration names.

    data says where they lie now, crop how the run cut them; without crop the configuration does.
    """
    return load_faces(
        data or config["data"],
        config["image_size"],
        config["cache_dir"],
        crop or config["crop_size"],
        config["max_images"],
        config["skip_bad_images"],
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


def batches(
    faces: PackedFaces,
    rows: np.ndarray,
    batch_size: int = 128,
    device: torch.device | str = "cpu",
    mirrored: np.ndarray | None = None,
    label: str | None = None,
    resident: Tensor | None = None,
) -> Iterator[Tensor]:
    """Yield the given rows as float images (B, 3, S, S) in [0, 1] on device, in order.

    mirrored (one bool a row) says which are flipped left to right. The last batch may be smaller.
    A label asks for a progress bar of that name. resident is what place_pixels returned: without
    it a thread gathers the next batches from the file while one is in use.
    """
    device = torch.device(device)
    parts = np.split(rows, range(batch_size, len(rows), batch_size)) if len(rows) else []
    if resident is None:
        gathered = _gather_ahead(faces.pixels, parts, pin=device.type == "cuda")
    else:
        gathered = (resident[torch.from_numpy(part).to(device)] for part in parts)
    bar = tqdm(
        gathered, label, len(parts), unit="batch", leave=False, disable=None if label else True
    )
    for start, pixels in zip(itertools.count(0, batch_size), bar):
        x = to_float(pixels.to(device, non_blocking=True))
        if mirrored is not None:
            coins = torch.from_numpy(mirrored[start : start + batch_size]).to(device)
            x = torch.where(coins[:, None, None, None], x.flip(3), x)
        yield x


def _gather_ahead(
    pixels: np.ndarray, parts: Sequence[np.ndarray], pin: bool, ahead: int = 3
) -> Iterator[Tensor]:
    """Yield the rows of each part, gathered by a thread while the ones before are in use."""

    def gather(part: np.ndarray) -> Tensor:
        rows = torch.from_numpy(pixels[part])
        return rows.pin_memory() if pin else rows

    with ThreadPoolExecutor(1) as pool:
        under_way: deque[Future[Tensor]] = deque()
        try:
            for part in parts:
                under_way.append(pool.submit(gather, part))
                if len(under_way) > ahead:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def place_pixels(faces: PackedFaces, device: torch.device) -> Tensor | None:
    """Return all pixels as one uint8 tensor on a cuda device with room for them, else None.

    Half of the free memory is left to the model. On cpu and mps the file's own pages serve.
    """
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return copy_pixels(faces, device) if faces.pixels.nbytes < free / 2 else None


def copy_pixels(faces: PackedFaces, device: torch.device) -> Tensor:
    """Return a copy of all pixels on device, uint8 (N, S, S, 3), made piece by piece."""
    resident = torch.empty(faces.pixels.shape, dtype=torch.uint8, device=device)
    for start in range(0, len(resident), 1024):
        piece = torch.from_numpy(faces.pixels[start : start + 1024].copy())
        resident[start : start + 1024] = piece.to(device)
    return resident
