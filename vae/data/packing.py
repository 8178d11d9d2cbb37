"""From a file list to one uint8 array on disk: read, crop and resize every picture, once."""

import json
import os
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from vae.data.celeba import Faces
from vae.data.decoding import UNREADABLE, Crop, JpegDecoder, decode_picture, why_unreadable
from vae.data.workers import usable_cores, worker_map
from vae.errors import UserError
from vae.files import whole_file, write_text


def pack(faces: Faces, image_size: int, crop: Crop, cache_dir: Path) -> tuple[Path, dict[str, str]]:
    """Return the .npy of all squares, uint8 (N, S, S, 3), and the reasons of unreadable pictures.

    The array is written once and used again while pictures, size and crop stay the same. A .json
    beside it describes its contents. The row of an unreadable picture is black.

    Raises UserError if the disk has too little space.
    """
    source = faces.source.absolute()
    tag = sha256(f"{source} {len(faces.names)}".encode()).hexdigest()[:8]
    path = cache_dir / f"{source.parent.name}-{image_size}px-{crop}-{tag}.npy"
    contents = path.with_suffix(".json")
    wanted = {
        "source": str(source),
        "count": len(faces.names),
        "image_size": image_size,
        "crop": crop,
        "fingerprint": faces.fingerprint(),
    }
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--cache-dir {cache_dir} cannot be made: {error.strerror}") from error
    bad = _already_packed(path, contents, wanted)
    if bad is not None:
        return path, bad
    _require_space(path, len(faces.names) * image_size**2 * 3)
    contents.unlink(missing_ok=True)
    bad = _write_array(path, faces, image_size, crop)
    write_text(contents, json.dumps({**wanted, "bad": bad}, indent=2))
    return path, bad


def _already_packed(path: Path, contents: Path, wanted: dict[str, Any]) -> dict[str, str] | None:
    """Return the reasons of unreadable pictures if path is complete and as wanted, else None."""
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
    """Decode all pictures on all cores into path; return the reasons of unreadable ones."""
    bad: dict[str, str] = {}
    count = len(faces.names)
    workers = min(usable_cores(), count // _FACES_WORTH_A_PROCESS)
    decode_jpeg = _fast_decoder() if workers > 1 else None
    with whole_file(path) as partial:
        first = _write_header(partial, (count, image_size, image_size, 3))
        job = (faces, (image_size, crop, decode_jpeg), partial, first)
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
    """Return torchvision's JPEG decoder, or None if this torchvision does not have it."""
    try:
        # imported here: it takes as long as importing torch, and only packing needs it
        from torchvision.io import decode_jpeg
    except (ImportError, RuntimeError):  # RuntimeError: it was built for another torch
        return None
    return decode_jpeg


_FACES_WORTH_A_PROCESS = 512
_FACES_A_PIECE = 32
_PIECES_AT_ONCE = 4
_work: dict[str, Any] = {}
"""The state of a packing process, set once by _begin."""


def _write_header(path: Path, shape: tuple[int, ...]) -> int:
    """Write the header of a uint8 .npy to path; return the offset at which its pixels begin."""
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        return file.tell()


def _begin(faces: Faces, how: tuple[int, Crop, JpegDecoder | None], path: Path, first: int) -> None:
    """Prepare this process; how are the arguments of decode_picture after the content."""
    size, _, decode_jpeg = how
    if decode_jpeg:
        # the decoder writes warnings about minor damage to stderr
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    reading = faces.reader()
    _work.update(names=faces.names, how=how, size=size, path=path, first=first)
    _work.update(reading=reading, read=reading.__enter__())


def _pack_piece(start: int) -> dict[str, str]:
    """Write the squares of one piece to the array; return the reasons of unreadable pictures."""
    names = _work["names"][start : start + _FACES_A_PIECE]
    pixels = np.zeros((len(names), _work["size"], _work["size"], 3), np.uint8)
    reasons: dict[str, str] = {}
    for name, row in zip(names, pixels, strict=True):
        try:
            row[:] = decode_picture(_work["read"](name), *_work["how"])
        except UserError as error:
            raise UserError(f"{name}: {error}") from error
        except UNREADABLE as error:
            reasons[name] = why_unreadable(error)
    offset = _work["first"] + start * pixels[0].nbytes
    with open(_work["path"], "rb+") as file:
        file.seek(offset)
        file.write(pixels)
        if hasattr(os, "posix_fadvise"):
            # Linux starts to write to the disk now, while decoding goes on, not all at the end
            os.posix_fadvise(file.fileno(), offset, pixels.nbytes, os.POSIX_FADV_DONTNEED)
    return reasons
