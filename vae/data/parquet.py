"""Read pictures and their table from parquet files, such as Hugging Face's copies of CelebA."""

import csv
import functools
import io
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vae.errors import UserError


class ParquetFiles:
    """The rows of parquet files: each is one picture, with other columns as its table.

    A picture's folder is the beginning of the name of its parquet file: 000001.jpg in
    train-00000-of-00019.parquet is train/000001.jpg. A picture without a file name gets a number.

    Raises UserError if pyarrow is not installed, or if a file is damaged or has no pictures.
    """

    def __init__(self, root: Path, files: Sequence[str]) -> None:
        try:
            from pyarrow import ArrowException
            from pyarrow.parquet import ParquetFile
        except ImportError as error:
            raise UserError(f"{root} holds parquet files: pip install pyarrow") from error
        try:
            self._files = [ParquetFile(root / name) for name in files]
        except (ArrowException, OSError) as error:
            raise UserError(f"{root} holds a damaged parquet file: {error}") from error
        types = {field.name: str(field.type) for field in self._files[0].schema_arrow}
        images = [
            name for name, kind in types.items() if kind.endswith("binary") or "bytes: " in kind
        ]
        if not images:
            raise UserError(f"{root / files[0]} has no column of pictures, but {', '.join(types)}")
        self._image, self._lock = images[-1], threading.Lock()
        self._places: dict[str, tuple[int, int, int]] = {}  # file, row group, row
        for number, (name, file) in enumerate(zip(files, self._files, strict=True)):
            folder = name.removesuffix(".parquet").partition("-")[0]
            for group in range(file.num_row_groups):
                for row, path in enumerate(self._paths(file, group)):
                    if not path or f"{folder}/{path}" in self._places:
                        path = f"{len(self._places):06d}"
                    self._places[f"{folder}/{path}"] = (number, group, row)
        self.names = list(self._places)

    def _paths(self, file: Any, group: int) -> list[str]:
        """Return the file names in the rows of a group, "" where there is none."""
        column = f"{self._image}.path"
        if column not in {field.path for field in file.schema}:
            return [""] * file.metadata.row_group(group).num_rows
        values = file.read_row_group(group, columns=[column]).column(0).to_pylist()
        return [Path(value["path"] or "").name for value in values]

    def read(self, name: str) -> bytes:
        """Return the bytes of a picture; safe to call from many threads."""
        file, group, row = self._places[name]
        with self._lock:
            value = self._group(file, group)[row].as_py()
        return value["bytes"] if isinstance(value, dict) else value

    # packing reads in order, so its threads need two groups at most
    @functools.lru_cache(maxsize=2)  # noqa: B019  self is used as long as its files
    def _group(self, file: int, group: int) -> Any:
        return self._files[file].read_row_group(group, columns=[self._image]).column(0)

    def table(self) -> bytes:
        """Return the other columns as a table of comma-separated values."""
        text = io.StringIO()
        writer, names = csv.writer(text), iter(self.names)
        others = [name for name in self._files[0].schema_arrow.names if name != self._image]
        writer.writerow(["", *others])
        for file in self._files:
            for batch in file.iter_batches(columns=others):
                values = zip(*(column.to_pylist() for column in batch.columns), strict=True)
                writer.writerows([next(names), *row] for row in values)
        return text.getvalue().encode()
