"""Files that appear whole or not at all."""

import contextlib
import csv
import errno
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vae.errors import RunStopped, UserError


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary file beside path; on success it replaces path in one step.

    The temporary file keeps path's suffix, because some writers choose a format by it. Missing
    folders are created. If the body raises, the temporary file is removed and path is unchanged.

    Raises RunStopped if the disk is full or the path cannot be written.
    """
    partial = _partial(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        with open(partial, "rb+") as written:
            os.fsync(written.fileno())
        os.replace(partial, path)
    except OSError as error:
        if error.errno not in _CANNOT_WRITE:
            raise
        kept = "; the earlier file is untouched" if path.exists() else ""
        reason = _CANNOT_WRITE[error.errno]
        raise RunStopped(f"could not write {path}: {reason}{kept}") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


_CANNOT_WRITE = {
    errno.ENOSPC: "no space left",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file is larger than this place allows",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ENOENT: "no such folder",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.ENOTDIR: "a part of the path is a file",
    errno.EISDIR: "it is a folder",
    errno.EEXIST: "a part of the path is a file",
}


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")


def require_writable(path: Path) -> None:
    """Check before long work that a file can be written at path; leave nothing behind.

    Missing folders are no mistake: whole_file creates them.

    Raises UserError if path is a folder, or if nothing can be written where it would stand.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "is a folder")
        existing = next(folder for folder in path.parents if os.path.lexists(folder))
        trial = existing / _partial(path).name
        trial.touch()
        trial.unlink()
    except OSError as error:
        if error.errno not in _CANNOT_WRITE:
            raise
        raise UserError(f"cannot write {path}: {_CANNOT_WRITE[error.errno]}") from error


def write_whole(path: Path, content: bytes) -> str:
    """Write content to path, whole or not at all.

    Returns the line to print: the path, with " (replaced)" if a file stood there before.

    Raises RunStopped if the disk is full or the path cannot be written.
    """
    with whole_file(path) as partial:
        partial.write_bytes(content)
        replaced = path.exists()
    return f"{path} (replaced)" if replaced else str(path)


def write_text(path: Path, text: str) -> str:
    """Write text to path, whole or not at all; return the line to print."""
    return write_whole(path, text.encode("utf-8", "surrogateescape"))


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    """Write rows of equal keys to path, a header first; return the line to print."""
    table = io.StringIO()
    writer = csv.DictWriter(table, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return write_text(path, table.getvalue())
