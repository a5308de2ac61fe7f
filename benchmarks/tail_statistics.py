"""Speed of the tail statistics against named competitors, in one run, with peak memory.

    python benchmarks/tail_statistics.py

1. 1,000 bootstrap refits of the Jones fit at m = 10,000, against a loop over scipy.stats.linregress on the same resamples.
2. The exact partition loss at N = 1,001,000, forward and backward, against 1,024 sampled partitions. Both get the sorted scores; the
   exact one its prefix, which is all that it reads.
"""

from __future__ import annotations

import sys
from pathlib import Path

# the folder above holds the package `benchmarks`
sys.path[0] = str(Path(__file__).resolve().parent.parent)

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch as th
from rich.console import Console
from rich.table import Table
from scipy import stats

import sb3_forecast as sf
from benchmarks.memory import PeakMemory
from sb3_forecast.statistics.estimators import bootstrap_tops, jones_forecast, log_positions
from sb3_forecast.training.losses import Partitions


def timed(function: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Median seconds of a call, and peak memory above the start in MB; the first call is not counted."""
    function()
    with PeakMemory() as memory:
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            function()
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), memory.megabytes


def bootstrap(table: Table) -> None:
    """Bootstrap refits of the Jones fit, resampling included on both sides."""
    m, n, k, refits = 10_000, 1e6, 200, 1000
    scores = np.random.default_rng(0).gumbel(size=m)
    positions = -log_positions(k, m)
    tail = sf.GumbelTail.fit(scores, k=k, method="jones")

    def loop() -> np.ndarray:
        rng, out = np.random.default_rng(1), []
        for _ in range(refits):
            top = np.sort(np.partition(scores[rng.integers(0, m, m)], m - k)[m - k :])[::-1]
            fit = stats.linregress(top, positions)
            out.append((-np.log(n) - fit.intercept) / fit.slope)
        return np.array(out)

    def regressions() -> list[float]:
        out = []
        for top in tops:
            fit = stats.linregress(top, positions)
            out.append((-np.log(n) - fit.intercept) / fit.slope)
        return out

    tops = bootstrap_tops(tail.scores, k, refits, np.random.default_rng(2))
    assert stats.ks_2samp(loop(), tail.bootstrap(n)).pvalue > 1e-3
    assert np.allclose(regressions(), jones_forecast(tops, m, n))
    for name, slow, fast in (
        ("1,000 bootstrap refits, m = 10,000", loop, lambda: tail.bootstrap(n)),
        ("... the regressions alone", regressions, lambda: jones_forecast(tops, m, n)),
    ):
        (theirs, their_memory), (ours, our_memory) = timed(slow, 5), timed(fast, 20)
        table.add_row(
            name,
            "scipy.stats.linregress",
            f"{theirs:.4f}",
            f"{ours:.6f}",
            f"{theirs / ours:.0f}x",
            f"{their_memory:.0f}",
            f"{our_memory:.0f}",
            "-",
        )


def partitions(table: Table) -> None:
    """The exact partition loss."""
    n_pool, m, k = 1_001_000, 1000, 10
    x = -np.sort(-np.random.default_rng(0).gumbel(size=n_pool))
    whole = th.from_numpy(x)
    for method in ("direct", "blue"):
        start = time.perf_counter()
        exact = sf.ExpectedSquaredError(n_pool, m, k, method=method, single=64)
        build = time.perf_counter() - start
        sampled = sf.ForecastLoss(m, k, 1024, kind="squared", method=method)
        generator = np.random.default_rng(1)
        prefix = whole[: exact.prefix].clone()

        def exact_step(prefix: th.Tensor = prefix, exact: sf.ExpectedSquaredError = exact) -> None:
            prefix.requires_grad_(True).grad = None
            exact(prefix).backward()

        def sampled_step(sampled: sf.ForecastLoss = sampled, generator: np.random.Generator = generator) -> None:
            # ranks index the sorted scores directly, so that no time goes into sorting a million scores
            ranks = sf.sample_partitions(n_pool, m, k, 1024, generator)
            tasks = th.from_numpy(ranks.touched())
            drawn = Partitions(th.from_numpy(ranks.evaluation), th.from_numpy(ranks.deployment), tasks)
            sampled.evaluate(whole[tasks].requires_grad_(True), drawn, n_pool).loss.backward()

        theirs, their_memory = timed(sampled_step, 100)
        head = x[: exact.prefix].copy()
        for name, step in (
            ("value and gradient", lambda exact=exact, head=head: exact.value_and_gradient(head)),
            ("through torch's autograd", exact_step),
        ):
            ours, our_memory = timed(step, 1000)
            table.add_row(
                f"partition loss, {method}, N = {n_pool:,}: {name} (built in {build * 1e3:.0f} ms)", "1,024 sampled partitions",
                f"{theirs:.4f}", f"{ours:.6f}", f"{theirs / ours:.0f}x", f"{their_memory:.0f}", f"{our_memory:.0f}",
                f"{exact.relative_error(x):.1e}",
            )  # fmt: skip


if __name__ == "__main__":
    result = Table(title="Seconds per call (median)")
    for column in ("what", "competitor", "theirs", "ours", "ratio", "their MB", "our MB", "relative error"):
        result.add_column(column, justify="left" if column in ("what", "competitor") else "right")
    bootstrap(result)
    partitions(result)
    Console(width=150).print(result)
