"""Find the faces of a data set: CelebA's layouts -> file list, attributes, people, splits.

The layout is recognised, not declared: torchvision's folder, Kaggle's, the unopened zip, or any
plain folder of pictures. Nothing is decoded here; `Faces.reader` gives the bytes of a picture.
"""

import contextlib
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vae.data.zips import MEMBER, list_zip, zip_reader
from vae.errors import UserError

SPLITS = ("train", "val", "test")

_FOLDER = "img_align_celeba"
CELEBA_FILES = (f"{_FOLDER}.zip", "list_attr_celeba.txt", "list_eval_partition.txt")
_SUFFIXES = frozenset(("bmp", "jpeg", "jpg", "png", "ppm", "tif", "tiff", "webp"))


@dataclass(frozen=True)
class Faces:
    """The pictures of a data set and what its tables say about them. Row i is one face."""

    source: Path  # the folder of the pictures, or the zip that holds them
    names: tuple[str, ...]  # file names relative to the source, with forward slashes, sorted
    splits: np.ndarray  # (N,) uint8, an index into SPLITS
    attributes: np.ndarray | None  # (N, K) bool, one column for each name; None without a table
    attribute_names: tuple[str, ...]  # K names, in the order of the table; () without a table
    people: np.ndarray | None  # (N,) int64, the number of the person; None without a table
    aligned: bool  # True if the pictures have CelebA's framing
    members: np.ndarray | None = None  # (N,) of zips.MEMBER if the source is a zip

    def take(self, count: int) -> "Faces":
        """Return at most count faces, evenly spaced, so that the splits keep their proportions."""
        if count >= len(self.names):
            return self
        rows = np.arange(count) * len(self.names) // count
        arrays = {name: getattr(self, name) for name in ("attributes", "people", "members")}
        return replace(
            self,
            names=tuple(self.names[row] for row in rows),
            splits=self.splits[rows],
            **{name: None if array is None else array[rows] for name, array in arrays.items()},
        )

    @contextlib.contextmanager
    def reader(self) -> Iterator[Callable[[str], bytes]]:
        """Yield a function from a picture's name to its bytes, safe to call from many threads.

        The function raises OSError if the bytes cannot be read or are damaged within a zip.
        """
        if self.members is None:
            yield lambda name: Path(self.source, name).read_bytes()
            return
        with zip_reader(self.source, self.names, self.members) as read:
            yield read

    def fingerprint(self) -> str:
        """Return 64 hex digits that change with any picture's name, size or modification time.

        For a zip the checksums in its central directory take the place of the times.
        """
        digest = hashlib.sha256()
        for name, *status in self._status():
            digest.update(os.fsencode(name) + f"\0{status}\0".encode())
        return digest.hexdigest()

    def _status(self) -> Iterator[tuple[str, int, int]]:
        if self.members is not None:
            checks = (self.members[field].tolist() for field in ("size", "crc"))
            yield from zip(self.names, *checks, strict=True)
            return
        for name in self.names:
            try:
                status = os.stat(f"{self.source}/{name}")  # noqa: PTH116  Path takes twice the time
            except OSError:  # a dangling link: packing reports it as unreadable
                yield name, -1, -1
            else:
                yield name, status.st_size, status.st_mtime_ns


def find_faces(root: Path) -> Faces:
    """Return the faces under root: a CelebA folder or zip, or a plain folder of pictures.

    CelebA's tables are optional. Without list_attr_celeba the attributes are None, without
    identity_CelebA the people are None, and without list_eval_partition the splits are 80/10/10 by
    a hash of the file names.

    Raises UserError if there are no pictures, or if a zip or a table is damaged or does not fit.
    """
    if root.is_file() and root.suffix.lower() != ".zip":
        raise UserError(f"{root} is neither a folder nor a zip: pass the folder of the pictures")
    for source in _possible_sources(root):
        if source.is_file():
            member_of, aligned = _list_zip(source)
            names = sorted(member_of)
            members = np.array([member_of[name] for name in names], MEMBER)
        else:
            (names, aligned), members = _list_folder(source), None
        if names:
            return _describe(source, tuple(names), aligned, members)
    found = "" if root.exists() else " (no such folder)"
    raise UserError(
        f"no images under {root}{found}: looked for {_FOLDER}/, {CELEBA_FILES[0]}, celeba/ "
        f"and pictures ({', '.join(sorted(_SUFFIXES))}); "
        'get CelebA (README, "Data"), pass --data DIR, --download, or --data synthetic'
    )


def _possible_sources(root: Path) -> Iterator[Path]:
    """Yield the places where pictures may be, CelebA's before the plain folder."""
    for base in (root, root / "celeba"):
        yield base / _FOLDER / _FOLDER
        yield base / _FOLDER
        yield base / CELEBA_FILES[0]
    yield root


def _list_folder(folder: Path) -> tuple[list[str], bool]:
    """Return the pictures in a folder and whether it is CelebA's, which has no subfolders."""
    aligned = folder.absolute().name == _FOLDER
    names = []
    for place, subfolders, files in os.walk(folder):
        subfolders[:] = [name for name in subfolders if not (aligned or name.startswith("."))]
        inside = Path(place).relative_to(folder).as_posix()
        prefix = "" if inside == "." else f"{inside}/"
        names += [prefix + name for name in files if _is_picture(name)]
    return sorted(names), aligned


def _list_zip(path: Path) -> tuple[dict[str, tuple[int, ...]], bool]:
    """Return a MEMBER for the name of each picture in a zip, and whether they are CelebA's.

    Names are relative to CelebA's folder if the zip has it.
    """
    files = {name: member for name, member in list_zip(path).items() if _is_picture(name)}
    members = {name.rpartition(f"{_FOLDER}/")[2]: member for name, member in files.items()}
    return members, members.keys() != files.keys() or path.stem == _FOLDER


def _is_picture(name: str) -> bool:
    hidden = name.startswith(".") or "/." in name
    return not hidden and name.rpartition(".")[2].lower() in _SUFFIXES


def _describe(
    source: Path, names: tuple[str, ...], aligned: bool, members: np.ndarray | None
) -> Faces:
    """Return the faces of these names with what CelebA's tables say about them."""
    labels, identities, partition = (
        _find_table(source, stem) if aligned else None
        for stem in ("list_attr_celeba", "identity_CelebA", "list_eval_partition")
    )
    attribute_names, attributes = _read_attributes(labels, names) if labels else ((), None)
    people = _read_identities(identities, names) if identities else None
    splits = _read_splits(partition, names) if partition else _hash_splits(names)
    return Faces(source, names, splits, attributes, attribute_names, people, aligned, members)


def _find_table(source: Path, stem: str) -> Path | None:
    """Return CelebA's table of this name beside its pictures, .txt or .csv, or None."""
    beside = source.absolute().parent
    folders = (beside, beside.parent) if beside.name == _FOLDER else (beside,)
    tables = (folder / f"{stem}{suffix}" for folder in folders for suffix in (".txt", ".csv"))
    return next((table for table in tables if table.is_file()), None)


def _read_identities(path: Path, names: Sequence[str]) -> np.ndarray:
    """Return the number of the person that identity_CelebA gives each name: (N,) int64."""
    person_of: dict[str, int] = {}
    with _numbered_lines(path) as lines:
        if path.suffix == ".csv":
            next(lines, None)
        for number, cells in filter(lambda line: line[1], lines):
            if len(cells) != 2 or not cells[1].isdecimal():
                raise _misfit(path, f"has no file name and person number on line {number}")
            person_of[cells[0]] = int(cells[1])
    return np.array(_rows_for(path, person_of, names), np.int64)


def _hash_splits(names: Sequence[str]) -> np.ndarray:
    """Return a split for each name, 80/10/10 by its SHA-256: (N,) uint8."""
    digests = (hashlib.sha256(os.fsencode(name)).digest() for name in names)
    tenths = np.array([int.from_bytes(digest[:8], "big") % 10 for digest in digests])
    return np.searchsorted([8, 9], tenths, side="right").astype(np.uint8)


def _read_splits(path: Path, names: Sequence[str]) -> np.ndarray:
    """Return the split that list_eval_partition gives each name: (N,) uint8."""
    with _numbered_lines(path) as lines:
        if path.suffix == ".csv":
            next(lines, None)
        row_of, cells = _read_rows(path, lines, {"0": 0, "1": 1, "2": 2}, width=1)
    return cells[_rows_for(path, row_of, names), 0]


def _read_attributes(path: Path, names: Sequence[str]) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the attribute names of a table's header and its values for the names: (N, K) bool."""
    is_csv = path.suffix == ".csv"
    with _numbered_lines(path) as lines:
        stated = "" if is_csv else " ".join(next(lines, (1, []))[1])
        header = next(lines, (2, []))[1][is_csv:]
        _check_header(path, header)
        row_of, cells = _read_rows(path, lines, {"-1": 0, "0": 0, "1": 1}, width=len(header))
    if not is_csv and stated != str(len(row_of)):
        says = f"{int(stated):,}" if stated.isdecimal() else f'"{stated}"'
        raise _misfit(path, f"has {len(row_of):,} rows, says {says} on line 1")
    return tuple(header), cells[_rows_for(path, row_of, names)].astype(bool)


def _check_header(path: Path, header: Sequence[str]) -> None:
    """Raise UserError if there are no attributes, or if two have the same name, in any case."""
    counts = Counter(name.lower() for name in header)
    repeated = [name for name in header if counts[name.lower()] > 1]
    if repeated or not header:
        problem = f"names {repeated[0]} more than once" if repeated else "names no attribute"
        raise _misfit(path, f"{problem} in its header")


@contextlib.contextmanager
def _numbered_lines(path: Path) -> Iterator[Iterator[tuple[int, list[str]]]]:
    """Yield the lines of a table, numbered from 1 and split at spaces and commas."""
    try:
        with open(path, encoding="utf-8-sig") as lines:
            yield ((n, line.replace(",", " ").split()) for n, line in enumerate(lines, start=1))
    except UnicodeDecodeError as error:
        raise _misfit(path, f"is damaged ({error.reason})") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


def _read_rows(
    path: Path, lines: Iterator[tuple[int, list[str]]], meaning: Mapping[str, int], width: int
) -> tuple[dict[str, int], np.ndarray]:
    """Return the row number of each file name, and the values of all rows: (rows, width) uint8."""
    row_of: dict[str, int] = {}
    cells = bytearray()  # a list of numbers takes 8 times the memory
    for number, (name, *values) in filter(lambda line: line[1], lines):
        if len(values) != width:
            raise _misfit(path, f"has {len(values)} values on line {number}, expected {width}")
        if name in row_of:
            raise _misfit(path, f"has {name} a second time on line {number}")
        try:
            cells.extend(map(meaning.__getitem__, values))
        except KeyError as error:
            problem = f'has "{error.args[0]}" on line {number}, expected {" or ".join(meaning)}'
            raise _misfit(path, problem) from error
        row_of[name] = len(row_of)
    return row_of, np.frombuffer(cells, np.uint8).reshape(-1, width)


def _rows_for(path: Path, row_of: Mapping[str, int], names: Sequence[str]) -> list[int]:
    """Return the entry of each picture; entries without a picture are left out."""
    missing = [name for name in names if name not in row_of]
    if missing:
        count = f"{len(missing):,} of {len(names):,} pictures"
        raise _misfit(path, f"has no row for {missing[0]} (none for {count})")
    return [row_of[name] for name in names]


def _misfit(path: Path, problem: str) -> UserError:
    return UserError(f"{path} {problem}: fetch the file again, or move it away to do without it")
