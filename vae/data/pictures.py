"""Find the picture files and tables of a source: a folder, a zip or parquet files.

Names are relative to the source, with forward slashes, sorted. No picture is decoded here.
"""

import lzma
import os
import threading
import zipfile
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path

from vae.data.decoding import BadPicture, can_open, picture_endings
from vae.data.parquet import ParquetFiles
from vae.data.tables import ABOVE, KINDS, TableFile
from vae.errors import UserError

_ARCHIVES = (".zip", ".7z", ".001", ".gz", ".rar", ".tar", ".tgz")
_RUN_FILES = {"best.pt", "last.pt"}
"""A folder with one of these files holds a run. Its pictures are not data."""
_ADVICE = 'get CelebA (README, "Data"), pass --data DIR, --download, or --data synthetic'


@dataclass(frozen=True)
class Pictures:
    """The picture files of one source, and the other files there."""

    source: Path
    names: list[str]
    read: Callable[[str], bytes]  # safe in many threads; raises BadPicture or OSError
    tables: list[TableFile]
    others: dict[str, str]  # the ending of each file that is neither a picture nor a table
    stamp: str  # changes with the pictures' names and the folders' times
    full_stamp: Callable[[], str]  # changes also with a picture's size or time; slow


def find_pictures(root: Path) -> Pictures:
    """Return the pictures under root (a folder, a zip or a parquet file) and their tables.

    If a folder holds no picture files but one zip, the pictures in the zip are returned.

    Raises UserError if there are no pictures, if there are two zips, or if root is a picture.
    """
    if not root.exists():
        raise UserError(f"no images under {root}: there is no such folder; {_ADVICE}")
    if root.is_dir():
        folder, (files, times), above = root, _walk(root), _tables_above(root)
    else:
        if not root.is_file():
            raise UserError(f"{root} is neither a file nor a folder")
        folder, times, above = root.parent, [], []
        beside = (path.name for path in sorted(folder.iterdir()) if path.is_file())
        files = [root.name, *filter(_is_table, beside)]

    def read(name: str) -> bytes:
        return (folder / name).read_bytes()

    def full_stamp() -> str:
        return _digest(names, [_status(folder / name) for name in names])

    names, tables, others = _sort_out(files, read)
    tables += above
    if names and root.is_file():
        raise UserError(f"{root} is a single picture: pass its folder")
    if names:
        stamp = _digest(names, times)
        return Pictures(folder, names, read, tables, others, stamp, full_stamp)
    if parquet := [name for name, ending in others.items() if ending == ".parquet"]:
        return _in_parquet(folder, parquet, tables)
    zips = [name for name, ending in others.items() if ending == ".zip"]
    if len(zips) > 1:
        raise UserError(f"{root} holds {zips[0]} and {zips[1]}: pass one of them as --data")
    if zips:
        return _in_zip(folder / zips[0], tables)
    counts = [f"{count:,} {ending}" for ending, count in Counter(others.values()).items()]
    archive = next((name for name, ending in others.items() if ending in _ARCHIVES), None)
    raise UserError(
        f"no images under {root}: looked for pictures, a zip and parquet files at any depth; "
        f"found {', '.join(counts) or 'no files'}; " + (f"unpack {archive}" if archive else _ADVICE)
    )


def _walk(root: Path) -> tuple[list[str], list[int]]:
    """Return the files under root, each real file once, and the times of their folders.

    Hidden files and folders of runs are left out.
    """
    real_root, seen, times = os.path.realpath(root), set(), []
    names: dict[str, str] = {}  # by real path
    folders = deque([""])
    while folders:
        folder = folders.popleft()
        real = os.path.realpath(f"{root}/{folder}")
        # a link to a folder above root would lead back into root
        if real in seen or (folder and real_root.startswith(f"{real.rstrip('/')}/")):
            continue
        seen.add(real)
        try:
            with os.scandir(real) as entries:
                inside = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            raise UserError(f"{root}/{folder} cannot be read: {error.strerror}") from error
        if any(entry.name in _RUN_FILES for entry in inside):
            continue
        times.append(_status(real)[1])
        for entry in inside:
            if _is_hidden(entry.name):
                continue
            # is_dir of an entry fails for a link to itself
            is_folder = Path(entry.path).is_dir() if entry.is_symlink() else entry.is_dir()
            if _is_table(entry.name):
                _require_file(Path(entry.path), is_folder)
            if is_folder:  # linked folders last: a file gets the name without a link
                add = folders.append if entry.is_symlink() else folders.appendleft
                add(f"{folder}{entry.name}/")
            elif entry.is_symlink():
                path = Path(entry.path)
                if path.is_file() or not path.exists():  # no pipe
                    names.setdefault(os.path.realpath(entry.path), folder + entry.name)
            elif entry.is_file():
                names[f"{real}/{entry.name}"] = folder + entry.name
    return sorted(names.values()), times


def _require_file(path: Path, is_folder: bool) -> None:
    """Raise UserError if a path with the name of a table is no file."""
    # Kaggle's archives have each table in a folder of its name
    if not (path / path.name if is_folder else path).is_file():
        raise UserError(f"{path} has the name of a table and is no file: rename or remove it")


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _sort_out(
    files: Iterable[str], read: Callable[[str], bytes]
) -> tuple[list[str], list[TableFile], dict[str, str]]:
    """Return the pictures and the tables among files, and the endings of the others."""
    names, tables, others, endings = [], [], {}, picture_endings()
    for name in files:
        ending = os.path.splitext(name)[1].lower()  # noqa: PTH122  Path is slow
        if ending in endings and (endings[ending] != "HEIF" or can_open(name, read)):
            names.append(name)
        elif _is_table(name):
            tables.append(TableFile(name, name.rpartition("/")[0], partial(read, name)))
        else:
            others[name] = ending or "without an ending"
    return names, tables, others


def _is_table(name: str) -> bool:
    return name.lower().endswith((".csv", ".txt")) and any(kind.is_name_of(name) for kind in KINDS)


def _tables_above(root: Path) -> list[TableFile]:
    """Return the tables above a folder of pictures, the nearest first.

    A metadata.csv is left out: it belongs to the pictures beside it.
    """
    above = Path(os.path.abspath(root)).parents[:2]  # noqa: PTH100  resolve follows links
    folders = [folder / name for folder in above for name in ("", "Anno", "Eval")]
    paths = [path for folder in folders if folder.is_dir() for path in sorted(folder.iterdir())]
    found = [path for path in paths if _is_table(path.name) and path.is_file()]
    return [
        TableFile(str(path), ABOVE, path.read_bytes)
        for path in found
        if path.name != "metadata.csv"
    ]


def _in_zip(path: Path, tables: list[TableFile]) -> Pictures:
    """Return the pictures in a zip. Raises UserError if it holds none or cannot be read."""
    try:
        archive, lock = zipfile.ZipFile(path), threading.Lock()
        members = {file.filename: file for file in archive.infolist() if not file.is_dir()}
        if members:
            archive.open(next(iter(members))).close()  # fails if a password is needed
    except zipfile.BadZipFile as error:
        raise UserError(f"{path} is damaged ({error}): fetch the file again") from error
    except (RuntimeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}): unpack it") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error

    def read(name: str) -> bytes:
        try:
            with lock:
                return archive.read(name)
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError) as error:
            raise BadPicture(f"damaged within the zip ({error})") from error

    visible = [name for name in members if not any(map(_is_hidden, name.split("/")))]
    names, inside, others = _sort_out(sorted(visible), read)
    if not names:
        archived = next((name for name, ending in others.items() if ending in _ARCHIVES), None)
        holds = f"{archived}: unpack it" if archived else "no pictures"
        raise UserError(f"no images under {path}: it holds {holds}")
    stamp = _digest([(name, members[name].file_size, members[name].CRC) for name in names])
    return Pictures(path, names, read, inside + tables, others, stamp, lambda: stamp)


def _in_parquet(folder: Path, files: Sequence[str], tables: list[TableFile]) -> Pictures:
    """Return the pictures in parquet files. Raises UserError as ParquetFiles does."""
    opened = ParquetFiles(folder, files)
    stamp = _digest([_status(folder / name) for name in files])
    tables = [*tables, TableFile("attributes.parquet", "", opened.table)]
    return Pictures(folder, opened.names, opened.read, tables, {}, stamp, lambda: stamp)


def _status(path: str | Path) -> tuple[int, int]:
    """Return size (bytes) and modification time (ns) of a file; -1, -1 for a broken link."""
    try:
        status = os.stat(path)  # noqa: PTH116  Path.stat takes twice the time
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _digest(*parts: Sequence[object]) -> str:
    """Return 64 hex digits that identify the parts."""
    return sha256(repr(parts).encode()).hexdigest()
