"""Figures of evaluated models: tails with forecast, limit and realised worst score; and training curves."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from sb3_forecast.statistics.figures import BLACK, BLUE, CYCLE, ORANGE, RED, SKY, probability_axis, save
from sb3_forecast.statistics.words import probability_in_words


class EvaluatedTail(Protocol):
    """The parts of a report that a figure needs."""

    @property
    def eval_size(self) -> int:
        """Evaluation set size m."""

    @property
    def deploy_size(self) -> int:
        """Deployment set size n."""

    @property
    def k(self) -> int:
        """Number of top evaluation scores that the forecast uses."""

    @property
    def limit_holds(self) -> float:
        """Share of the splits in which the one-sided 95% limit holds."""

    @property
    def worst_failure(self) -> float:
        """Largest failure probability of a task."""

    @property
    def scores(self) -> NDArray[np.float64]:
        """Score of every task, in psi, shape (N,)."""

    @property
    def splits(self) -> Any:
        """The splits; see :class:`sb3_forecast.measuring.report.Splits`."""


def draw_tail(ax: Axes, report: EvaluatedTail, split: int = 0) -> None:
    """Draw one split of a report: survival on a log axis against score, fitted line, forecast with interval, realised worst score.

    :param ax: axes to draw on
    :param report: report of a model
    :param split: index of the split
    """
    n, m, k = report.deploy_size, report.eval_size, report.k
    splits = report.splits
    scores = report.scores[splits.tasks[split]]
    evaluation, deployment = np.sort(scores[:m])[::-1], np.sort(scores[m:])[::-1]
    finite = evaluation[np.isfinite(evaluation)]
    rank = np.arange(1, len(finite) + 1)
    deployed = deployment[np.isfinite(deployment)][: n // 4]
    ax.plot(deployed, np.arange(1, len(deployed) + 1) / n, ".", ms=3, color=SKY, label=f"deployment ({n} tasks)", zorder=1)
    ax.plot(finite[k:], rank[k:] / m, "o", ms=3, mfc="none", mew=0.7, color=BLACK, label=f"evaluation ({m} tasks)")
    ax.plot(finite[:k], rank[:k] / m, "o", ms=4.5, color=BLACK, label=f"its {k} worst, used by the fit")
    location, scale = splits.location[split], splits.scale[split]
    ends = np.array([k / m, 1.0 / n])
    # the fitted tail is P(psi > location + y) = (k / m) exp(-y / scale)
    ax.plot(location + scale * np.log(ends[0] / ends), ends, "-", lw=1.4, color=ORANGE, label="fitted tail")
    ax.plot(
        [splits.low[split], splits.high[split]],
        [1 / n, 1 / n],
        "-",
        lw=5,
        alpha=0.35,
        color=ORANGE,
        solid_capstyle="butt",
        label="90% interval",
    )
    ax.plot(splits.limit[split], 1 / n, "|", ms=14, mew=2, color=BLUE, label="95% limit", zorder=4)
    ax.plot(
        splits.forecast[split], 1 / n, "D", ms=7, color=ORANGE, mec=BLACK, mew=0.6, label="forecast of the worst", zorder=5
    )
    ax.plot(splits.realised[split], 1 / n, "*", ms=13, color=RED, mec=BLACK, mew=0.6, label="realised worst", zorder=5)
    ax.set_yscale("log")
    ax.set_ylim(0.5 / n, 1.3)
    ax.set_xlabel(r"failure score $\psi = -\log(-\log p)$")
    ax.grid(alpha=0.2)


def tail_comparison(reports: Mapping[str, EvaluatedTail], path: str | pathlib.Path | None = None) -> Figure:
    """Draw tail plots side by side, on the same axes. Each shows the split with the median error.

    :param reports: reports by title
    :param path: also save the figure in this file
    :return: the figure
    """
    figure = Figure(figsize=(0.6 + 4.6 * len(reports), 4.4), layout="constrained")
    axes = figure.subplots(1, len(reports), sharex=True, sharey=True, squeeze=False)[0]
    for ax, (title, report) in zip(axes, reports.items(), strict=True):
        draw_tail(ax, report, report.splits.typical)
        ax.set_title(
            f"{title}\n95% limit holds in {report.limit_holds:.0%}\nworst task: p = {probability_in_words(report.worst_failure)}".strip(),
            fontsize=10,
        )
    # show the tails, not the easy tasks
    low = min(float(np.quantile(report.scores[np.isfinite(report.scores)], 0.4)) for report in reports.values())
    high = axes[0].get_xlim()[1]
    axes[0].set_xlim(low, high + 0.03 * (high - low))
    for ax in axes:
        probability_axis(ax)
    axes[0].set_ylabel("share of tasks with a larger score")
    axes[-1].legend(fontsize=7.5, loc="best", framealpha=0.9)
    return save(figure, path)


def training_curves(
    curves: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], path: str | pathlib.Path | None = None
) -> Figure:
    """Draw what training logged: one panel per quantity, one line per method.

    :param curves: quantity -> method -> pairs (environment steps, value)
    :param path: also save the figure in this file
    :return: the figure
    """
    figure = Figure(figsize=(4.2 * len(curves), 3.6), layout="constrained")
    axes = figure.subplots(1, len(curves), squeeze=False)[0]
    styles: dict[str, Any] = {}
    for ax, (quantity, methods) in zip(axes, curves.items(), strict=True):
        for method, points in methods.items():
            color = styles.setdefault(method, CYCLE[len(styles) % len(CYCLE)])
            steps, values = zip(*points, strict=True)
            ax.plot(np.array(steps) / 1e3, values, lw=1.4, color=color, label=method)
        values_shown = [v for points in methods.values() for _, v in points]
        if min(values_shown) > 0 and max(values_shown) > 10 * min(values_shown):
            ax.set_yscale("log")
        ax.set_title(quantity, fontsize=10)
        ax.set_xlabel("environment steps (thousands)")
        ax.grid(alpha=0.2)
    handles, labels = max((ax.get_legend_handles_labels() for ax in axes), key=lambda pair: len(pair[1]))
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)), fontsize=8)
    return save(figure, path)
