"""Which picture files and tables there are: under a folder, in a zip, or in parquet files.

Nothing is decoded here. Names are relative to the source, with forward slashes, in order.
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

from vae.data.decoding import BadPicture, is_unknown_heic, picture_endings
from vae.data.parquet import ParquetFiles
from vae.data.tables import KINDS, TableFile, is_named
from vae.errors import UserError

_ARCHIVES = (".zip", ".7z", ".001", ".gz", ".rar", ".tar", ".tgz")
_A_RUNS = {"best.pt", "last.pt"}
"""A folder with one of these files holds a run: its pictures are no data."""
_ADVICE = 'get CelebA (README, "Data"), pass --data DIR, --download, or --data synthetic'


@dataclass(frozen=True)
class Pictures:
    """The picture files of one source, and what else is there."""

    source: Path
    names: list[str]
    read: Callable[[str], bytes]
    """from a name to its bytes; for many threads. Raises BadPicture or OSError"""
    tables: list[TableFile]
    others: dict[str, str]
    """each file that is no picture and no table, and its ending"""
    stamp: str
    """changes with the names, and with what else listing them shows"""
    full_stamp: Callable[[], str]
    """changes with any picture's size or time"""


def find_pictures(root: Path) -> Pictures:
    """Return the pictures under root, a folder, a zip or a parquet file, and their tables.

    A folder without picture files that holds one zip means that zip.

    Raises UserError if there are none, or if it cannot be told which are meant.
    """
    if root.is_file():
        folder, files, folders = root.parent, [root.name], []
        names, tables, others = _sort_out(files)
        beside = [path.name for path in sorted(folder.iterdir()) if path.is_file()]
        tables += _sort_out(beside)[1]
        if names:
            raise UserError(f"{root} is a single picture: pass its folder")
    elif not root.exists():
        raise UserError(f"no images under {root}: there is no such folder; {_ADVICE}")
    else:
        folder, (files, folders) = root, _walk(root)
        names, tables, others = _sort_out(files)
        tables += _tables_above(root)
    found = [TableFile(name, _folder(name), (folder / name).read_bytes) for name in tables]
    if names:
        stamp = _digest(names, folders)
        full_stamp = lambda: _digest(names, (_status(folder / name) for name in names))  # noqa: E731
        read = lambda name: Path(folder, name).read_bytes()  # noqa: E731
        names = _without_unknown_heic(names, read, others)
        return Pictures(folder, names, read, found, others, stamp, full_stamp)
    parquet = [name for name, ending in others.items() if ending == ".parquet"]
    if parquet:
        return _in_parquet(folder, parquet, found)
    zips = [name for name, ending in others.items() if ending == ".zip"]
    if len(zips) == 1:
        return _in_zip(folder / zips[0], found)
    if zips:
        raise UserError(f"{root} holds {zips[0]} and {zips[1]}: pass one of them as --data")
    counts = [f"{count:,} {ending}" for ending, count in Counter(others.values()).items()]
    unread = next((name for name, ending in others.items() if ending in _ARCHIVES), None)
    raise UserError(
        f"no images under {root}: looked for pictures, a zip and parquet files at any depth; "
        f"found {', '.join(counts) or 'no files'}; " + (f"unpack {unread}" if unread else _ADVICE)
    )


def _walk(root: Path) -> tuple[list[str], list[int]]:
    """Return the files under root, each real file once, and the times of their folders."""
    here, folders, linked_folders = os.path.realpath(root), deque([""]), deque()
    names: dict[str, str] = {}  # of the real files
    seen, times = set(), []
    while folders or linked_folders:
        folder = folders.popleft() if folders else linked_folders.popleft()
        real = os.path.realpath(f"{root}/{folder}")
        # a link to a folder above root would lead back into it
        if real in seen or (folder and here.startswith(f"{real.rstrip('/')}/")):
            continue
        seen.add(real)
        try:
            with os.scandir(real) as entries:
                inside = sorted(entries, key=lambda entry: entry.name)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise UserError(f"{root}/{folder} cannot be read: {error.strerror}") from error
        if any(entry.name in _A_RUNS for entry in inside):
            continue
        times.append(_status(Path(real))[1])
        for entry in inside:
            if _is_hidden(entry.name):
                continue
            if entry.is_dir():
                (linked_folders if entry.is_symlink() else folders).append(f"{folder}{entry.name}/")
            elif entry.is_symlink():
                names.setdefault(os.path.realpath(entry.path), folder + entry.name)
            elif entry.is_file():
                names[f"{real}/{entry.name}"] = folder + entry.name
    return sorted(names.values()), times


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _sort_out(files: Iterable[str]) -> tuple[list[str], list[str], dict[str, str]]:
    """Return which files are pictures, which are tables, and the endings of the others."""
    names, tables, others = [], [], {}
    endings = picture_endings()
    for name in files:
        ending = name[name.rfind(".") :].lower() if "." in name else ""  # Path takes long
        if ending in endings:
            names.append(name)
        elif ending in (".csv", ".txt") and any(is_named(name, kind) for kind in KINDS):
            tables.append(name)
        else:
            others[name] = ending if "/" not in ending else "without an ending"
    return names, tables, others


def _without_unknown_heic(
    names: Sequence[str], read: Callable[[str], bytes], others: dict[str, str]
) -> list[str]:
    """Return the names without HEIC files that cannot be opened; they go to the others."""
    others |= {name: ".heic" for name in names if is_unknown_heic(name, read)}
    return [name for name in names if name not in others]


def _tables_above(root: Path) -> list[str]:
    """Return the paths of tables above a folder of pictures, the nearest first."""
    above = Path(os.path.abspath(root)).parents[:2]  # noqa: PTH100  a link's own place counts
    folders = [folder / name for folder in above for name in ("", "Anno", "Eval")]
    files = [path for folder in folders if folder.is_dir() for path in sorted(folder.iterdir())]
    found = map(Path, _sort_out(map(str, files))[1])
    return [str(path) for path in found if path.is_file() and path.name != "metadata.csv"]


def _in_zip(path: Path, beside: list[TableFile]) -> Pictures:
    """Return the pictures in a zip. Raises UserError if it holds none or cannot be read."""
    try:
        archive, lock = zipfile.ZipFile(path), threading.Lock()
        members = {file.filename: file for file in archive.infolist() if not file.is_dir()}
        seen = (name for name in members if not any(map(_is_hidden, name.split("/"))))
        names, tables, others = _sort_out(sorted(seen))
        archive.open(names[0]).close() if names else None
    except zipfile.BadZipFile as error:
        raise UserError(f"{path} is damaged ({error}): fetch the file again") from error
    except (NotImplementedError, RuntimeError, UnicodeDecodeError) as error:  # such as a password
        raise UserError(f"{path} cannot be read ({error}): unpack it") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    if not names:
        inner = [name for name, ending in others.items() if ending in _ARCHIVES]
        found = f"holds {inner[0]}: unpack it" if inner else "holds no pictures"
        raise UserError(f"no images under {path}: it {found}")

    def read(name: str) -> bytes:
        try:
            with lock:
                return archive.read(name)
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError) as error:
            raise BadPicture(f"damaged within the zip ({error})") from error

    names = _without_unknown_heic(names, read, others)
    inside = [TableFile(name, _folder(name), partial(read, name)) for name in tables]
    stamp = _digest((name, members[name].file_size, members[name].CRC) for name in names)
    return Pictures(path, names, read, inside + beside, others, stamp, lambda: stamp)


def _in_parquet(folder: Path, files: Sequence[str], tables: list[TableFile]) -> Pictures:
    opened = ParquetFiles(folder, files)
    stamp = _digest(_status(folder / name) for name in files)
    own = TableFile("attributes.parquet", "", opened.table)
    return Pictures(folder, opened.names, opened.read, [*tables, own], {}, stamp, lambda: stamp)


def _folder(name: str) -> str:
    """Return where a table lies, as pictures' names have it; "../" above them."""
    return "../" if Path(name).is_absolute() else name.rpartition("/")[0]


def _status(path: Path) -> tuple[int, int]:
    """Return the size and the time of a file, or -1 where a link leads nowhere."""
    try:
        status = os.stat(path)  # noqa: PTH116  Path takes twice the time
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _digest(*parts: Iterable[object]) -> str:
    """Return 64 hex digits of what is listed."""
    digest = sha256()
    for part in parts:
        for one in part:
            digest.update(f"{one}\0".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
