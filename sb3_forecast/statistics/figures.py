"""Colours, axes and saving for all figures of the project. They do not use pyplot, so no global state or display is touched."""

from __future__ import annotations

import pathlib

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sb3_forecast.files import write_whole

# the palette of Okabe & Ito, which colour-blind people can tell apart
BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, RED, PINK = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
CYCLE = (BLACK, ORANGE, SKY, GREEN, PINK, BLUE, RED)


def save(figure: Figure, path: str | pathlib.Path | None) -> Figure:
    """Write a figure to a file if a path is given. A failed write leaves no partial file.

    :param figure: the figure
    :param path: the file, whose suffix decides the format (PNG without a suffix); ``None`` to write nothing
    :return: the figure
    """
    if path is not None:
        kind = pathlib.Path(path).suffix.lstrip(".") or "png"
        write_whole(path, lambda file: figure.savefig(file, format=kind, dpi=160, bbox_inches="tight"))
    return figure


def probability_axis(ax: Axes) -> None:
    """Add a second x axis, on top: the failure probability p of each score.

    :param ax: axes whose x axis shows failure scores
    """
    low, high = ax.get_xlim()
    marks = [(-np.log(-np.log(p)), label) for p, label in _MARKS]
    shown = [(psi, label) for psi, label in marks if low < psi < high]
    # labels crowd where probabilities are tiny: keep only those that are far enough apart to be read
    kept: list[tuple[float, str]] = []
    for psi, label in shown:
        if not kept or psi - kept[-1][0] > 0.075 * (high - low):
            kept.append((float(psi), label))
    top = ax.secondary_xaxis("top")
    top.set_xticks([psi for psi, _ in kept], [label for _, label in kept], fontsize=8)
    top.set_xlabel("failure probability p of a task")


_MARKS = [(10.0**-e, f"$10^{{-{e}}}$") for e in (100, 50, 30, 20, 15, 12, 10, 8, 6, 5, 4, 3, 2)] + [
    (0.1, "0.1"), (0.5, "0.5"), (0.9, "0.9"), (0.99, "0.99"), (0.999, "0.999"),
]  # fmt: skip
