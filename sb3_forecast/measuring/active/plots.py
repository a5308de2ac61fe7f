"""Picture of what samples saw of a deployment."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from sb3_forecast.measuring.active.report import ActiveReport
from sb3_forecast.statistics.figures import BLACK, RED, SKY, probability_axis, save


def samples_plot(
    reports: Mapping[str, ActiveReport], truth: NDArray[np.float64], path: str | pathlib.Path | None = None
) -> Figure:
    """The scores of a whole deployment, and which of them each sample saw, one panel per sample.

    :param reports: by title, for example a random and a chosen sample of the same size
    :param truth: score of every task, shape (N,), float64
    :param path: also save the figure in this file
    :return: the figure
    """
    figure = Figure(figsize=(5.2 * len(reports), 4.0), layout="constrained")
    axes = figure.subplots(1, len(reports), sharex=True, sharey=True, squeeze=False)[0]
    order = np.argsort(-truth, kind="stable")
    share = np.empty(len(truth))
    share[order] = np.arange(1, len(truth) + 1) / len(truth)
    shown = np.isfinite(truth) & (truth > np.quantile(truth, 0.02))
    for ax, (title, report) in zip(axes, reports.items(), strict=True):
        seen = report.tasks[shown[report.tasks]]
        rare = seen[report.rare[shown[report.tasks]]]
        ax.plot(np.sort(truth[shown])[::-1], np.sort(share[shown]), "-", color=SKY, lw=2.5, label=f"all {len(truth):,} tasks")
        ax.plot(
            truth[seen],
            share[seen],
            "o",
            ms=4,
            mfc="none",
            mew=0.8,
            color=BLACK,
            label=f"the {len(report.tasks):,} scored ones",
        )
        ax.plot(truth[rare], share[rare], "x", ms=4, mew=1.0, color=RED, label=f"{len(rare)} of the rare mode among them")
        ax.set_yscale("log")
        ax.set_title(title)
        ax.set_xlabel("failure score psi")
        ax.legend(fontsize=8, loc="lower left")
        probability_axis(ax)
    axes[0].set_ylabel("share of tasks that are worse")
    return save(figure, path)
