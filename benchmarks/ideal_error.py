"""Errors of Jones' forecast on a perfectly exponential tail, at the sizes of the gridworld study: what its errors in scale compare with.

python benchmarks/ideal_error.py
"""

import sys
from pathlib import Path

# the folder above holds the package `benchmarks`
sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np

import sb3_forecast as sf

M, N, K, REPEATS = 200, 3800, 10, 20_000

if __name__ == "__main__":
    rng = np.random.default_rng(0)
    tail = sf.GumbelTail.fit(rng.exponential(size=(REPEATS, M)), K, "jones")
    error = tail.forecast(N) + np.log(-np.expm1(np.log(rng.random(REPEATS)) / N))
    print(f"mean |error| / scale {np.abs(error / tail.scale).mean():.2f}, under-predicted {(error < 0).mean():.0%}")
