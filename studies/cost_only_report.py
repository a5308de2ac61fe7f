"""What the studies report whose failures are counted: a table, and a figure with one dot per seed and method."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from sb3_forecast.files import write_text
from sb3_forecast.statistics.figures import BLUE, ORANGE, save
from studies.records import Record
from studies.statistics import Column
from studies.tables import markdown_of


def dots(records: Sequence[Record], labels: Mapping[str, str], ours: Collection[str], column: Column, path: Path) -> Figure:
    """Draw a number of every run on a logarithmic axis; a bar is the median over seeds.

    A run in which nothing was counted is an open dot at the left edge, since a logarithm has no zero.

    :param records: of the runs
    :param labels: name of each method, in the order of the rows from top to bottom
    :param ours: methods of this project, in another colour
    :param column: what is drawn
    :param path: the file
    """
    rows = {method: column.values([r for r in records if r.method == method]) for method in labels}
    known = np.concatenate([values[values > 0.0] for values in rows.values()])
    edge = float(known.min()) / 3.0 if len(known) else 1e-6
    figure = Figure(figsize=(7.5, 0.7 + 0.45 * len(rows)), layout="constrained")
    ax = figure.subplots()
    for height, (method, values) in enumerate(rows.items()):
        colour = ORANGE if method in ours else BLUE
        none = values <= 0.0
        ax.scatter(values[~none], np.full((~none).sum(), height), color=colour, s=28, zorder=3)
        ax.scatter(
            np.full(none.sum(), edge), np.full(none.sum(), height), facecolors="none", edgecolors=colour, s=28, zorder=3
        )
        middle = max(float(np.median(values)), edge)
        ax.plot([middle, middle], [height - 0.3, height + 0.3], color=colour, linewidth=2)
    ax.set_xscale("log")
    ax.set_yticks(range(len(rows)), list(labels.values()))
    ax.invert_yaxis()
    ax.grid(axis="x", alpha=0.3)
    unseen = any(bool((values <= 0.0).any()) for values in rows.values())
    ax.set_xlabel(f"{column.title}: dots are seeds, bars medians" + ("; open dots: none was seen" if unseen else ""))
    save(figure, path)
    return figure


def report_counts(
    records: Sequence[Record],
    labels: Mapping[str, str],
    ours: Collection[str],
    columns: Mapping[str, Column],
    drawn: str,
    output: Path,
    title: str,
    console: Console,
) -> None:
    """Print the table of medians; write table.md with the ranges, and the figure.

    :param records: of the runs
    :param labels: name of each method, in the order of the rows
    :param ours: methods of this project
    :param columns: what is shown, by short name
    :param drawn: the column of the figure, which becomes its name
    :param output: folder
    :param title: of the printed table
    :param console: where to print
    """
    table = Table(title=title)
    table.add_column("")
    for column in columns.values():
        table.add_column(column.title, justify="right")
    for method, label in labels.items():
        rows = [r for r in records if r.method == method]
        middles = [float(np.median(column.values(rows))) for column in columns.values()]
        table.add_row(label, *(c.form.format(middle) for c, middle in zip(columns.values(), middles, strict=True)))
    # many columns need this much; a narrower terminal wraps
    (console if console.width >= 140 else Console(width=140)).print(table)
    write_text(output / "table.md", markdown_of(records, labels, list(columns.values())))
    dots(records, labels, ours, columns[drawn], output / f"{drawn}.png")
