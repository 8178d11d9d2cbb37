"""Find the faces of a data set: its pictures, and what its tables say about them.

Nothing is declared: CelebA in every form that it comes in, and any folder of pictures, go by the
same rules (README, "Data").
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vae.data import tables
from vae.data.pictures import Pictures, find_pictures
from vae.data.tables import Kind, Matcher, Table, TableFile, is_named, read_rows, read_table
from vae.errors import UserError

SPLITS = ("train", "val", "test")
UNUSED = 255
"""The split of a picture that is left out."""
BY_HASH = "80/10/10 by a hash of the file names"


@dataclass(frozen=True)
class Faces:
    """The pictures of a data set and what its tables say about them. Row i is one face."""

    pictures: Pictures
    folder: str  # of all pictures, relative to the source, and with a slash unless it is that
    names: tuple[str, ...]  # relative to the folder, with forward slashes, in order
    splits: np.ndarray  # (N,) uint8, an index into SPLITS, or UNUSED
    origins: dict[str, str]  # where attributes and splits come from, in words
    left_out: dict[str, str]  # the files that are not among the names, and why
    attributes: np.ndarray | None = None  # (N, K) bool, a column for each name; None without table
    attribute_names: tuple[str, ...] = ()  # K names, in the order of the table; () without a table
    known: np.ndarray | None = None  # (N,) bool, which have a row of attributes; None without table
    people: np.ndarray | None = None  # (N,) int64, the number of the person; None without a table

    @property
    def source(self) -> Path:
        """The folder of the pictures, or a folder in the zip that holds them."""
        return self.pictures.source / self.folder

    def read(self, name: str) -> bytes:
        """Return the bytes of a picture; safe to call from many threads.

        Raises BadPicture or OSError if they cannot be read.
        """
        return self.pictures.read(self.folder + name)

    def take(self, count: int) -> "Faces":
        """Return at most count faces, evenly spaced, so that the splits keep their proportions."""
        total = len(self.names)
        return self.at(np.arange(count) * total // count) if count < total else self

    def at(self, rows: np.ndarray) -> "Faces":
        """Return the faces of these rows."""
        arrays = {name: getattr(self, name) for name in ("attributes", "known", "people")}
        parts = {name: None if array is None else array[rows] for name, array in arrays.items()}
        names = tuple(self.names[row] for row in rows)
        return replace(self, names=names, splits=self.splits[rows], **parts)


def find_faces(root: Path) -> Faces:
    """Return the faces under root, a folder, a zip or parquet files, and what their tables say.

    Raises UserError if there are no pictures, or if a table cannot be understood or does not fit.
    """
    pictures = find_pictures(root)
    names, left_out, found = pictures.names, dict(pictures.others), {}
    matcher = Matcher(names)
    for kind in (tables.ATTRIBUTES, tables.SPLITS, tables.PEOPLE):
        best = _best_table(kind, pictures.tables, matcher)
        if best is None:
            continue
        # pictures outside of the folder that a table fits are other pictures, such as masks
        folder = _common_folder([names[number] for number in np.flatnonzero(best[1] >= 0)])
        inside = np.array([name.startswith(folder) for name in names])
        found = {one: (table, rows[inside]) for one, (table, rows) in {**found, kind: best}.items()}
        if not inside.all():
            left_out |= {names[row]: f"outside {folder}" for row in np.flatnonzero(~inside)}
            names = [names[row] for row in np.flatnonzero(inside)]
            matcher = Matcher(names)
    origins = {"attributes": "none"}
    origins |= {kind.what: _describe(table, rows) for kind, (table, rows) in found.items()}
    says = {}
    if tables.ATTRIBUTES in found:
        table, rows = found[tables.ATTRIBUTES]
        columns, ignored = table.attributes()
        if columns:
            says["attribute_names"] = tuple(table.header[column] for column in columns)
            says["attributes"] = (table.cells[rows] == 1)[:, columns] & (rows >= 0)[:, None]
            says["known"] = rows >= 0
        others = f"; not attributes: {', '.join(ignored)}" if ignored else ""
        origins["attributes"] = f"{len(columns)} of {origins['attributes']}{others}"
    if tables.PEOPLE in found:
        table, rows = found[tables.PEOPLE]
        nobody = -1 - np.arange(len(names))  # a number for each, so that no two are one person
        says["people"] = np.where(rows >= 0, table.column(tables.PEOPLE)[rows], nobody)
    if tables.SPLITS in found:
        table, rows = found[tables.SPLITS]
        splits = np.where(rows >= 0, table.column(tables.SPLITS)[rows], UNUSED).astype(np.uint8)
    else:
        splits, origins["splits"] = _splits_by_name(names)
    left_out |= {names[row]: "without a split" for row in np.flatnonzero(splits == UNUSED)}
    folder = _common_folder(names, of_splits=True)
    short = tuple(name[len(folder) :] for name in names)
    faces = Faces(pictures, folder, short, splits, origins, left_out, **says)
    return faces.at(np.flatnonzero(splits != UNUSED))


def _best_table(
    kind: Kind, files: Sequence[TableFile], matcher: Matcher
) -> tuple[Table, np.ndarray] | None:
    """Return the table of this kind that fits most pictures, and the row of each picture in it.

    Raises UserError if there are tables and none fits, unless all lie above the pictures.
    """
    best, problem = None, None
    groups = _groups(kind, files)
    for group in _groups(tables.ATTRIBUTES, files) if kind.columns else ():
        header = next(read_rows(group[0]), [])
        if any(name.lower() in kind.columns for name in header):
            groups.append(group)
    for group in groups:
        try:
            table = read_table(group, kind)
            rows = matcher.rows(table)
            if (rows < 0).all():
                first = table.names[0] if table.names else "no picture"
                pictures = f"the pictures are {matcher.names[0]} ..."
                raise UserError(f"{table.label} names {first} ..., {pictures}: no row fits")
        except UserError as error:
            problem = problem or (error if group[0].folder != "../" else None)
            continue
        if best is None or (rows >= 0).sum() > (best[1] >= 0).sum():
            best = (table, rows)
    if best is None and problem:
        raise problem
    return best


def _groups(kind: Kind, files: Sequence[TableFile]) -> list[list[TableFile]]:
    """Return the files of each table of a kind: all metadata.csv together are one table."""
    named = [file for file in files if is_named(file.name, kind)]
    metadata = [file for file in named if file.name.lower().endswith("metadata.csv")]
    return [[file] for file in named if file not in metadata] + [metadata] * bool(metadata)


def _common_folder(names: Sequence[str], of_splits: bool = False) -> str:
    """Return the folder of all names, with a slash, or "".

    Folders of splits belong together, unless of_splits.
    """
    folders = {name.rpartition("/")[0] for name in names}
    parts = [part for part in os.path.commonpath(folders).split("/") if part]
    at = [number for number, part in enumerate(parts) if part.lower() in tables.SPLIT_WORDS]
    parts = parts if of_splits or not at else parts[: at[0]]
    return "".join(f"{part}/" for part in parts)


def _describe(table: Table, rows: np.ndarray) -> str:
    """Return the name of a table, and how many pictures and rows do not fit."""
    remarks = []
    if missing := np.count_nonzero(rows < 0):
        remarks.append(f"{missing:,} pictures without a row")
    if unused := len(table.names) - len(np.unique(rows[rows >= 0])):
        remarks.append(f"{unused:,} of {len(table.names):,} rows without a picture")
    return table.label + (f" ({', '.join(remarks)})" if remarks else "")


def _splits_by_name(names: Sequence[str]) -> tuple[np.ndarray, str]:
    """Return the split of each picture by the folder that it is in, else by hash, and which."""
    parts = [[part.lower() for part in name.split("/")[:-1]] for name in names]
    found = [next((part for part in one if part in tables.SPLIT_WORDS), None) for one in parts]
    if any(found):
        codes = [tables.SPLIT_WORDS[word] if word else UNUSED for word in found]
        folders = ", ".join(sorted({word for word in found if word}))
        return np.array(codes, np.uint8), f"the folders {folders}"
    tenths = _name_hashes(names) % 10
    return np.searchsorted([8, 9], tenths, side="right").astype(np.uint8), BY_HASH


def _name_hashes(names: Sequence[str]) -> np.ndarray:
    """Return the first 64 bits of the SHA-256 of each file name without its folders, (N,)."""
    files = (os.fsencode(name.rpartition("/")[2]) for name in names)
    digests = (hashlib.sha256(file).digest()[:8] for file in files)
    return np.array([int.from_bytes(digest, "big") for digest in digests], np.uint64)


def fill_splits(
    names: Sequence[str], splits: np.ndarray, by_hash: bool
) -> tuple[np.ndarray, list[str]]:
    """Return splits of which none is empty, and a line for each that was, if there are three faces.

    An empty val or test gets the training faces whose hash falls into its tenth, at least one. If
    the splits are by_hash and train has fewer than three faces, it gets all of them first.
    """
    splits, lines, hashes = splits.copy(), [], _name_hashes(names)
    if by_hash and np.count_nonzero(splits == 0) < 3:
        splits[splits != UNUSED] = 0
    for code, tenth in ((1, 8), (2, 9)):
        train = np.flatnonzero(splits == 0)
        ordered = train[np.argsort(hashes[train], kind="stable")]
        own = ordered[hashes[ordered] % 10 == tenth]
        # one is left for train, and one for test
        moved = own[: max(1, len(train) - 2)] if len(own) else ordered[:1]
        enough = len(train) > 1 and np.count_nonzero(splits != UNUSED) > 2
        if enough and not (splits == code).any():
            splits[moved] = code
            lines.append(f"{SPLITS[code]} was empty: {len(moved):,} images taken from train")
    return splits, lines
