"""Figures of a fitted tail: fit and forecast, spacings, choice of k, and risk against deployment size."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from sb3_forecast.statistics.diagnostics import stability_scan
from sb3_forecast.statistics.figures import BLACK, BLUE, GREEN, ORANGE, SKY, probability_axis, save
from sb3_forecast.statistics.scores import log_survival_probability
from sb3_forecast.statistics.tails import GumbelTail
from sb3_forecast.statistics.words import probability_in_words

#: width of a paper column, in inches
_WIDTH = 3.6


def tail_plot(
    tail: GumbelTail, deploy_sizes: Sequence[float], level: float = 0.9, path: str | pathlib.Path | None = None
) -> Figure:
    """Plot the share of tasks beyond each score, the fitted line, and forecasts with intervals for several deployment sizes.

    :param tail: a fitted tail of one sample
    :param deploy_sizes: deployment set sizes n
    :param level: coverage of the intervals
    :param path: file to save the figure to; ``None`` not to save it
    :return: the figure
    """
    figure = Figure(figsize=(_WIDTH, 3.4), layout="constrained")
    ax = figure.subplots()
    scores = np.asarray(tail.scores)
    finite = scores[np.isfinite(scores)]
    share = np.arange(1, len(finite) + 1) / tail.n_eval
    ax.plot(finite[tail.k :], share[tail.k :], "o", ms=2.5, mfc="none", mew=0.6, color=BLACK, label=f"{tail.n_eval} tasks")
    ax.plot(finite[: tail.k], share[: tail.k], "o", ms=3.5, color=BLACK, label=f"{tail.k} worst, fitted")
    last = max(deploy_sizes)
    location, scale = float(tail.location), float(tail.scale)
    ends = np.array([tail.k / tail.n_eval, 1.0 / last])
    ax.plot(location + scale * np.log(ends[0] / ends), ends, color=ORANGE, lw=1.2, label="fitted tail")
    for i, n in enumerate(deploy_sizes):
        low, high = (float(v) for v in tail.interval(int(n), level))
        ax.plot(
            [low, high],
            [1 / n] * 2,
            color=ORANGE,
            lw=4,
            alpha=0.35,
            solid_capstyle="butt",
            label=f"{level:.0%} interval" if i == 0 else None,
        )
        ax.plot(
            float(tail.forecast(n)),
            1 / n,
            "D",
            ms=5,
            color=ORANGE,
            mec=BLACK,
            mew=0.5,
            label="forecast of the worst" if i == 0 else None,
        )
        ax.annotate(
            f"n = {n:.0e}".replace("e+0", "e"),
            (high, 1 / n),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=6,
        )
    ax.set_yscale("log")
    ax.set_xlim(float(finite[min(len(finite) - 1, max(4 * tail.k, len(finite) // 4))]), None)
    ax.margins(x=0.15)
    ax.set_xlabel(r"failure score $\psi = -\log(-\log p)$")
    ax.set_ylabel("share of tasks with a larger score")
    ax.grid(alpha=0.2)
    ax.legend(fontsize=6.5)
    probability_axis(ax)
    return save(figure, path)


def spacing_plot(tail: GumbelTail, path: str | pathlib.Path | None = None) -> Figure:
    """QQ plot of the normalised spacings j (psi_j - psi_(j+1)) against unit exponentials, with a 95% band (docs/method.md eq. 15).

    :param tail: a fitted tail of one sample
    :param path: file to save the figure to; ``None`` not to save it
    :return: the figure
    """
    figure = Figure(figsize=(_WIDTH, 3.2), layout="constrained")
    ax = figure.subplots()
    top = np.asarray(tail.top)
    count = tail.k - 1
    spacings = np.sort(np.arange(1, tail.k) * (top[:-1] - top[1:])) / float(tail.scale)
    plotting = -np.log1p(-(np.arange(1, count + 1) - 0.5) / count)
    from scipy.stats import beta

    rank = np.arange(1, count + 1)
    band = [-np.log1p(-beta.ppf(q, rank, count + 1 - rank)) for q in (0.025, 0.975)]
    ax.fill_between(plotting, *band, color=SKY, alpha=0.3, lw=0, label="95% of each, if the tail is exponential")
    ax.plot(plotting, plotting, color=BLUE, lw=1)
    ax.plot(plotting, spacings, "o", ms=3.5, color=BLACK, label="spacings of these scores")
    ax.set_xlabel("unit exponential quantile")
    ax.set_ylabel("spacing / mean spacing")
    ax.grid(alpha=0.2)
    ax.legend(fontsize=6.5, loc="upper left")
    return save(figure, path)


def stability_plot(scores: Any, n_deploy: float, k: int | None = None, path: str | pathlib.Path | None = None) -> Figure:
    """Plot forecast and scale against the number of top scores k. A good k lies where both hardly change.

    :param scores: all m evaluation scores
    :param n_deploy: deployment set size n
    :param k: the k to mark; ``None`` for the default of :class:`GumbelTail`
    :param path: file to save the figure to; ``None`` not to save it
    :return: the figure
    """
    scan = stability_scan(scores, n_deploy)
    chosen = GumbelTail.fit(np.asarray(scores), k).k
    figure = Figure(figsize=(_WIDTH, 4.0), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    error = scan.scale / np.sqrt(scan.k - 1)
    for ax, values, name in (
        (upper, scan.forecast, f"forecast of the worst of {n_deploy:,.0f}\n(failure score)"),
        (lower, scan.scale, "scale"),
    ):
        ax.plot(scan.k, values, color=BLACK, lw=1.2)
        ax.axvline(chosen, color=ORANGE, lw=1, ls="--", label=f"k = {chosen}")
        ax.set_ylabel(name, fontsize=8)
        ax.grid(alpha=0.2)
    lower.fill_between(scan.k, scan.scale - error, scan.scale + error, color=SKY, alpha=0.3, lw=0, label="one standard error")
    lower.set_xscale("log")
    lower.set_xlabel("number of worst tasks used, k")
    lower.legend(fontsize=6.5)
    return save(figure, path)


def return_level_plot(
    tail: GumbelTail, deploy_sizes: Sequence[float] | None = None, level: float = 0.9, path: str | pathlib.Path | None = None
) -> Figure:
    """Plot the failure probability of the worst task against the deployment size, with its interval.

    :param tail: a fitted tail of one sample
    :param deploy_sizes: deployment set sizes n; ``None`` for 25 sizes from m / 10 to 100,000 m
    :param level: coverage of the interval
    :param path: file to save the figure to; ``None`` not to save it
    :return: the figure
    """
    sizes = (
        np.unique(np.geomspace(tail.n_eval / 10, tail.n_eval * 1e5, 25).round())
        if deploy_sizes is None
        else np.array(deploy_sizes, dtype=float)
    )
    figure = Figure(figsize=(_WIDTH, 3.2), layout="constrained")
    ax = figure.subplots()

    def odds(score: float) -> float:
        """Odds p / (1 - p): on a log axis they show p near 0 and p near 1 equally well."""
        log_survival = float(log_survival_probability(score))
        return float(np.exp(np.clip(-np.exp(-score) - log_survival, -700.0, 700.0)))

    limits = np.array([[odds(float(v)) for v in tail.interval(int(n), level)] for n in sizes])
    ax.fill_between(sizes, limits[:, 0], limits[:, 1], color=ORANGE, alpha=0.25, lw=0, label=f"{level:.0%} interval")
    ax.plot(sizes, [odds(float(tail.forecast(n))) for n in sizes], color=ORANGE, lw=1.6, label="forecast")
    ax.axvline(tail.n_eval, color=GREEN, lw=1, ls=":", label="size of the evaluation")
    ax.axhline(odds(float(tail.scores[0])), color=BLACK, lw=0.8, ls="--", label="worst task seen")
    ax.set_xscale("log")
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    marks = [10.0**-e for e in (30, 20, 15, 12, 10, 8, 6, 5, 4, 3, 2, 1)] + [0.5, 0.9, 0.99, 0.999, 1 - 1e-5]
    shown = [p for p in marks if low < p / (1 - p) < high]
    ax.set_yticks(
        [p / (1 - p) for p in shown],
        [probability_in_words(p) for p in shown],
    )
    ax.minorticks_off()
    ax.set_xlabel("tasks in the deployment")
    ax.set_ylabel("failure probability\nof the worst task")
    ax.grid(alpha=0.2)
    ax.legend(fontsize=6.5)
    return save(figure, path)
