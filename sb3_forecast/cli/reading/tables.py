"""Tables of named columns: text with separators, JSON lines, Parquet and numpy archives, read one column at a time.

A column is read in a stream, so that a file of ten million lines needs no more memory than its numbers.
"""

from __future__ import annotations

import csv
import json
import math
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sb3_forecast.cli.reading.opening import need, open_text

#: cells that say that there is no value
MISSING = ("", "na", "n/a", "nan", "null", "none", "-")
#: rows by which a column is recognised as numbers; a later cell that is none is an error
_LOOKED_AT = 1000


@dataclass(frozen=True)
class Column:
    """The numbers of a column.

    :param values: one number per task, shape (m,), float64; NaN where it is missing
    :param places: where each number stands, such as ``"line 7"``, in the order of the values
    :param note: what was understood on the way, for the report; empty if nothing was
    """

    values: NDArray[np.float64]
    places: Sequence[str]
    note: str = ""


class Table(Protocol):
    """A file with named columns."""

    @property
    def names(self) -> list[str]:
        """The columns, in the order of the file."""

    @property
    def numeric(self) -> list[str]:
        """The columns of numbers."""

    def column(self, name: str) -> Column:
        """Read a column.

        :param name: one of ``numeric``
        :raises ValueError: if a value is no number; the message names file and place
        """


class _Places(Sequence[str]):
    """``"line 2"``, ``"line 3"``, ... without keeping them."""

    def __init__(self, word: str, first: int, lines: NDArray[np.int64] | None = None, size: int = 0) -> None:
        self.word, self.first, self.lines, self.size = word, first, lines, size if lines is None else len(lines)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: Any) -> Any:
        number = self.first + int(index) if self.lines is None else int(self.lines[index])
        return f"{self.word} {number}"


class TextTable:
    """Columns separated by commas, semicolons or tabs. If the first line holds only numbers, it is data and there is no header.

    :param path: a ``.csv``, ``.tsv`` or ``.txt`` file
    :raises ValueError: if the file is empty, or a row has another number of cells than the first
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with open_text(path) as text:
            start = text.readline().strip("\r\n")
            following = text.readline().strip("\r\n")
        if not start.strip():
            raise ValueError(f"{path} must begin with a header or a number, got an empty first line; write one task per line")
        self.separator = next((mark for mark in ("\t", ";") if mark in start), ",")
        if self.separator == "," and "," not in start and ";" in following:
            raise ValueError(
                f"{path}, line 2: a row must have 1 cell as the header has, got {following!r}; use the same separator in header and rows"
            )
        first = next(csv.reader([start], delimiter=self.separator))
        self.headless = all(_number(cell, self.separator == ";") is not None for cell in first)
        self._names = [f"column {i + 1}" for i in range(len(first))] if self.headless else [name.strip() for name in first]
        doubled = sorted({name for name in self._names if self._names.count(name) > 1})
        if doubled:
            raise ValueError(f"{path} must have columns of different names, got {doubled[0]!r} twice; rename one of them")
        self.decimal_comma = False
        self._numeric = self._look()

    @property
    def names(self) -> list[str]:
        """See :class:`Table`."""
        return self._names

    @property
    def numeric(self) -> list[str]:
        """See :class:`Table`."""
        return self._numeric

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        """Line number and cells of every row."""
        with open_text(self.path) as text:
            reader = csv.reader(text, delimiter=self.separator, strict=True)
            try:
                for cells in reader:
                    if reader.line_num == 1 and not self.headless:
                        continue
                    if len(cells) != len(self._names) and not (not cells and len(self._names) == 1):
                        if not cells:
                            cells = [""] * len(self._names)
                        else:
                            self._refuse(reader.line_num, cells)
                    yield reader.line_num, cells or [""]
            except csv.Error as error:
                raise ValueError(
                    f"{self.path}, line {reader.line_num}: a row must be cells separated by {self.separator!r}, got a broken one ({error}); "
                    "close the quotation marks"
                ) from error

    def _refuse(self, line: int, cells: list[str]) -> None:
        more = len(cells) - len(self._names)
        reason = (
            "quote cells that hold a comma, and write decimals with a point"
            if more > 0
            else "write an empty cell for a missing value"
        )
        if more > 0 and cells[-1] == "":
            reason = "remove the separator at the end of the row"
        raise ValueError(
            f"{self.path}, line {line}: a row must have {len(self._names)} cells as the first line has, got {len(cells)} "
            f"({self.separator.join(cells)[:60]!r}); {reason}"
        )

    def _look(self) -> list[str]:
        """The columns whose first cells are numbers or empty, and whether their decimals are written with a comma."""
        seen: list[list[str]] = [[] for _ in self._names]
        for _, (_line, cells) in zip(range(_LOOKED_AT), self._rows(), strict=False):
            for column, cell in zip(seen, cells, strict=True):
                if cell.strip().lower() not in MISSING:
                    column.append(cell)
        commas = any("," in cell and _number(cell, True) is not None for column in seen for cell in column)
        points = any("." in cell and _number(cell, False) is not None for column in seen for cell in column)
        if self.separator == ";" and commas and points:
            raise ValueError(
                f"{self.path} must write decimals in one way, got commas in some cells and points in others; use points everywhere"
            )
        self.decimal_comma = self.separator == ";" and commas
        return [
            name
            for name, column in zip(self._names, seen, strict=True)
            if column and all(_number(cell, self.decimal_comma) is not None for cell in column)
        ]

    def column(self, name: str) -> Column:
        """See :class:`Table`."""
        at = self._names.index(name)
        values, lines = array("d"), array("q")
        for line, cells in self._rows():
            cell = cells[at]
            value = math.nan if cell.strip().lower() in MISSING else _number(cell, self.decimal_comma)
            if value is None:
                raise ValueError(
                    f"{self.path}, line {line}: {name} must be a number, got {cell[:40]!r}; correct or remove the row"
                )
            values.append(value)
            lines.append(line)
        note = "decimal commas" if self.decimal_comma else ""
        return Column(np.array(values), _Places("line", 0, np.array(lines, dtype=np.int64)), note)


def _number(cell: str, decimal_comma: bool) -> float | None:
    """The number in a cell; ``None`` if there is none. Digits with underscores are Python's, not numbers of a file."""
    text = cell.strip()
    if "_" in text:
        return None
    if text.lower() in ("true", "false"):
        return float(text.lower() == "true")
    if decimal_comma:
        if text.count(",") > 1 or ("," in text and "." in text):
            return None
        text = text.replace(",", ".")
    try:
        return float(text)
    except ValueError:
        return None


class RowTable:
    """One JSON object per line. Only line feeds end a line.

    :param path: a ``.jsonl`` file
    :raises ValueError: if the file is empty, or its first lines are no JSON objects
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.first: dict[str, Any] = {}
        seen: dict[str, bool] = {}
        empty = True
        for _, (_line, row) in zip(range(_LOOKED_AT), self.rows(), strict=False):
            if empty:
                self.first, empty = row, False
            for name, value in row.items():
                seen[name] = seen.get(name, True) and (value is None or isinstance(value, (int, float)))
        if empty:
            raise ValueError(f"{path} must have one JSON object per task, got an empty file; write one object per line")
        self._columns = seen

    @property
    def names(self) -> list[str]:
        """See :class:`Table`."""
        return list(self._columns)

    @property
    def numeric(self) -> list[str]:
        """See :class:`Table`."""
        return [name for name, is_number in self._columns.items() if is_number]

    def rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Line number and object of every line that is not blank."""
        with open_text(self.path) as text:
            # newline="" keeps carriage returns; lines end at a line feed only
            for line, content in enumerate(text, 1):
                if not content.strip():
                    continue
                try:
                    row = json.loads(content)
                except (json.JSONDecodeError, RecursionError) as error:
                    raise ValueError(
                        f"{self.path}, line {line}: a line must be one JSON object, got {content.strip()[:40]!r} ({error}); "
                        "write one object per line"
                    ) from error
                if not isinstance(row, dict):
                    raise ValueError(
                        f"{self.path}, line {line}: a line must be a JSON object, got {type(row).__name__}; "
                        'write objects such as {"p": 0.01}'
                    )
                yield line, row

    def column(self, name: str) -> Column:
        """See :class:`Table`."""
        values, lines = array("d"), array("q")
        for line, row in self.rows():
            value = row.get(name)
            if value is not None and not isinstance(value, (int, float)):
                raise ValueError(
                    f"{self.path}, line {line}: {name} must be a number, got {str(value)[:40]!r}; write it without quotation marks"
                )
            try:
                values.append(math.nan if value is None else float(value))
            except OverflowError as error:
                raise ValueError(
                    f"{self.path}, line {line}: {name} must be a float64, got {str(value)[:40]}...; correct it"
                ) from error
            lines.append(line)
        return Column(np.array(values), _Places("line", 0, np.array(lines, dtype=np.int64)))


class ParquetTable:
    """A Parquet file; columns of lists or structs are no columns of numbers.

    :param path: a ``.parquet`` file
    :raises ValueError: if pyarrow is missing, or the file is damaged
    """

    def __init__(self, path: Path) -> None:
        pa = need("pyarrow", "Parquet files", "pip install pyarrow")
        pq = need("pyarrow.parquet", "Parquet files", "pip install pyarrow")
        self.path = path
        try:
            self.file = pq.ParquetFile(path)
        except pa.ArrowInvalid as error:
            raise ValueError(
                f"{path} must be a Parquet file, got other or damaged content ({error}); write it again"
            ) from error
        self._types = pa.types

    @property
    def names(self) -> list[str]:
        """See :class:`Table`."""
        return list(self.file.schema_arrow.names)

    @property
    def numeric(self) -> list[str]:
        """See :class:`Table`."""
        types = self._types
        tests = (types.is_integer, types.is_floating, types.is_decimal, types.is_boolean)
        return [field.name for field in self.file.schema_arrow if any(test(field.type) for test in tests)]

    def column(self, name: str) -> Column:
        """See :class:`Table`."""
        parts = []
        for batch in self.file.iter_batches(columns=[name]):
            part = batch.column(0)
            parts.append(
                np.array([np.nan if v is None else float(v) for v in part.to_pylist()], dtype=np.float64)
                if part.null_count or not self._types.is_floating(part.type)
                else part.to_numpy().astype(np.float64)
            )
        values = np.concatenate(parts) if parts else np.zeros(0)
        return Column(values, _Places("row", 1, size=len(values)))


class ArrayTable:
    """Arrays of numbers: one in a ``.npy`` file, named ones in a ``.npz`` file.

    :param path: the file
    :raises ValueError: if the file is damaged or holds Python objects
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                content = np.load(file, allow_pickle=False)
                self.arrays = {"values": content} if isinstance(content, np.ndarray) else dict(content)
        except Exception as error:  # zipfile, pickle and numpy raise many kinds
            raise ValueError(
                f"{path} must be a whole file of numpy numbers, got {error}; write it with np.save or np.savez"
            ) from error
        if "values" in self.arrays and len(self.arrays) == 1 and self.arrays["values"].ndim != 1:
            shape = self.arrays["values"].shape
            raise ValueError(f"{path} must hold an array of shape (m,), got shape {shape}; save one number per task")

    @property
    def names(self) -> list[str]:
        """See :class:`Table`."""
        return list(self.arrays)

    @property
    def numeric(self) -> list[str]:
        """See :class:`Table`."""
        return [name for name, array in self.arrays.items() if array.ndim == 1 and array.dtype.kind in "biuf"]

    def column(self, name: str) -> Column:
        """See :class:`Table`."""
        values = np.ma.filled(np.ma.asarray(self.arrays[name], dtype=np.float64), np.nan)
        return Column(values, _Places("row", 1, size=len(values)))
