"""Pictures inside the file: figures as SVG, films and images as they are."""

from __future__ import annotations

import base64
import io
import pathlib

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from sb3_forecast.measuring.html.parts import Evaluated
from sb3_forecast.statistics.figures import BLUE, ORANGE, RED, probability_axis

#: points of a line above which it is drawn with pixels
_MANY = 400
_KINDS = {".gif": "image/gif", ".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".svg": "image/svg+xml"}


def embedded_figure(figure: Figure) -> str:
    """A figure as a data address. The same figure gives the same text.

    :param figure: the figure
    """
    for ax in figure.axes:
        for line in ax.lines:
            # thousands of points are smaller as pixels
            line.set_rasterized(len(np.atleast_1d(line.get_xdata())) > _MANY)
    file = io.BytesIO()
    with rc_context({"svg.hashsalt": "sb3_forecast"}):
        figure.savefig(file, format="svg", dpi=160, bbox_inches="tight", metadata={"Date": None})
    return _address("image/svg+xml", file.getvalue())


def embedded_file(path: str | pathlib.Path) -> str:
    """A picture or animated picture as a data address.

    :param path: the file
    :raises ValueError: if it is no picture that browsers show
    """
    kind = _KINDS.get(pathlib.Path(path).suffix.lower())
    if kind is None:
        raise ValueError(f"picture must be one of {', '.join(_KINDS)}, got {str(path)!r}; use another file")
    return _address(kind, pathlib.Path(path).read_bytes())


def _address(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def calibration_figure(report: Evaluated) -> Figure:
    """The realised worst score of each split against its 95% limit. Points above the line are splits in which the limit failed.

    :param report: the report
    :return: the figure
    """
    splits = report.splits
    failed = splits.realised > splits.limit
    figure = Figure(figsize=(5.2, 4.2), layout="constrained")
    ax = figure.subplots()
    ax.plot(splits.limit[~failed], splits.realised[~failed], ".", ms=4, color=BLUE, label="the limit held")
    ax.plot(splits.limit[failed], splits.realised[failed], "x", ms=5, color=RED, label="the limit failed")
    known = np.concatenate([splits.limit, splits.realised])
    ends = [float(known.min()), float(known.max())]
    ax.plot(ends, ends, color=ORANGE, lw=1.2, label="limit = what happened")
    ax.set_xlabel("95% limit (failure score)")
    ax.set_ylabel("worst task that was met (failure score)")
    ax.grid(alpha=0.2)
    ax.legend(fontsize=8)
    probability_axis(ax)
    return figure
