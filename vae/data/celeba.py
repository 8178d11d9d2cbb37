"""Find the faces of a data set: its pictures, and what its tables say about them.

CelebA in any form and any other folder of pictures follow the same rules (README, "Data").
"""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vae.data import tables
from vae.data.pictures import Pictures, find_pictures
from vae.data.tables import SPLIT_WORDS, Kind, Table, TableFile, by_stem, match, read_table
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
    found, names, left_out = _find_tables(pictures)
    origins = {"attributes": "none", "splits": BY_HASH}
    origins |= {what: _describe(table, rows) for what, (table, rows) in found.items()}
    says: dict[str, Any] = {}
    if "attributes" in found:
        table, rows = found["attributes"]
        columns, others = table.attributes()
        ignored = f"; not attributes: {', '.join(others)}" if others else ""
        origins["attributes"] = f"{len(columns)} of {origins['attributes']}{ignored}"
        if columns:
            has = np.stack(list(columns.values()), axis=1)[rows] & (rows >= 0)[:, None]
            says = {"attributes": has, "attribute_names": tuple(columns), "known": rows >= 0}
    if "people" in found:
        table, rows = found["people"]
        strangers = -1 - np.arange(len(names))  # without a row: each is another person
        says["people"] = np.where(rows >= 0, table.column(tables.PEOPLE)[rows], strangers)
    splits = np.zeros(len(names), np.uint8)
    if "splits" in found:
        table, rows = found["splits"]
        splits = np.where(rows >= 0, table.column(tables.SPLITS)[rows], UNUSED).astype(np.uint8)
    elif any(words := [_split_folder(name) for name in names]):
        splits = np.array([SPLIT_WORDS.get(word, UNUSED) for word in words], np.uint8)
        origins["splits"] = f"the folders {', '.join(sorted(set(filter(None, words))))}"
    left_out |= {names[row]: "without a split" for row in np.flatnonzero(splits == UNUSED)}
    folder = _common_folder(names)
    short = tuple(name.removeprefix(folder) for name in names)
    faces = Faces(pictures, folder, short, splits, origins, left_out, **says)
    return faces.at(np.flatnonzero(splits != UNUSED))


def _find_tables(
    pictures: Pictures,
) -> tuple[dict[str, tuple[Table, np.ndarray]], list[str], dict[str, str]]:
    """Return the best table of each kind, the names of the pictures, and the files left out.

    Beside each table is the row of each picture in it, -1 without one. Pictures outside of the
    folder that a table fits are other pictures, such as masks: they are left out.
    """
    names, left_out, found = pictures.names, dict(pictures.others), {}
    candidates, stems = _read_tables(pictures.tables, left_out), by_stem(names)
    for kind in tables.KINDS:
        best = _best_table(kind, candidates, stems)
        if best is None:
            continue
        found[kind.what] = best
        folder = _common_folder(best[1])
        if outside := [name for name in names if not name.startswith(folder)]:
            left_out |= dict.fromkeys(outside, f"outside {folder}")
            names = [name for name in names if name.startswith(folder)]
            stems = by_stem(names)
    rows_of = {
        what: (table, np.array([rows.get(name, -1) for name in names]))
        for what, (table, rows) in found.items()
    }
    return rows_of, names, left_out


def _read_tables(files: Sequence[TableFile], left_out: dict[str, str]) -> list[Table]:
    """Return the tables; all metadata.csv together are one.

    Raises UserError if one cannot be understood. Above --data it may belong to other pictures, and
    is added to left_out.
    """
    metadata = [file for file in files if file.name.lower().endswith("metadata.csv")]
    groups = [[file] for file in files if file not in metadata] + [metadata] * bool(metadata)
    found = []
    for group in groups:
        try:
            found.append(read_table(group))
        except UserError:
            if group[0].folder != "..":
                raise
            left_out[group[0].name] = "table above --data that cannot be read"
    return found


def _best_table(
    kind: Kind, candidates: Sequence[Table], stems: Mapping[str, Sequence[str]]
) -> tuple[Table, dict[str, int]] | None:
    """Return the table of a kind that fits most pictures, and the row of each picture in it.

    Raises UserError if there are tables and none fits, unless all lie above --data.
    """
    fitting, problem = [], None
    for table in candidates:
        if table.holds(kind):
            try:
                fitting.append((table, match(table, stems)))
            except UserError as error:
                problem = problem or (error if table.folder != ".." else None)
    if problem and not fitting:
        raise problem
    return max(fitting, key=lambda pair: len(pair[1]), default=None)


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


def _split_folder(name: str) -> str | None:
    """Return the first folder in a picture's path that is named as a split, in lower case."""
    return next((part for part in name.lower().split("/")[:-1] if part in SPLIT_WORDS), None)


def fill_splits(
    names: Sequence[str], splits: np.ndarray, by_hash: bool
) -> tuple[np.ndarray, list[str]]:
    """Return splits of which none is empty, if there are three faces, and a line for each filled.

    An empty val or test gets the training faces whose hash falls into its tenth, at least the one
    with the lowest hash. by_hash, all faces are training faces before, and only that one is told.
    """
    splits, lines = splits.copy(), []
    if np.count_nonzero(splits != UNUSED) < 3:
        return splits, lines
    for code, tenth in ((1, 8), (2, 9)):
        train = np.flatnonzero(splits == 0)
        if (splits == code).any() or len(train) < 2:
            continue
        hashes = _name_hashes([names[row] for row in train])
        ordered = np.argsort(hashes, kind="stable")
        own = ordered[hashes[ordered] % 10 == tenth]
        # one is left for train, and one for test
        moved = own[: max(1, len(train) - 2)] if len(own) else ordered[:1]
        splits[train[moved]] = code
        if not (by_hash and len(own)):
            lines.append(f"{SPLITS[code]} was empty: {len(moved):,} images taken from train")
    return splits, lines


def _name_hashes(names: Sequence[str]) -> np.ndarray:
    """Return the first 64 bits of the SHA-256 of each file name without its folders, (N,)."""
    files = (os.fsencode(name.rpartition("/")[2]) for name in names)
    digests = (hashlib.sha256(file).digest()[:8] for file in files)
    return np.array([int.from_bytes(digest, "big") for digest in digests], np.uint64)
