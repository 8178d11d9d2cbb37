"""Pictures in a zip: their places in it and their bytes.

The list of a zip is read once and passed on: for CelebA it takes a second, and every packing
process would read it again.
"""

import contextlib
import functools
import io
import lzma
import struct
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from vae.errors import UserError

MEMBER = np.dtype(
    [("offset", "i8"), ("packed", "i8"), ("size", "i8"), ("crc", "u4"), ("how", "u2")]
)
"""The offset of a file in the zip (negative if the zip lost its beginning), its sizes in bytes,
packed and unpacked, its checksum and its compression method."""

_HEADER = struct.Struct("<26x2H")  # at offset; its last two fields: the lengths of name and extra
_SHORT_NAMES = 512  # bytes of name and extra that one read includes
_SMALL = 2**20
_ENCRYPTED = 1
_UNUSUAL = 0xFFFF  # a method that stands for: zipfile must read it


def list_zip(path: Path) -> dict[str, tuple[int, ...]]:
    """Return a MEMBER for each file name in a zip.

    Raises UserError if the zip is damaged or cannot be read.
    """
    with _open(path) as archive:
        return {
            file.filename: (
                file.header_offset,
                file.compress_size,
                file.file_size,
                file.CRC,
                _UNUSUAL if file.flag_bits & _ENCRYPTED else file.compress_type,
            )
            for file in archive.infolist()
        }


@contextlib.contextmanager
def zip_reader(
    path: Path, names: Sequence[str], members: np.ndarray
) -> Iterator[Callable[[str], bytes]]:
    """Yield a function from a name to the bytes of the file, safe to call from many threads.

    members (N,) are the MEMBERs of the names. The function raises OSError if it cannot read them.
    """
    member_of, lock = dict(zip(names, members.tolist(), strict=True)), threading.Lock()
    with contextlib.ExitStack() as opened:
        file = opened.enter_context(open(path, "rb", buffering=0))

        @functools.cache
        def whole_list() -> tuple[zipfile.ZipFile, dict[int, zipfile.ZipInfo]]:
            archive = opened.enter_context(_open(path))
            return archive, {file.header_offset: file for file in archive.infolist()}

        def read(name: str) -> bytes:
            content = _read_small(file, lock, *member_of[name])
            if content is None:
                with lock:
                    archive, file_at = whole_list()
                content = _read_any(archive, file_at.get(member_of[name][0]))
            return content

        yield read


def _read_small(
    file: io.FileIO, lock: threading.Lock, offset: int, packed: int, _size: int, crc: int, how: int
) -> bytes | None:
    """Return the bytes of a small file in a zip, or None if zipfile must read it.

    One read at its offset takes half the time of zipfile. The checksum is verified. Unusual and
    damaged files are left to zipfile, which names the problem.
    """
    if how not in (zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED) or packed > _SMALL:
        return None
    with lock:
        file.seek(offset)
        content = file.read(_HEADER.size + _SHORT_NAMES + packed)
    try:
        start = _HEADER.size + sum(_HEADER.unpack_from(content))
        content = content[start : start + packed]
        if how == zipfile.ZIP_DEFLATED:
            content = zlib.decompress(content, -zlib.MAX_WBITS)
    except (struct.error, zlib.error):
        return None
    return content if zlib.crc32(content) == crc else None


def _read_any(archive: zipfile.ZipFile, member: zipfile.ZipInfo | None) -> bytes:
    if member is None:
        raise OSError("no longer in the zip")
    try:
        return archive.read(member)
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError) as error:
        raise OSError(f"damaged within the zip: {error}") from error


def _open(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged ({error}): download it again") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
