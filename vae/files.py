"""Files that appear whole or not at all."""

import contextlib
import csv
import errno
import functools
import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vae.errors import RunStopped, UserError

try:
    import fcntl
except ModuleNotFoundError:  # Windows has no such locks
    fcntl = None


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary file beside path; on success it replaces path in one step.

    The temporary file keeps path's suffix, because some writers choose a format by it. Missing
    folders are created. If the body raises, the temporary file is removed and path is unchanged.
    The temporary files of processes that were killed are removed.

    Raises RunStopped if the disk is full or the path cannot be written.
    """
    partial = _partial(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent.resolve())
        with open(partial, "wb") as owned:
            if not lock(owned.fileno()):
                owned.close()  # Windows cannot replace an open file
            yield partial
            with open(partial, "rb+") as written:
                os.fsync(written.fileno())
            os.replace(partial, path)
        _sync_folder(path.parent)
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
    errno.ELOOP: "a part of the path is a link to itself",
}


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")


def lock(descriptor: int) -> bool | None:
    """Lock an open file or folder until it is closed, at the latest when the process ends.

    Returns False if another process has locked it, None if this place has no locks (Windows; some
    network file systems).
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (OSError, AttributeError):
        return None
    return True


@functools.cache  # once in each folder: one may hold 200,000 pictures
def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of killed processes: those that are not locked."""
    with os.scandir(folder) as entries:
        found = [one for one in entries if re.fullmatch(r"\..+\.\d+\.partial(\.\w+)?", one.name)]
    for entry in found:
        # a file that has gone in the meantime was being written
        with contextlib.suppress(OSError), open(entry.path, "rb") as left:
            if lock(left.fileno()):
                os.unlink(entry.path)  # noqa: PTH108


def _sync_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def locked_folder(folder: Path) -> Iterator[bool]:
    """Make a folder and lock it; yield False if another process has locked it.

    It is removed if it was made here and is empty in the end.

    Raises UserError if it cannot be made.
    """
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Windows cannot open a folder
        descriptor = os.open(folder if fcntl else os.devnull, os.O_RDONLY)
    except OSError as error:
        if error.errno not in _CANNOT_WRITE:
            raise
        raise UserError(f"cannot write {folder}: {_CANNOT_WRITE[error.errno]}") from error
    try:
        is_ours = lock(descriptor) is not False
        yield is_ours
    finally:
        with contextlib.suppress(OSError):
            for one in missing if is_ours else ():
                one.rmdir()
        os.close(descriptor)


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
        try:
            trial.touch()
        finally:  # a signal may come in between
            trial.unlink(missing_ok=True)
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
