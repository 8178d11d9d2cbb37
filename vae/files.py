"""Files that appear whole or not at all."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from vae.errors import RunStopped


@contextlib.contextmanager
def whole_file(path: Path, previous: Path | None = None) -> Iterator[Path]:
    """Yield a temporary sibling of path to write to; on success it takes path's place at once.

    The sibling keeps path's suffix, so that writers which go by it (PIL, matplotlib, numpy) work.
    Missing folders are made. When the body raises, the sibling is removed and path stays as it was.
    What stood at path before is kept as previous, if that is given.

    Raises RunStopped where the disk is full or the place cannot be written.
    """
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        with open(partial, "rb+") as written:
            os.fsync(written.fileno())
        if previous and path.exists():
            os.replace(path, previous)
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
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.ENOTDIR: "a part of the path is a file",
    errno.EISDIR: "it is a folder",
    errno.EEXIST: "a part of the path is a file",
}


def write_text(path: Path, text: str) -> None:
    """Write text to path, whole or not at all."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")
