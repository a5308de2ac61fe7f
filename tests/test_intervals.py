import numpy as np
import pytest

import sb3_forecast as sf
from sb3_forecast.intervals import pivot_cdf, pivot_quantile


def test_vectors(vectors):
    case = vectors["pivot_quantiles_max"]
    for row in case["outputs"]["rows"]:
        assert pivot_quantile(row["p"], row["k"], row["m"], row["n"]) == pytest.approx(row["c"], rel=case["rtol"])


def test_value_quoted_in_the_method():
    assert pivot_cdf(10.0, 10, 200, 20_000) == pytest.approx(0.75685, abs=1e-5)  # METHOD after eq. 30


def test_coverage_of_an_exact_tail():
    rng = np.random.default_rng(0)
    repeats = 4000
    psi = rng.exponential(size=(repeats, 200))
    realised = -np.log1p(-(rng.random(repeats) ** (1 / 20_000)))
    low, high = sf.GumbelTail.fit(psi, k=10).interval(20_000, level=0.9)
    covered = ((low <= realised) & (realised <= high)).mean()
    assert abs(covered - 0.9) < 2 * np.sqrt(0.09 / repeats)


def test_limit_below_psi_k_is_psi_k():
    assert pivot_quantile(0.05, 10, 1000, 10) == 0.0
    with pytest.raises(ValueError, match="c=-1"):
        pivot_cdf(-1.0, 10, 200, 2000)
