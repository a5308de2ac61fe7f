"""Null distribution of A*^2 for exponentials with estimated mean: prints the table of sb3_forecast/diagnostics.py.

python benchmarks/anderson_darling.py
"""

from __future__ import annotations

import numpy as np

P_VALUES = (0.99, 0.95, 0.9, 0.75, 0.5, 0.35, 0.25, 0.15, 0.1, 0.05, 0.025, 0.01, 0.005, 0.0025, 0.001, 0.0005, 0.0001)


def simulate(count: int, repeats: int, seed: int) -> np.ndarray:
    """A*^2 of ``repeats`` samples of ``count`` exponentials."""
    rng, out = np.random.default_rng(seed), []
    i = np.arange(1, count + 1)
    for _ in range(repeats // 100_000):
        x = np.sort(rng.exponential(size=(100_000, count)), axis=1)
        z = x / x.mean(axis=1, keepdims=True)
        a2 = -count - ((2 * i - 1) * (np.log(-np.expm1(-z)) - z[:, ::-1])).mean(axis=1)
        out.append(a2 * (1 + 0.6 / count))
    return np.concatenate(out)


if __name__ == "__main__":
    for count in (9, 20, 60):
        values = simulate(count, 4_000_000 if count == 20 else 1_000_000, seed=0)
        print(count, [(round(float(np.quantile(values, 1 - p)), 4), p) for p in P_VALUES])
