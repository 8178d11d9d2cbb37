"""The tables of a data set: attributes, splits and people, and which row is which picture's."""

import csv
import io
import itertools
import unicodedata
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import NamedTuple

import numpy as np

from vae.data.decoding import BadPicture, picture_endings
from vae.errors import UserError

SPLIT_WORDS = {"train": 0, "val": 1, "valid": 1, "validation": 1, "dev": 1, "test": 2}
NOTHING = -(2**62)
"""The code of a cell that says nothing of the kind that is asked for."""


class Kind(NamedTuple):
    """A kind of table: how its files are called, and what its cells mean."""

    what: str
    files: tuple[str, ...]
    columns: tuple[str, ...]
    """the names of its column in a table of another kind"""
    meaning: Callable[[str], int]
    """from the text of a cell to its code, or NOTHING"""


def _flag(text: str) -> int:
    number = float({"true": "1", "false": "0"}.get(text.lower(), text))
    return int(number) if number in (-1, 0, 1) else NOTHING


def _split(text: str) -> int:
    word = text.lower()
    return SPLIT_WORDS[word] if word in SPLIT_WORDS else range(3).index(float(word))


ATTRIBUTES = Kind(
    "attributes", ("list_attr*", "*attribute*anno*", "attributes.*", "metadata.csv"), (), _flag
)
SPLITS = Kind("splits", ("list_eval_partition*",), ("split", "partition"), _split)
PEOPLE = Kind("people", ("identity_celeba*",), ("identity", "celeb_id"), int)
KINDS = (ATTRIBUTES, SPLITS, PEOPLE)


class TableFile(NamedTuple):
    """A table that was found, unread."""

    name: str
    folder: str
    """where it lies, as the pictures' names have it; "../" if that is above them"""
    read: Callable[[], bytes]


@dataclass(frozen=True)
class Table:
    """A table that was read. Each row says something of one picture."""

    label: str
    names: list[str]
    """of the pictures, in the table's words, with forward slashes"""
    header: list[str]
    """one name for each column beside that of the pictures; empty where there is none"""
    cells: np.ndarray
    """(rows, columns) int64"""

    def column(self, kind: Kind) -> np.ndarray:
        """Return the column of splits or people, (rows,): by its name, else the first that fits.

        Raises UserError if some row says nothing.
        """
        named = [at for at, name in enumerate(self.header) if name.lower() in kind.columns]
        missing = (self.cells == NOTHING).sum(0)
        at = named[0] if named else int(missing.argmin())
        if missing[at]:
            row = self.names[int((self.cells[:, at] == NOTHING).argmax())]
            raise UserError(f"{self.label} does not give the {kind.what} of {row}")
        return self.cells[:, at]

    def attributes(self) -> tuple[list[int], list[str]]:
        """Return which columns are attributes, and the names of the others.

        Raises UserError if a column has -1, 0 and 1, or if two attributes have the same name.
        """
        other = {*SPLITS.columns, *PEOPLE.columns, ""}
        known = (self.cells != NOTHING).all(0) & np.array(
            [name.lower() not in other for name in self.header], bool
        )
        chosen = np.flatnonzero(known).tolist()
        names = [self.header[at] for at in chosen]
        for at, name in zip(chosen, names, strict=True):
            if len(np.unique(self.cells[:, at])) > 2:
                raise UserError(f"{self.label} has -1, 0 and 1 in its column {name}: keep two")
            if [one.lower() for one in names].count(name.lower()) > 1:
                raise UserError(f"{self.label} names {name} more than once in its header")
        return chosen, [name for name in self.header if name and name not in names]


class _Codes(dict[str, int]):
    """From the text of a cell to its code: spellings are remembered, other texts are not."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind

    def __missing__(self, text: str) -> int:
        try:
            code = self.kind.meaning(text.strip())
        except (ValueError, OverflowError):
            code = NOTHING
        if code != NOTHING:
            self[text] = code
        return code


def read_table(files: Sequence[TableFile], kind: Kind) -> Table:
    """Return the rows of files of the same columns as one table.

    Raises UserError if they cannot be understood.
    """
    codes, names, header, cells = _Codes(kind), [], None, array("q")
    for file in files:
        rows = read_rows(file)
        titles, first = next(rows, []), None
        if any(codes[cell] != NOTHING for cell in titles):
            titles, first = [""] * len(titles), titles
        first = first or next(rows, titles)
        while titles and first[-1] and not titles[-1]:  # CelebA's header ends with a space
            titles = titles[:-1]
        titles = [""] * (len(first) - len(titles)) + titles  # CelebA's header has no first cell
        header = titles if header is None else header
        if titles != header:
            raise UserError(f"{file.name} has other columns than {files[0].name}")
        name_at, width = _column_of_names(first), len(first)
        while first:
            if len(first) != width:
                found = f"{len(first)} cells in the row of {first[0]}, expected {width}"
                cut = ": fetch the file again" if next(rows, None) is None else ""
                raise UserError(f"{file.name} has {found}{cut}")
            path = first.pop(name_at).strip().replace("\\", "/").removeprefix("./")
            names.append(f"{file.folder}/{path}" if file.folder else path)
            cells.extend(map(codes.__getitem__, first))
            first = next(rows, None)
    label = f"{len(files)} x {files[0].name}" if len(files) > 1 else files[0].name
    titles = header[:name_at] + header[name_at + 1 :]
    codes = np.frombuffer(cells, np.int64) if cells else np.zeros(0, np.int64)
    return Table(label, names, titles, codes.reshape(len(names), len(titles)))


def read_rows(file: TableFile) -> Iterator[list[str]]:
    """Yield the rows of a table, without empty lines and a first line of their number.

    Raises UserError if the file cannot be read.
    """
    try:
        content = file.read()
    except (BadPicture, OSError) as error:
        raise UserError(f"{file.name} cannot be read: {error}") from error
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        text = content.decode("utf-16", "replace")
    else:  # file names need not be UTF-8, and os.fsdecode reads them in the same way
        text = content.decode("utf-8-sig", "surrogateescape")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    first, _, others = text.partition("\n")
    text = others if first.strip(" \t,;").isdecimal() else text
    try:
        # not csv.Sniffer, which gives up on short tables
        widths = {delimiter: _usual_width(text, delimiter) for delimiter in ",;\t|"}
        delimiter = max(widths, key=widths.get)
        if widths[delimiter] > 1:
            rows = csv.reader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True)
        else:  # columns between spaces, as CelebA's own
            rows = map(str.split, io.StringIO(text))
        yield from filter(any, rows)
    except csv.Error as error:
        raise UserError(f"{file.name} cannot be read as a table: {error}") from error


def _usual_width(text: str, delimiter: str) -> int:
    """Return the median number of cells of a table's first rows."""
    rows = csv.reader(io.StringIO(text[: 2**14]), delimiter=delimiter, skipinitialspace=True)
    widths = sorted(len(row) for row in rows if any(row))
    return widths[len(widths) // 2] if widths else 0


def _column_of_names(row: Sequence[str]) -> int:
    """Return the first column that holds a picture's file name, else the first."""
    endings = tuple(picture_endings())
    return next((at for at, cell in enumerate(row) if cell.lower().endswith(endings)), 0)


def is_named(file: str, kind: Kind) -> bool:
    """Return whether a file is called as a table of this kind."""
    name = file.rpartition("/")[2].lower()
    return any(fnmatch(name, pattern) for pattern in kind.files)


class Matcher:
    """Finds the pictures of a table's rows: by path, by file name, then without the ending."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self._first: list[dict[str, int]] = [{}, {}, {}]  # for a path, a file name, a stem
        self._all: dict[tuple[int, str], list[int]] = {}  # where there are several
        for number, name in enumerate(names):
            path, file, _, stem = _keys(name)
            for place, key in enumerate((path, file, stem)):
                if (other := self._first[place].setdefault(key, number)) != number:
                    self._all.setdefault((place, key), [other]).append(number)

    def rows(self, table: Table) -> np.ndarray:
        """Return the row of each picture, -1 without one: (N,) int64.

        Raises UserError if a row fits two pictures equally, or two rows fit one picture.
        """
        rows, levels = [-1] * len(self.names), [9] * len(self.names)
        for row, name in enumerate(table.names):
            for level, key in enumerate(_keys(name)):
                place = min(level, 2)
                number = self._first[place].get(key)
                if number is None:
                    continue
                if (place, key) in self._all:
                    number = self._nearest(table, name, self._all[place, key])
                if levels[number] == level:
                    raise UserError(f"{table.label} has {name} a second time")
                if level < levels[number]:
                    rows[number], levels[number] = row, level
                break
        return np.array(rows, np.int64)

    def _nearest(self, table: Table, row: str, found: Sequence[int]) -> int:
        """Return the picture that agrees with a row in most of the last folders."""

        def shared(number: int) -> int:
            pairs = zip(row.split("/")[-2::-1], self.names[number].split("/")[-2::-1], strict=False)
            return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))

        *_, second, best = sorted(found, key=shared)
        if shared(best) == shared(second):
            raise UserError(
                f"{table.label}: {row} fits {self.names[second]} and {self.names[best]} equally: "
                "pass the folder of one as --data, or write the folder into the table"
            )
        return best


def _keys(name: str) -> tuple[str, str, str, str]:
    """Return what a picture is looked up by: path, file name, that as a stem, its stem."""
    path = unicodedata.normalize("NFC", name)
    file = path.rpartition("/")[2]
    stem = file.rpartition(".")[0] or file
    return path, file, file.casefold(), stem.casefold()
