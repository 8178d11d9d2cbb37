"""Files that appear whole or not at all."""

import contextlib
import csv
import errno
import io
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

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
            _keep(path, previous)
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


def _keep(path: Path, copy: Path) -> None:
    """Give what stands at path a second name, or a copy where the disk knows no links."""
    copy.unlink(missing_ok=True)
    try:
        os.link(path, copy)
    except OSError:
        shutil.copyfile(path, copy)


def write_text(path: Path, text: str) -> None:
    """Write text to path, whole or not at all."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="surrogateescape")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of equal keys to path, a header first, whole or not at all."""
    table = io.StringIO()
    writer = csv.DictWriter(table, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, table.getvalue())
