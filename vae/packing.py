"""From a file list to one uint8 array on disk: every picture read, cut and resized, once."""

import json
import os
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from vae.celeba import Faces
from vae.errors import UserError
from vae.files import whole_file, write_text
from vae.images import UNREADABLE, Crop, JpegDecoder, decode_picture, why_unreadable
from vae.workers import usable_cores, worker_map


def pack(faces: Faces, image_size: int, crop: Crop, cache_dir: Path) -> tuple[Path, dict[str, str]]:
    """Return the .npy of all faces' squares, uint8 (N, S, S, 3), and why some are unreadable.

    The array is made once and taken again while pictures, size and crop are the same; beside it
    a .json says what it holds. Unreadable pictures leave a black row.

    Raises UserError if the disk has no room for it.
    """
    place = f"{faces.source.absolute()} {len(faces.names)}"
    tag = sha256(place.encode()).hexdigest()[:8]
    parent = faces.source.absolute().parent
    path = cache_dir / f"{parent.name}-{image_size}px-{crop}-{tag}.npy"
    contents = path.with_suffix(".json")
    wanted = {
        "source": str(faces.source.absolute()),
        "count": len(faces.names),
        "image_size": image_size,
        "crop": crop,
        "fingerprint": faces.fingerprint(),
    }
    _require_folder(cache_dir)
    bad = _already_packed(path, contents, wanted)
    if bad is not None:
        return path, bad
    _require_space(path, len(faces.names) * image_size**2 * 3)
    contents.unlink(missing_ok=True)
    bad = _write_array(path, faces, image_size, crop)
    write_text(contents, json.dumps({**wanted, "bad": bad}, indent=2))
    return path, bad


def _require_folder(cache_dir: Path) -> None:
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--cache-dir {cache_dir} cannot be made: {error.strerror}") from error


def _already_packed(path: Path, contents: Path, wanted: dict[str, Any]) -> dict[str, str] | None:
    """Return why some faces are unreadable if path holds what is wanted, whole; else None."""
    try:
        found = json.loads(contents.read_text(encoding="utf-8"))
        bad = found.pop("bad")
        count = len(np.load(path, mmap_mode="r"))
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return bad if found == wanted and count == wanted["count"] else None


def _require_space(path: Path, size: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if size > free:
        raise UserError(
            f"the packed faces need {size / 1e9:.2f} GB and {path.parent} has {free / 1e9:.2f} GB "
            "free: pass --cache-dir on another disk, or --max-images"
        )


def _write_array(path: Path, faces: Faces, image_size: int, crop: Crop) -> dict[str, str]:
    """Decode all faces on all cores into path; return why some are unreadable."""
    bad: dict[str, str] = {}
    count = len(faces.names)
    workers = min(usable_cores(), count // _FACES_WORTH_A_PROCESS)
    decode_jpeg = _fast_decoder() if workers > 1 else None
    with whole_file(path) as partial:
        first = _write_header(partial, (count, image_size, image_size, 3))
        job = (faces, image_size, crop, decode_jpeg, partial, first)
        with (
            worker_map(workers, _begin, job, chunk=_PIECES_AT_ONCE) as pack_all,
            tqdm(total=count, desc="packing", unit="image", disable=None) as bar,
        ):
            for reasons in pack_all(_pack_piece, range(0, count, _FACES_A_PIECE)):
                bad.update(reasons)
                bar.update(min(_FACES_A_PIECE, count - bar.n))
    _work.clear()
    return bad


def _fast_decoder() -> JpegDecoder | None:
    """Return torchvision's decoder, or None where that has left torchvision, as it is to."""
    try:
        # here: it takes as long as importing torch, and is for packing alone
        from torchvision.io import decode_jpeg
    except (ImportError, RuntimeError):  # RuntimeError: it was built for another torch
        return None
    return decode_jpeg


_FACES_WORTH_A_PROCESS = 512
_FACES_A_PIECE = 32
_PIECES_AT_ONCE = 4
_work: dict[str, Any] = {}
"""What a packing process works on, opened and made once."""


def _write_header(path: Path, shape: tuple[int, ...]) -> int:
    """Begin a .npy of uint8 at path; return the byte at which its pixels begin."""
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        return file.tell()


def _begin(
    faces: Faces,
    image_size: int,
    crop: Crop,
    decode_jpeg: JpegDecoder | None,
    path: Path,
    first: int,
) -> None:
    if decode_jpeg:
        # of damage that it can read past it speaks there, as Pillow does not
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    reading = faces.reader()
    # one array for all pieces: new memory takes longer than what is written to it
    pixels = np.empty((_FACES_A_PIECE, image_size, image_size, 3), np.uint8)
    _work.update(names=faces.names, crop=crop, path=path, first=first, pixels=pixels)
    _work.update(decode_jpeg=decode_jpeg, reading=reading, read=reading.__enter__())


def _pack_piece(start: int) -> dict[str, str]:
    """Write the squares of a piece of the faces to their place; return why some are unreadable.

    Files are read before any is decoded: read and decoded by turns, both take longer.
    """
    names = _work["names"][start : start + _FACES_A_PIECE]
    pixels = _work["pixels"][: len(names)]
    how = (pixels.shape[1], _work["crop"], _work["decode_jpeg"])
    pixels.fill(0)
    reasons: dict[str, str] = {}
    contents = [_attempt(reasons, name, _work["read"], name) for name in names]
    for name, content, row in zip(names, contents, pixels, strict=True):
        if content is not None:
            square = _attempt(reasons, name, decode_picture, content, *how)
            if square is not None:
                row[:] = square
    _write_at(_work["first"] + start * pixels[0].nbytes, pixels)
    return {name: reasons[name] for name in names if name in reasons}


def _attempt(
    reasons: dict[str, str], name: str, step: Callable[..., Any], *arguments: Any
) -> Any | None:
    """Return what step gives; None, with a reason under name, if the picture is unreadable."""
    try:
        return step(*arguments)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    except UNREADABLE as error:
        reasons[name] = why_unreadable(error)
        return None


def _write_at(offset: int, pixels: np.ndarray) -> None:
    with open(_work["path"], "rb+") as file:
        file.seek(offset)
        file.write(pixels)
        if hasattr(os, "posix_fadvise"):
            # Linux begins to store them now, beside the decoding: else all wait for it at the end
            os.posix_fadvise(file.fileno(), offset, pixels.nbytes, os.POSIX_FADV_DONTNEED)
