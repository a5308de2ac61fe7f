"""Coverage of the 90% prediction interval for tails that are exponential and for tails that are not: the table of docs/statistics.md.

    python benchmarks/coverage.py

m = 500, k = 10, n = 50,000; 100,000 repeats each. The maximum of n is drawn through the quantile function, the sample in full.
"""

from __future__ import annotations

import sys
from pathlib import Path

# the folder above holds the package `benchmarks`
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from collections.abc import Callable

import numpy as np
from scipy import stats

import sb3_forecast as sf

M, K, N, REPEATS, LEVEL = 500, 10, 50_000, 100_000, 0.9

TAILS: dict[str, stats.rv_continuous] = {
    "exponential": stats.expon(),
    "Gumbel": stats.gumbel_r(),
    "logistic": stats.logistic(),
    "normal": stats.norm(),
    "Weibull, shape 0.7": stats.weibull_min(0.7),
    "Student t, 5 degrees": stats.t(5),
}


def cover(quantile: Callable[[np.ndarray], np.ndarray], seed: int) -> tuple[float, float, float]:
    """Share inside, below the lower limit and above the upper limit."""
    rng = np.random.default_rng(seed)
    inside = below = above = 0
    for _ in range(REPEATS // 1000):
        # survival probabilities are uniform; the smallest of n is drawn directly
        sample = quantile(rng.random((1000, M)))
        realised = quantile(-np.expm1(np.log(rng.random(1000)) / N))
        low, high = sf.GumbelTail.fit(sample, K).interval(N, LEVEL)
        below += int((realised < low).sum())
        above += int((realised > high).sum())
        inside += int(((low <= realised) & (realised <= high)).sum())
    return inside / REPEATS, below / REPEATS, above / REPEATS


if __name__ == "__main__":
    print("| tail | covered | worst below the interval | worst above it |\n|---|---|---|---|")
    for seed, (name, tail) in enumerate(TAILS.items()):
        inside, below, above = cover(tail.isf, seed)
        print(f"| {name} | {inside:.3f} | {below:.1%} | {above:.1%} |")
