"""Figures: drawn without pyplot, so that no global state or display is touched. Colours are safe for colour-blind readers."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sb3_forecast.evaluation_splits import split_indices
from sb3_forecast.tails import GumbelTail

if TYPE_CHECKING:
    from sb3_forecast.evaluation import ForecastReport

# Okabe & Ito's palette
BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, RED, PINK = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
CYCLE = (BLACK, ORANGE, SKY, GREEN, PINK, BLUE, RED)


def save(figure: Figure, path: str | pathlib.Path | None) -> Figure:
    """Write a figure if a path is given.

    :param figure: the figure
    :param path: where; the suffix decides the format
    :return: the figure
    """
    if path is not None:
        figure.savefig(path, dpi=160, bbox_inches="tight")
    return figure


def probability_axis(ax: Axes) -> None:
    """Second x axis: the failure probability that a score stands for."""
    low, high = ax.get_xlim()
    marks = [(-np.log(-np.log(p)), label) for p, label in _MARKS]
    shown = [(psi, label) for psi, label in marks if low < psi < high]
    # crowded where probabilities are tiny: keep those that are a readable distance apart
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


def draw_tail(ax: Axes, report: ForecastReport, split: int = 0, level: float = 0.9) -> None:
    """One split of a report: log survival against score, fitted line, forecast with interval, realised maximum.

    :param ax: where to draw
    :param report: an evaluated model
    :param split: which of the report's splits
    :param level: coverage of the interval
    """
    chosen = split_indices(report.n_tasks, report.eval_size, report.deploy_size, split + 1, report.seed)[split]
    evaluation, deployment = report.scores[chosen[: report.eval_size]], report.scores[chosen[report.eval_size :]]
    tail = GumbelTail.fit(evaluation, report.k, report.method)  # type: ignore[arg-type]  # a Method, kept as text
    n, m, k = report.deploy_size, report.eval_size, report.k
    finite = tail.scores[np.isfinite(tail.scores)]
    rank = np.arange(1, len(finite) + 1)
    deployed = np.sort(deployment[np.isfinite(deployment)])[::-1][: n // 4]
    ax.plot(deployed, np.arange(1, len(deployed) + 1) / n, ".", ms=3, color=SKY, label=f"deployment ({n} tasks)", zorder=1)
    ax.plot(finite[k:], rank[k:] / m, "o", ms=3, mfc="none", mew=0.7, color=BLACK, label=f"evaluation ({m} tasks)")
    ax.plot(finite[:k], rank[:k] / m, "o", ms=4.5, color=BLACK, label=f"its {k} worst, used by the fit")
    forecast, realised = float(tail.forecast(n)), float(deployment.max())
    ax.plot([finite[k - 1], forecast], [k / m, 1 / n], "-", lw=1.4, color=ORANGE, label="fitted tail")
    low, high = (float(v) for v in tail.interval(n, level))
    ax.plot(
        [low, high],
        [1 / n, 1 / n],
        "-",
        lw=5,
        alpha=0.35,
        color=ORANGE,
        solid_capstyle="butt",
        label=f"{level:.0%} interval",
    )
    ax.plot(forecast, 1 / n, "D", ms=7, color=ORANGE, mec=BLACK, mew=0.6, label="forecast of the worst", zorder=5)
    ax.plot(realised, 1 / n, "*", ms=13, color=RED, mec=BLACK, mew=0.6, label="realised worst", zorder=5)
    ax.set_yscale("log")
    ax.set_ylim(0.5 / n, 1.3)
    ax.set_xlabel(r"failure score $\psi = -\log(-\log p)$")
    ax.grid(alpha=0.2)


def typical_split(report: ForecastReport) -> int:
    """The split whose forecast error is the median one, so that a picture shows neither luck nor misfortune."""
    splits = split_indices(report.n_tasks, report.eval_size, report.deploy_size, report.n_splits, report.seed)
    tail = GumbelTail.fit(report.scores[splits[:, : report.eval_size]], report.k, report.method)  # type: ignore[arg-type]  # a Method, kept as text
    errors = tail.forecast(report.deploy_size) - report.scores[splits[:, report.eval_size :]].max(axis=1)
    return int(np.argsort(np.abs(errors))[len(errors) // 2])


def tail_comparison(reports: Mapping[str, ForecastReport], path: str | pathlib.Path | None = None) -> Figure:
    """Tail plots side by side, each at its split of median error and on its own score axis.

    :param reports: reports by title
    :param path: also save it there
    :return: the figure
    """
    figure = Figure(figsize=(0.6 + 4.6 * len(reports), 4.4), layout="constrained")
    axes = figure.subplots(1, len(reports), sharey=True, squeeze=False)[0]
    for ax, (title, report) in zip(axes, reports.items(), strict=True):
        draw_tail(ax, report, typical_split(report))
        ax.set_title(
            f"{title}\nmean |error| {report.error.mean_abs:.2f}, worst task fails with p = {report.worst_failure:.1e}".strip(),
            fontsize=10,
        )
        # the bulk of the tasks says nothing of the tail
        low, high = float(np.quantile(report.scores[np.isfinite(report.scores)], 0.4)), ax.get_xlim()[1]
        ax.set_xlim(low, high + 0.03 * (high - low))
        probability_axis(ax)
    axes[0].set_ylabel("share of tasks with a larger score")
    axes[-1].legend(fontsize=7.5, loc="best", framealpha=0.9)
    return save(figure, path)


def training_curves(
    curves: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], path: str | pathlib.Path | None = None
) -> Figure:
    """What training logged, one panel per quantity, one line per method.

    :param curves: quantity -> method -> (environment steps, value) pairs
    :param path: also save it there
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
