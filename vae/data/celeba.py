"""Find the faces of a data set: its pictures, and what its tables say about them.

CelebA in any form and any other folder of pictures follow the same rules (README, "Data").
"""

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vae.data import tables
from vae.data.pictures import Pictures, find_pictures
from vae.data.tables import SPLIT_WORDS, Table, by_stem, match, read_table
from vae.errors import UserError

SPLITS = ("train", "val", "test")
UNUSED = 255
"""The split of a picture that is left out."""
BY_HASH = "80/10/10 by a hash of the file names"


@dataclass(frozen=True)
class Faces:
    """The pictures of a data set and what its tables say about them. Row i is one face."""

    pictures: Pictures
    folder: str  # of all pictures, relative to their source; "" or with a slash at its end
    names: tuple[str, ...]  # relative to the folder, with forward slashes, sorted
    splits: np.ndarray  # (N,) uint8, an index into SPLITS; all 0 if fill_splits is to choose
    origins: dict[str, str]  # where attributes and splits come from, in words
    left_out: dict[str, str]  # the files that are not among the names, and why
    attributes: np.ndarray | None = None  # (N, K) bool, a column for each name; None without table
    attribute_names: tuple[str, ...] = ()  # K names, in the order of the table; () without a table
    known: np.ndarray | None = None  # (N,) bool, which have a row of attributes; None without table
    people: np.ndarray | None = None  # (N,) int64, the number of the person; None without a table

    @property
    def source(self) -> Path:
        """The folder of the pictures; in a zip, below the path of the zip."""
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
    """Return the faces under root (a folder, a zip or parquet files) and what their tables say.

    Raises UserError if there are no pictures, or if a table cannot be understood or does not fit.
    """
    pictures = find_pictures(root)
    names, left_out = pictures.names, dict(pictures.others)
    found = _match_tables(pictures, left_out)
    for _, row_of in found.values():
        # pictures outside of the folder that a table fits are other pictures, such as masks
        folder = _common_folder(row_of)
        left_out |= {name: f"outside {folder}" for name in names if not name.startswith(folder)}
        names = [name for name in names if name.startswith(folder)]
    origins, says = {"attributes": "none"}, {}
    for what, (table, row_of) in found.items():
        rows = np.array([row_of.get(name, -1) for name in names])
        origins[what] = _describe(table, rows)
        if what == "attributes":
            columns, others = table.attributes()
            ignored = f"; not attributes: {', '.join(others)}" if others else ""
            origins[what] = f"{len(columns)} of {origins[what]}{ignored}"
            if columns:
                has = np.stack(list(columns.values()), axis=1)[rows] & (rows >= 0)[:, None]
                says = {"attributes": has, "attribute_names": tuple(columns), "known": rows >= 0}
        elif what == "splits":
            splits = np.where(rows >= 0, table.column(tables.SPLITS)[rows], UNUSED).astype(np.uint8)
        else:
            strangers = -1 - np.arange(len(names))  # without a row: each is another person
            says["people"] = np.where(rows >= 0, table.column(tables.PEOPLE)[rows], strangers)
    if "splits" not in found:
        splits, origins["splits"] = _splits_of_folders(names)
    left_out |= {names[row]: "without a split" for row in np.flatnonzero(splits == UNUSED)}
    folder = _common_folder(names)
    short = tuple(name.removeprefix(folder) for name in names)
    faces = Faces(pictures, folder, short, splits, origins, left_out, **says)
    return faces.at(np.flatnonzero(splits != UNUSED))


def _match_tables(
    pictures: Pictures, left_out: dict[str, str]
) -> dict[str, tuple[Table, dict[str, int]]]:
    """Return the table of each kind that fits most pictures, and the row of each picture in it.

    A table above --data may belong to other pictures: if it cannot be used, it is added to
    left_out.

    Raises UserError if another table cannot be used.
    """
    metadata = [file for file in pictures.tables if file.name.lower().endswith("metadata.csv")]
    groups = [[file] for file in pictures.tables if file not in metadata]
    matches, stems = [], by_stem(pictures.names)
    for group in [*groups, metadata] if metadata else groups:  # all metadata.csv are one table
        try:
            table = read_table(group)
            matches.append((table, match(table, stems)))
        except UserError:
            if group[0].folder != tables.ABOVE:
                raise
            left_out[group[0].name] = "table above --data that cannot be used"
    found = {}
    for kind in tables.KINDS:
        of_kind = [(table, row_of) for table, row_of in matches if table.holds(kind)]
        of_kind.sort(key=lambda pair: pair[0].kind is not kind)  # before columns of other tables
        table, row_of = max(of_kind, key=lambda pair: len(pair[1]), default=(None, {}))
        if row_of:
            found[kind.what] = (table, row_of)
        elif table and table.folder != tables.ABOVE:
            first = table.names[0] if table.names else "no picture"
            ours = f"the pictures are {pictures.names[0]} ..."
            raise UserError(f"{table.label} names {first} ..., {ours}: no row fits")
    return found


def _common_folder(names: Iterable[str]) -> str:
    """Return the folder of all names, with a slash, or "". Folders of splits are no part of it."""
    parts = os.path.commonpath({name.rpartition("/")[0] for name in names}).split("/")
    at = [number for number, part in enumerate(parts) if part.lower() in SPLIT_WORDS]
    return "".join(f"{part}/" for part in parts[: at[0] if at else None] if part)


def _describe(table: Table, rows: np.ndarray) -> str:
    """Return the name of a table, and how many pictures and rows do not fit."""
    remarks = []
    if missing := np.count_nonzero(rows < 0):
        remarks.append(f"{missing:,} pictures without a row")
    if unused := len(table.names) - np.count_nonzero(rows >= 0):
        remarks.append(f"{unused:,} of {len(table.names):,} rows without a picture")
    return table.label + (f" ({', '.join(remarks)})" if remarks else "")


def _splits_of_folders(names: Sequence[str]) -> tuple[np.ndarray, str]:
    """Return the split of each picture by the folder it is in, and which folders give them.

    Without such folders all are training pictures, and fill_splits is to choose.
    """
    folders = [name.lower().split("/")[:-1] for name in names]
    words = [next((part for part in parts if part in SPLIT_WORDS), None) for parts in folders]
    if not any(words):
        return np.zeros(len(names), np.uint8), BY_HASH
    splits = np.array([SPLIT_WORDS.get(word, UNUSED) for word in words], np.uint8)
    return splits, f"the folders {', '.join(sorted(set(filter(None, words))))}"


def fill_splits(
    names: Sequence[str], splits: np.ndarray, by_hash: bool
) -> tuple[np.ndarray, list[str]]:
    """Return splits of which none is empty, if there are three faces, and a line for each filled.

    An empty val or test gets the training faces whose hash falls into its tenth. If there are none,
    it gets the one with the lowest hash. by_hash says that the hash makes the splits: all faces are
    training faces before, and there is a line only for the lowest hash.
    """
    splits, lines = splits.copy(), []
    if np.count_nonzero(splits != UNUSED) < 3:
        return splits, lines
    for code, tenth in ((1, 8), (2, 9)):
        train = np.flatnonzero(splits == 0)
        if (splits == code).any() or len(train) < 2:
            continue
        files = [os.fsencode(names[row].rpartition("/")[2]) for row in train]
        digests = [hashlib.sha256(file).digest()[:8] for file in files]
        hashes = np.array([int.from_bytes(digest, "big") for digest in digests], np.uint64)
        # the lowest hash first; by_hash, faces of the tenths of val and test last
        ordered = np.lexsort((hashes, by_hash & (hashes % 10 > 7)))
        own = ordered[hashes[ordered] % 10 == tenth]
        # one is left for train, and one for test
        moved = own[: max(1, len(train) - 2)] if len(own) else ordered[:1]
        splits[train[moved]] = code
        if not (by_hash and len(own)):
            lines.append(f"{SPLITS[code]} was empty: {len(moved):,} images taken from train")
    return splits, lines
