"""Find the faces of a data set: its pictures, and what its tables say about them.

The same rules (README, "Data") hold for CelebA in any form and for other folders of pictures.
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
    folder: str  # common folder of the pictures, relative to their source: "" or with a final slash
    names: tuple[str, ...]  # relative to the folder, with forward slashes, sorted
    splits: np.ndarray  # (N,) uint8, an index into SPLITS; all 0 if fill_splits chooses them
    origins: dict[str, str]  # where attributes and splits come from, in words
    left_out: dict[str, str]  # the files that are not among the names, and why
    # None or () without such a table:
    attributes: np.ndarray | None = None  # (N, K) bool, one column for each name
    attribute_names: tuple[str, ...] = ()  # K names, in the order of the table
    known: np.ndarray | None = None  # (N,) bool, whether a face has a row of attributes
    people: np.ndarray | None = None  # (N,) int64, the number of the person

    @property
    def source(self) -> Path:
        """The path of the folder of the pictures. In a zip it begins with the path of the zip."""
        return self.pictures.source / self.folder

    def read(self, name: str) -> bytes:
        """Return the bytes of a picture; safe to call from many threads.

        Raises BadPicture or OSError if the picture cannot be read.
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

    Raises UserError if there are no pictures, if a table cannot be understood, or if it describes
    none of the pictures.
    """
    pictures = find_pictures(root)
    names, left_out = pictures.names, dict(pictures.others)
    found = _match_tables(pictures, left_out)
    for _, row_of in found.values():
        # a table describes one folder of pictures: those outside of it may be masks
        folder = _common_folder(row_of)
        left_out |= {name: f"outside {folder}" for name in names if not name.startswith(folder)}
        names = [name for name in names if name.startswith(folder)]
    origins, fields = {"attributes": "none"}, {}
    for what, (table, row_of) in found.items():
        rows = np.array([row_of.get(name, -1) for name in names])
        origins[what] = _describe(table, rows)
        if what == "attributes":
            columns, others = table.attributes()
            ignored = f"; not attributes: {', '.join(others)}" if others else ""
            origins[what] = f"{len(columns)} of {origins[what]}{ignored}"
            if columns:
                known = rows >= 0
                values = np.stack(list(columns.values()), axis=1)[rows] & known[:, None]
                fields = {"attributes": values, "attribute_names": tuple(columns), "known": known}
        elif what == "splits":
            splits = np.where(rows >= 0, table.column(tables.SPLITS)[rows], UNUSED).astype(np.uint8)
        else:
            # each picture without a row gets a person of its own
            new_people = -1 - np.arange(len(names))
            fields["people"] = np.where(rows >= 0, table.column(tables.PEOPLE)[rows], new_people)
    if "splits" not in found:
        splits, origins["splits"] = _splits_of_folders(names)
    left_out |= {names[row]: "without a split" for row in np.flatnonzero(splits == UNUSED)}
    folder = _common_folder(names)
    short = tuple(name.removeprefix(folder) for name in names)
    faces = Faces(pictures, folder, short, splits, origins, left_out, **fields)
    return faces.at(np.flatnonzero(splits != UNUSED))


def _match_tables(
    pictures: Pictures, left_out: dict[str, str]
) -> dict[str, tuple[Table, dict[str, int]]]:
    """Return for each kind the table that fits most pictures, and the row of each picture in it.

    A table above --data may belong to other pictures. If such a table cannot be used, it is added
    to left_out.

    Raises UserError if any other table cannot be used.
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
        # max returns the first of equals: prefer a table of this kind to a column of another kind
        of_kind.sort(key=lambda pair: pair[0].kind is not kind)
        table, row_of = max(of_kind, key=lambda pair: len(pair[1]), default=(None, {}))
        if row_of:
            found[kind.what] = (table, row_of)
        elif table and table.folder != tables.ABOVE:
            first = table.names[0] if table.names else "no picture"
            raise UserError(
                f"{table.label} names {first} ..., the pictures are {pictures.names[0]} ...: "
                "no row fits"
            )
    return found


def _common_folder(names: Iterable[str]) -> str:
    """Return the deepest folder that holds all names, with a final slash, or "".

    It ends above the folder of a split, such as train.
    """
    parts = os.path.commonpath({name.rpartition("/")[0] for name in names}).split("/")
    split_at = [index for index, part in enumerate(parts) if part.lower() in SPLIT_WORDS]
    return "".join(f"{part}/" for part in parts[: split_at[0] if split_at else None] if part)


def _describe(table: Table, rows: np.ndarray) -> str:
    """Return the label of a table, and how many pictures and rows have no match."""
    remarks = []
    if missing := np.count_nonzero(rows < 0):
        remarks.append(f"{missing:,} pictures without a row")
    if unused := len(table.names) - np.count_nonzero(rows >= 0):
        remarks.append(f"{unused:,} of {len(table.names):,} rows without a picture")
    return table.label + (f" ({', '.join(remarks)})" if remarks else "")


def _splits_of_folders(names: Sequence[str]) -> tuple[np.ndarray, str]:
    """Return the splits that the folders' names give, (N,) uint8, and their origin in words.

    If no folder is named as a split, all pictures are in train and fill_splits chooses the splits.
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
    """Return the splits with an empty val and test filled from train, and lines that say so.

    An empty val or test gets the training faces whose hash falls into its tenth. If there are none,
    it gets the training face with the lowest hash. Fewer than three faces are left as they are.
    by_hash says that neither a table nor a folder gives the splits: all faces are in train, and
    filling is expected. Then only a split with the face of lowest hash gets a line.
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
        # Lowest hash first. If by_hash, faces in the tenths of val and test come last.
        ordered = np.lexsort((hashes, by_hash & (hashes % 10 > 7)))
        in_tenth = ordered[hashes[ordered] % 10 == tenth]
        # leave one face for train and one for test
        moved = in_tenth[: max(1, len(train) - 2)] if len(in_tenth) else ordered[:1]
        splits[train[moved]] = code
        if not (by_hash and len(in_tenth)):
            lines.append(f"{SPLITS[code]} was empty: {len(moved):,} images taken from train")
    return splits, lines
