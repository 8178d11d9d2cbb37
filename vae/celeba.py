"""Where faces come from: CelebA's layouts -> file list, attributes, splits.

Found without being told which it is: torchvision's folder, Kaggle's, the unopened zip, and any
plain folder of pictures. Nothing is decoded here; `Faces.reader` gives the bytes of a picture.
"""

import contextlib
import difflib
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vae.errors import UserError
from vae.zips import MEMBER, list_zip, zip_reader

ATTRIBUTE_NAMES: tuple[str, ...] = tuple(
    """
    5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose
    Black_Hair Blond_Hair Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee
    Gray_Hair Heavy_Makeup High_Cheekbones Male Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard
    Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks Sideburns Smiling Straight_Hair
    Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace Wearing_Necktie Young
    """.split()  # noqa: SIM905
)
SPLITS = ("train", "val", "test")

_FOLDER = "img_align_celeba"
CELEBA_FILES = (f"{_FOLDER}.zip", "list_attr_celeba.txt", "list_eval_partition.txt")
_SUFFIXES = frozenset(("bmp", "jpeg", "jpg", "png", "ppm", "tif", "tiff", "webp"))


@dataclass(frozen=True)
class Faces:
    """Which pictures there are and what is known of them. Row i of every field is one face."""

    source: Path  # the folder of the pictures, or the zip that holds them
    names: tuple[str, ...]  # file names relative to the source, with forward slashes, sorted
    splits: np.ndarray  # (N,) uint8, an index into SPLITS
    attributes: np.ndarray | None  # (N, 40) bool, columns as ATTRIBUTE_NAMES; None where unknown
    aligned: bool  # True where CelebA's framing holds, False for pictures of any framing
    members: np.ndarray | None = None  # (N,) of zips.MEMBER where the source is a zip

    def take(self, count: int) -> "Faces":
        """Return at most count of the faces, evenly spaced, so that splits keep their shares."""
        if count >= len(self.names):
            return self
        rows = np.arange(count) * len(self.names) // count
        return replace(
            self,
            names=tuple(self.names[row] for row in rows),
            splits=self.splits[rows],
            attributes=None if self.attributes is None else self.attributes[rows],
            members=None if self.members is None else self.members[rows],
        )

    @contextlib.contextmanager
    def reader(self) -> Iterator[Callable[[str], bytes]]:
        """Yield a function from a picture's name to its bytes, safe to call from many threads.

        The function raises OSError where the bytes cannot be had, damage within a zip included.
        """
        if self.members is None:
            yield lambda name: _read_file(f"{self.source}/{name}")
            return
        with zip_reader(self.source, self.names, self.members) as read:
            yield read

    def fingerprint(self) -> str:
        """Return 64 hex digits that change with any picture's name, size or modification time.

        In a zip the checksums of its central directory stand for the times.
        """
        digest = hashlib.sha256()
        for name, *facts in self._facts():
            digest.update(os.fsencode(name) + f"\0{facts}\0".encode())
        return digest.hexdigest()

    def _facts(self) -> Iterator[tuple[str, int, int]]:
        if self.members is not None:
            checks = (self.members[field].tolist() for field in ("size", "crc"))
            yield from zip(self.names, *checks, strict=True)
            return
        for name in self.names:
            try:
                status = os.stat(f"{self.source}/{name}")  # noqa: PTH116  Path doubles the time
            except OSError:  # a dangling link: packing will say that it is unreadable
                yield name, -1, -1
            else:
                yield name, status.st_size, status.st_mtime_ns


def find_attribute(name: str) -> int:
    """Return the column of an attribute, named in any case.

    Raises UserError if CelebA has no such attribute; the message offers the nearest name.
    """
    columns = {known.lower(): column for column, known in enumerate(ATTRIBUTE_NAMES)}
    if name.lower() in columns:
        return columns[name.lower()]
    near = difflib.get_close_matches(name.lower(), columns, n=1)
    hint = f': did you mean "{ATTRIBUTE_NAMES[columns[near[0]]]}"?' if near else "."
    raise UserError(f'no attribute "{name}"{hint} Known: {", ".join(ATTRIBUTE_NAMES)}')


def find_faces(root: Path) -> Faces:
    """Return the faces under root: a CelebA folder or zip, or a plain folder of pictures.

    CelebA's tables are optional: without list_attr_celeba the attributes are None, and without
    list_eval_partition the splits are 80/10/10 by a hash of the file names.

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
    """Yield where pictures may lie, CelebA's places before the plain folder."""
    for base in (root, root / "celeba"):
        yield base / _FOLDER / _FOLDER
        yield base / _FOLDER
        yield base / CELEBA_FILES[0]
    yield root


def _list_folder(folder: Path) -> tuple[list[str], bool]:
    """Return the pictures in a folder, and whether it is CelebA's, which has no subfolders."""
    aligned = folder.absolute().name == _FOLDER
    names = []
    for place, subfolders, files in os.walk(folder):
        subfolders[:] = [name for name in subfolders if not (aligned or name.startswith("."))]
        inside = Path(place).relative_to(folder).as_posix()
        prefix = "" if inside == "." else f"{inside}/"
        names += [prefix + name for name in files if _is_picture(name)]
    return sorted(names), aligned


def _list_zip(path: Path) -> tuple[dict[str, tuple[int, ...]], bool]:
    """Return where the pictures in a zip lie, by name, and whether they are CelebA's.

    Those are named within CelebA's folder, if they lie in one.
    """
    files = {name: member for name, member in list_zip(path).items() if _is_picture(name)}
    members = {name.rpartition(f"{_FOLDER}/")[2]: member for name, member in files.items()}
    return members, members.keys() != files.keys() or path.stem == _FOLDER


def _is_picture(name: str) -> bool:
    hidden = name.startswith(".") or "/." in name
    return not hidden and name.rpartition(".")[2].lower() in _SUFFIXES


def _read_file(path: str) -> bytes:
    # without a buffer, and without a Path: half the time of Path.read_bytes
    with open(path, "rb", buffering=0) as file:
        return file.read()


def _describe(
    source: Path, names: tuple[str, ...], aligned: bool, members: np.ndarray | None
) -> Faces:
    """Return the faces of these names with what CelebA's tables say of them."""
    attribute_table = find_table(source, "list_attr_celeba") if aligned else None
    split_table = find_table(source, "list_eval_partition") if aligned else None
    return Faces(
        source=source,
        names=names,
        splits=_read_splits(split_table, names) if split_table else _hash_splits(names),
        attributes=_read_attributes(attribute_table, names) if attribute_table else None,
        aligned=aligned,
        members=members,
    )


def find_table(source: Path, stem: str) -> Path | None:
    """Return CelebA's table of this name beside its pictures, .txt or .csv, or None."""
    beside = source.absolute().parent
    folders = (beside, beside.parent) if beside.name == _FOLDER else (beside,)
    tables = (folder / f"{stem}{suffix}" for folder in folders for suffix in (".txt", ".csv"))
    return next((table for table in tables if table.is_file()), None)


def find_identities(root: Path, names: Sequence[str]) -> np.ndarray | None:
    """Return who is on each of the pictures under root, (names,) int64; None where it is unknown.

    The numbers are those of CelebA's table identity_CelebA. Raises UserError if the table is
    damaged or lacks a picture, or if there are no pictures under root.
    """
    faces = find_faces(root)
    path = find_table(faces.source, "identity_CelebA") if faces.aligned else None
    return _read_identities(path, names) if path else None


def _read_identities(path: Path, names: Sequence[str]) -> np.ndarray:
    person_of: dict[str, int] = {}
    with _numbered_lines(path) as lines:
        if path.suffix == ".csv":
            next(lines, None)
        for number, cells in filter(lambda line: line[1], lines):
            if len(cells) != 2 or not cells[1].isdecimal():
                raise _misfit(path, f"has no name and number of a person on line {number}")
            person_of[cells[0]] = int(cells[1])
    return np.array(_rows_for(path, person_of, names))


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


def _read_attributes(path: Path, names: Sequence[str]) -> np.ndarray:
    """Return what list_attr_celeba says of each name: (N, 40) bool, as ATTRIBUTE_NAMES."""
    is_csv = path.suffix == ".csv"
    with _numbered_lines(path) as lines:
        stated = "" if is_csv else " ".join(next(lines, (1, []))[1])
        header = next(lines, (2, []))[1][is_csv:]
        columns = _attribute_columns(path, header)
        row_of, cells = _read_rows(path, lines, {"-1": 0, "0": 0, "1": 1}, width=len(columns))
    if not is_csv and stated != str(len(row_of)):
        says = f"{int(stated):,}" if stated.isdecimal() else f'"{stated}"'
        raise _misfit(path, f"has {len(row_of):,} rows, says {says} on line 1")
    return cells[_rows_for(path, row_of, names)][:, columns].astype(bool)


def _attribute_columns(path: Path, header: Sequence[str]) -> list[int]:
    """Return where the header has each of ATTRIBUTE_NAMES."""
    for name in ATTRIBUTE_NAMES:
        if header.count(name) != 1:
            raise _misfit(path, f"names {name} {header.count(name)} times in its header, not once")
    for name in header:
        if name not in ATTRIBUTE_NAMES:
            raise _misfit(path, f"has {name} in its header, which is no attribute of CelebA")
    return [header.index(name) for name in ATTRIBUTE_NAMES]


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
    """Return which row each file name has, and the rows' values: (rows, width) uint8."""
    row_of: dict[str, int] = {}
    cells = bytearray()  # a list of numbers would take 8 times the memory
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
    """Return the row of each picture; rows without a picture are left out."""
    missing = [name for name in names if name not in row_of]
    if missing:
        count = f"{len(missing):,} of {len(names):,} pictures"
        raise _misfit(path, f"has no row for {missing[0]} (none for {count})")
    return [row_of[name] for name in names]


def _misfit(path: Path, problem: str) -> UserError:
    return UserError(f"{path} {problem}: fetch the file again, or move it away to do without it")
