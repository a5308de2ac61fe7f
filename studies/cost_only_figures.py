"""One dot per seed and method: the figure of the studies whose failures are counted."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from sb3_forecast.statistics.figures import BLUE, ORANGE, save
from studies.records import Record
from studies.statistics import Column


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
