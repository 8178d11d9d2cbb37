"""Read the tables of a data set (attributes, splits, people); find the row of each picture."""

import csv
import io
import itertools
import re
import statistics
import unicodedata
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import NamedTuple

import numpy as np

from vae.data.decoding import BadPicture, picture_endings
from vae.errors import UserError

SPLIT_WORDS = {"train": 0, "val": 1, "valid": 1, "validation": 1, "dev": 1, "test": 2}
ABOVE = ".."
"""The folder of a table that lies above --data: it may belong to other pictures."""
_NOTHING = -(2**62)
"""The code of a cell that has no meaning for a kind of table."""


class Kind(NamedTuple):
    """A kind of table: the names of its files, and the meaning of its cells."""

    what: str  # its name in messages
    files: tuple[str, ...]  # patterns of the names of its files, in lower case
    columns: tuple[str, ...]  # names of a column of this kind in any table
    words: dict[str, int]  # the code of each word
    numbers: range  # the codes that a cell may have

    def is_name_of(self, file: str) -> bool:
        """Return whether the name of a file is that of a table of this kind."""
        name = file.rpartition("/")[2].lower()
        return any(fnmatch(name, pattern) for pattern in self.files)

    def code(self, cell: str) -> int:
        """Return the code of the text of a cell, or _NOTHING."""
        text = cell.strip().lower()
        try:
            number = float(self.words.get(text, text))
        except ValueError:
            return _NOTHING
        allowed = number.is_integer() and int(number) in self.numbers
        return int(number) if allowed else _NOTHING


ATTRIBUTES = Kind(
    "attributes",
    ("list_attr*", "*attribute*anno*", "attributes.*", "metadata.csv"),
    (),
    {"true": 1, "false": 0},
    range(-1, 2),
)
SPLITS = Kind("splits", ("list_eval_partition*",), ("split", "partition"), SPLIT_WORDS, range(3))
PEOPLE = Kind("people", ("identity_celeba*",), ("identity", "celeb_id"), {}, range(2**53))
KINDS = (ATTRIBUTES, SPLITS, PEOPLE)


class TableFile(NamedTuple):
    """A table that was found but not yet read."""

    name: str
    folder: str  # relative to the source of the pictures, or ABOVE
    read: Callable[[], bytes]


@dataclass(frozen=True)
class Table:
    """A table that was read. Each row describes one picture."""

    kind: Kind
    label: str
    folder: str  # of its TableFile
    names: list[str]  # of the pictures, as in the table, with forward slashes
    header: list[str]  # the names of the other columns, "" where there is none
    texts: list[str]  # the distinct texts of the cells
    cells: np.ndarray  # (rows, columns), each an index into texts

    def codes(self, kind: Kind) -> np.ndarray:
        """Return the codes of all cells, (rows, columns) int64."""
        return np.array([kind.code(text) for text in self.texts], np.int64)[self.cells]

    def holds(self, kind: Kind) -> bool:
        """Return whether the table is of this kind or has a column of this kind."""
        return kind is self.kind or any(name.lower() in kind.columns for name in self.header)

    def column(self, kind: Kind) -> np.ndarray:
        """Return the codes of the column of splits or people, (rows,) int64.

        The column is found by its name. If no name fits, it is the column with the most codes.

        Raises UserError if a cell has no meaning.
        """
        codes = self.codes(kind)
        if not codes.shape[1]:
            raise UserError(f"{self.label} has no column that could give the {kind.what}")
        named = [i for i, name in enumerate(self.header) if name.lower() in kind.columns]
        column = codes[:, named[0] if named else (codes == _NOTHING).sum(0).argmin()]
        if (column == _NOTHING).any():
            row = self.names[(column == _NOTHING).argmax()]
            raise UserError(f"{self.label} does not give the {kind.what} of {row}")
        return column

    def attributes(self) -> tuple[dict[str, np.ndarray], list[str]]:
        """Return the yes/no columns by name, each (rows,) bool, and the names of the others.

        Raises UserError if a column has -1, 0 and 1, or if two attributes have the same name.
        """
        columns, others = {}, []
        for name, codes in zip(self.header, self.codes(ATTRIBUTES).T, strict=True):
            values = set(np.unique(codes).tolist())
            if _NOTHING in values or name.lower() in ("", *SPLITS.columns, *PEOPLE.columns):
                others += [name] if name else []
                continue
            if len(values) > 2:
                raise UserError(f"{self.label} has -1, 0 and 1 in its column {name}: keep two")
            if name.lower() in map(str.lower, columns):
                raise UserError(f"{self.label} names {name} more than once in its header")
            columns[name] = codes == 1
        return columns, others


def read_table(files: Sequence[TableFile]) -> Table:
    """Return one table with the rows of all files, which must have the same columns.

    Raises UserError if a file cannot be understood or has other columns.
    """
    kind = next(kind for kind in KINDS if kind.is_name_of(files[0].name))
    header, names, cells = None, [], array("i")
    numbers = defaultdict(itertools.count().__next__)  # each new text gets the next number
    for file in files:
        titles, name_at, rows = _open_table(file, kind)
        if header not in (None, titles):
            raise UserError(f"{file.name} has other columns than {files[0].name}")
        header = titles
        for row in rows:
            if len(row) != len(header):
                count = f"{len(row)} cells in the row of {row[0]}, expected {len(header)}"
                # the last row may be short because the download was incomplete
                advice = ": fetch the file again" if next(rows, None) is None else ""
                raise UserError(f"{file.name} has {count}{advice}")
            path = row.pop(name_at).strip().replace("\\", "/").removeprefix("./")
            names.append(f"{file.folder}/{path}" if file.folder else path)
            cells.extend(map(numbers.__getitem__, row))
    label = f"{len(files)} x {files[0].name}" if len(files) > 1 else files[0].name
    # a title becomes the name of an attribute, of its pictures and of parts of a checkpoint
    titles = ["".join(one if one.isprintable() else "\ufffd" for one in text) for text in header]
    del titles[name_at : name_at + 1]  # an empty table has none
    table = np.array(cells, np.int32).reshape(len(names), len(titles))
    return Table(kind, label, files[0].folder, names, titles, list(numbers), table)


def _open_table(file: TableFile, kind: Kind) -> tuple[list[str], int, Iterator[list[str]]]:
    """Return the title of each column, the index of the column of file names, and the rows."""
    rows = _read_rows(file)
    titles = next(rows, [])
    if any(kind.code(cell) != _NOTHING for cell in titles):  # there is no header
        titles, rows = [""] * len(titles), itertools.chain([titles], rows)
    first = next(rows, [])
    endings = tuple(picture_endings())
    named = [i for i, cell in enumerate(first) if cell.lower().endswith(endings)]
    name_at = named[0] if named else 0
    while first[-1:] != [""] and titles[-1:] == [""]:  # CelebA's header ends with a separator
        titles.pop()
    # CelebA's header has no cell above the file names, so it is shorter than a row. If a row has
    # texts, another reason is likely: a delimiter in a text. Then read_table refuses the row.
    others = first[:name_at] + first[name_at + 1 :]
    if all(map(_is_value, others)):
        titles = [""] * (len(first) - len(titles)) + titles
    return titles, name_at, itertools.chain([first] if first else [], rows)


def _is_value(cell: str) -> bool:
    """Return whether a cell is empty, a number, or a word that has a code."""
    is_number = re.fullmatch(r"[-+.\d]*", cell)
    return bool(is_number) or any(kind.code(cell) != _NOTHING for kind in KINDS)


def _read_rows(file: TableFile) -> Iterator[list[str]]:
    """Yield the rows of a table. Skips empty lines, and a first line with the number of rows.

    Raises UserError if the file cannot be read.
    """
    try:
        content = file.read()
        is_utf_16 = content.startswith((b"\xff\xfe", b"\xfe\xff"))
        # file names need not be UTF-8: decode them as os.listdir does
        text = content.decode("utf-16" if is_utf_16 else "utf-8-sig", "surrogateescape")
        lines = io.StringIO(re.sub(r"^\s*\d+[ \t,;]*[\r\n]", "", text), newline=None)
        # csv.Sniffer would fail on short tables
        widths = {delimiter: _usual_width(text, delimiter) for delimiter in ",;\t|"}
        delimiter = max(widths, key=widths.get)
        if widths[delimiter] > 1:
            rows = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
        else:  # spaces, as in CelebA's own tables
            rows = map(str.split, lines)
        yield from filter(any, rows)
    except (BadPicture, OSError, UnicodeError) as error:
        raise UserError(f"{file.name} cannot be read: {error}") from error
    except csv.Error as error:
        raise UserError(f"{file.name} cannot be read as a table: {error}") from error


def _usual_width(text: str, delimiter: str) -> int:
    """Return the median number of cells in the first rows of a table."""
    lines = io.StringIO(text[: 2**14], newline=None)
    rows = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    return statistics.median_low([len(row) for row in rows if any(row)] or [0])


def by_stem(names: Sequence[str]) -> dict[str, list[str]]:
    """Return the pictures grouped by file name, in lower case and without the ending."""
    pictures = defaultdict(list)
    for name in names:
        pictures[_stem(name)].append(name)
    return pictures


def match(table: Table, pictures: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Return the row number of each picture that has a row. pictures come from by_stem.

    A row fits a picture if their file names agree, apart from case and ending. Among several that
    fit, one with equal case and ending is preferred, then one with more equal folders.

    Raises UserError if a row fits two pictures equally, or if two rows fit one picture equally.
    """
    found: dict[str, int] = {}
    for number, row in enumerate(table.names):
        fitting = pictures.get(_stem(row))
        if not fitting:
            continue
        name = fitting[0] if len(fitting) == 1 else _nearest(table, row, fitting)
        if name in found:
            before, now = _agreement(name, table.names[found[name]]), _agreement(name, row)
            if before == now:
                raise UserError(f"{table.label} has {row} a second time")
            if before > now:
                continue
        found[name] = number
    return found


def _stem(name: str) -> str:
    """Return the file name in lower case, without the ending of a picture."""
    file = unicodedata.normalize("NFC", name).casefold().rpartition("/")[2]
    stem, _, ending = file.rpartition(".")  # Path is slow
    return stem if "." + ending in picture_endings() or ending == "heic" else file


def _nearest(table: Table, row: str, names: Sequence[str]) -> str:
    """Return the picture that agrees most with a row. Raises UserError if two agree equally."""
    *_, second, best = sorted(names, key=lambda name: _agreement(name, row))
    if _agreement(best, row) == _agreement(second, row):
        raise UserError(
            f"{table.label}: {row} fits {second} and {best} equally: "
            "pass the folder of one as --data, or write the folder into the table"
        )
    return best


def _agreement(name: str, row: str) -> tuple[bool, int]:
    """Return whether the file names are equal, and the number of equal folders above them."""
    paths = (unicodedata.normalize("NFC", f"/{path}") for path in (name, row))
    (file, *folders), (other_file, *other_folders) = (path.split("/")[::-1] for path in paths)
    equal = [one == other for one, other in zip(folders, other_folders, strict=False)]
    return file == other_file, (*equal, False).index(False)
