"""Tables in README and docs, made of committed records.

A table stands between two markers::

    <!-- table gridworld: from studies/records, by `make tables` -->
    ...
    <!-- end of table -->

``make tables`` writes what is between them anew; a test fails where it differs from the records.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from studies.records import PUBLISHED, ROOT, Record, read_records
from studies.statistics import Column, median_and_range, paired_differences

_MARKED = re.compile(r"(<!-- table (?P<name>[\w-]+):[^\n]*-->\n)(?P<body>.*?)(<!-- end of table -->)", re.DOTALL)


@dataclass(frozen=True)
class Row:
    """A row of a table.

    :param label: its heading
    :param method: whose records
    :param study: folder of the records; "" for the table's own
    """

    label: str
    method: str
    study: str = ""


@dataclass(frozen=True)
class Table:
    """A description of a table.

    :param study: folder of the records below ``studies/records``
    :param rows: a row per method
    :param columns: what is shown
    :param paired: columns that are also shown as differences by seed, and the method that they are taken from
    :param cell: how the numbers of several seeds become a cell
    :param seeds: only these; all if empty
    """

    study: str
    rows: Sequence[Row]
    columns: Sequence[Column]
    paired: Mapping[str, Column] = field(default_factory=dict)
    cell: Callable[[NDArray[np.float64], str], str] = median_and_range
    seeds: Sequence[int] = ()

    def _label(self, method: str) -> str:
        return next((row.label for row in self.rows if row.method == method), method)

    def markdown(self, published: Path = PUBLISHED) -> str:
        """The table.

        :param published: folder of the records
        """
        found: dict[str, list[Record]] = {}

        def records(study: str, method: str) -> list[Record]:
            folder = study or self.study
            if folder not in found:
                found[folder] = read_records(published / folder)
            return [r for r in found[folder] if r.method == method and (not self.seeds or r.seed in self.seeds)]

        headings = [column.title for column in self.columns] + [
            f"{column.title}, minus {self._label(method)}" for method, column in self.paired.items()
        ]
        lines = ["| | " + " | ".join(headings) + " |", "|---" * (len(headings) + 1) + "|"]
        for row in self.rows:
            ours = records(row.study, row.method)
            if not ours:
                continue
            cells = [self.cell(column.values(ours), column.form) for column in self.columns]
            for method, column in self.paired.items():
                form = "{:+" + column.form[2:]
                differences = paired_differences(ours, records(row.study, method), column)
                cells.append("-" if row.method == method else median_and_range(differences, form))
            lines.append(f"| {row.label} | " + " | ".join(cells) + " |")
        return "\n".join(lines) + "\n"


def markdown_of(records: Sequence[Record], labels: Mapping[str, str], columns: Sequence[Column]) -> str:
    """A table of records at hand, a row per method.

    :param records: of a study
    :param labels: method -> label, in the order of the rows
    :param columns: what is shown
    """
    lines = ["| | " + " | ".join(column.title for column in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for method, label in labels.items():
        rows = [record for record in records if record.method == method]
        if rows:
            lines.append(f"| {label} | " + " | ".join(median_and_range(c.values(rows), c.form) for c in columns) + " |")
    return "\n".join(lines) + "\n"


def pages(root: Path = ROOT) -> list[Path]:
    """The pages that may hold tables.

    :param root: the repository
    """
    return [root / "README.md", *sorted((root / "docs").glob("*.md"))]


def with_tables(text: str, tables: Mapping[str, Table], published: Path = PUBLISHED) -> str:
    """A page with its tables made anew.

    :param text: the page
    :param tables: every table by name
    :param published: folder of the records
    :raises ValueError: if the page names a table that is not described
    """

    def made(match: re.Match[str]) -> str:
        if match["name"] not in tables:
            raise ValueError(
                f"table must be one of {sorted(tables)}, got {match['name']!r}; describe it in studies/tables_in_docs.py"
            )
        return match[1] + tables[match["name"]].markdown(published) + match[4]

    return _MARKED.sub(made, text)
