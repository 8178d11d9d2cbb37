"""Pack all pictures, cropped and resized, into one uint8 array on disk."""

import contextlib
import json
import os
import random
import re
import shutil
import tokenize
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any, TypedDict
from zlib import crc32

import numpy as np
from tqdm import tqdm

from vae.data.celeba import Faces
from vae.data.decoding import BadPicture, Crop, quiet_stderr, read_square
from vae.errors import RunStopped, UserError
from vae.files import remove_leftovers, whole_file, write_text

BLOCK = 1024
"""Number of rows that share one checksum."""
_BLOCKS_CHECKED, _ALL_CHECKED = 16, 10**9
"""Number of random blocks checked at each start; up to this size in bytes, all are checked."""


class Contents(TypedDict):
    """The description of a packed array, stored as .json beside it."""

    made_of: list[Any]  # source, image size, crop, max_images, and the digest of the names
    stamp: str  # Pictures.stamp
    full_stamp: str  # the result of Pictures.full_stamp
    bad: dict[str, str]  # by name, why a picture cannot be used; its row is black
    framed: int  # number of pictures in CelebA's frame
    checksums: list[int]  # crc32 of each BLOCK of rows


def pack(
    faces: Faces, image_size: int, crop: Crop, cache_dir: Path, max_images: int | None = None
) -> tuple[Path, Contents]:
    """Return the path of the .npy of all squares, uint8 (N, S, S, 3), and its description.

    The array is written on first use, and again when the pictures change. Each combination of
    source, image size, crop and max_images has its own file.

    Raises UserError if the disk has too little space.
    """
    source = faces.pictures.source.absolute()
    made_of = [str(source), image_size, crop, max_images]
    tag = sha256(json.dumps(made_of).encode()).hexdigest()[:16]
    name = re.sub(r"\W", "_", source.stem, flags=re.ASCII)
    path = cache_dir / f"{name}-{image_size}px-{tag}.npy"
    made_of.append(sha256(os.fsencode("\0".join((faces.folder, *faces.names)))).hexdigest())
    contents = _packed_contents(path, faces, made_of, image_size)
    if contents is None:
        _require_space(cache_dir, len(faces.names) * image_size**2 * 3)
        path.with_suffix(".json").unlink(missing_ok=True)
        stamps = {"stamp": faces.pictures.stamp, "full_stamp": faces.pictures.full_stamp()}
        contents = Contents(made_of=made_of, **stamps, bad={}, framed=0, checksums=[])
        _write_array(path, faces, image_size, crop, contents)
        write_text(path.with_suffix(".json"), json.dumps(contents, indent=1))
    return path, contents


def _packed_contents(
    path: Path, faces: Faces, made_of: list[Any], image_size: int
) -> Contents | None:
    """Return the description of a packed array, or None if it must be packed again."""
    if not (path.is_file() and path.with_suffix(".json").is_file()):  # a pipe would be waited for
        return None
    try:
        contents = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        pixels, checksums = np.load(path, mmap_mode="r"), contents["checksums"]
        # checksums are those of the bytes alone
        shape, kinds = (len(faces.names), image_size, image_size, 3), (dict, int)
        right = all(map(isinstance, (contents["bad"], contents["framed"]), kinds))
        if not right or (pixels.shape, pixels.dtype) != (shape, np.uint8):
            return None
        blocks = range(len(checksums))
        if pixels.nbytes > _ALL_CHECKED:
            blocks = random.sample(blocks, min(_BLOCKS_CHECKED, len(blocks)))
        intact = all(checksums_of(pixels, block) == [checksums[block]] for block in blocks)
        if not intact or contents["made_of"] != made_of:
            return None
        if contents["stamp"] == faces.pictures.stamp and not contents["bad"]:
            return contents
        # stamp misses a bad picture that was replaced in place: its folder's time is unchanged
        if contents["full_stamp"] != faces.pictures.full_stamp():
            return None
        if contents["stamp"] != faces.pictures.stamp:
            contents["stamp"] = faces.pictures.stamp
            with contextlib.suppress(RunStopped):  # a read-only disk: the next start looks again
                write_text(path.with_suffix(".json"), json.dumps(contents, indent=1))
        return contents
    except (OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    except (SyntaxError, tokenize.TokenError):  # numpy reads the header as Python
        return None


def checksums_of(pixels: np.ndarray, *blocks: int) -> list[int]:
    """Return the crc32 of each of these blocks of BLOCK rows, by default of all blocks."""
    blocks = blocks or range(-(-len(pixels) // BLOCK))
    return [crc32(pixels[block * BLOCK : (block + 1) * BLOCK]) for block in blocks]


def _require_space(cache_dir: Path, size: int) -> None:
    """Make the folder. Raises UserError if that fails, or if less than size bytes are free."""
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--cache-dir {cache_dir} cannot be made: {error.strerror}") from error
    remove_leftovers(cache_dir.resolve())  # a killed process may have left gigabytes
    free = shutil.disk_usage(cache_dir).free
    if size > free:
        raise UserError(
            f"the packed faces need {size / 1e6:,.1f} MB and {cache_dir} has {free / 1e6:,.1f} MB "
            "free: pass --cache-dir on another disk, or --max-images"
        )


def _write_array(path: Path, faces: Faces, size: int, crop: Crop, contents: Contents) -> None:
    """Decode all pictures into path, on all cores. Fills in bad, framed and checksums."""
    count = len(faces.names)
    with whole_file(path) as partial, quiet_stderr() as stderr:
        pixels = np.lib.format.open_memmap(partial, "w+", np.uint8, (count, size, size, 3))
        if hasattr(os, "posix_fallocate"):
            # raises an error on a full disk, where a write to the memory map would crash
            with open(partial, "rb+") as file:
                os.posix_fallocate(file.fileno(), 0, partial.stat().st_size)

        def pack_row(row: int) -> bool | str:
            """Write one row. Returns whether it is in CelebA's frame, or why it is bad."""
            try:
                content = faces.read(faces.names[row])
                pixels[row], framed = read_square(content, size, crop)
            except (BadPicture, OSError) as error:
                return str(getattr(error, "strerror", None) or error)
            return framed

        bar = tqdm(total=count, desc="packing", unit="image", disable=None, file=stderr)
        with bar, ThreadPoolExecutor(usable_cores()) as pool:
            try:
                for start in range(0, count, BLOCK):
                    rows = range(start, min(start + BLOCK, count))
                    for row, outcome in zip(rows, pool.map(pack_row, rows), strict=True):
                        if isinstance(outcome, str):
                            contents["bad"][faces.names[row]] = outcome
                        else:
                            contents["framed"] += outcome
                        bar.update()
                    contents["checksums"] += checksums_of(pixels, start // BLOCK)
            finally:
                pool.shutdown(cancel_futures=True)
        pixels.flush()


def usable_cores() -> int:
    """Return the number of processor cores that this process may use."""
    has_affinity = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
