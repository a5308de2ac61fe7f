"""Peers on the same data: scipy and pyextremes, and the alternative extrapolations."""

import numpy as np
import pandas as pd
import pyextremes
import pytest
from scipy import stats

import sb3_forecast as sf
from sb3_forecast.statistics.alternatives import ParetoTail, lognormal_forecast


def test_pareto_is_scipys_fit_and_bends_where_the_tail_does():
    rng = np.random.default_rng(0)
    heavy = stats.genpareto.rvs(0.5, size=5000, random_state=rng)
    tail = ParetoTail.fit(heavy, k=400)
    assert tail.shape == pytest.approx(0.5, abs=0.15)
    truth = stats.genpareto.isf(1e-6, 0.5)
    assert abs(np.log(tail.forecast(1e6) / truth)) < abs(
        np.log(sf.GumbelTail.fit(heavy, k=400).forecast(1e6, "quantile") / truth)
    )
    exact = rng.exponential(size=5000)
    assert ParetoTail.fit(exact, k=400).shape == pytest.approx(0.0, abs=0.12)
    assert ParetoTail.fit(exact, k=400).forecast(1e5) == pytest.approx(np.log(1e5), rel=0.2)
    with pytest.raises(ValueError, match="the 10 largest are all equal"):
        ParetoTail.fit(np.ones(50), k=10)


def test_scale_is_the_exponential_fit_of_scipy_and_pyextremes():
    scores = np.random.default_rng(1).gumbel(size=3000)
    tail = sf.GumbelTail.fit(scores, k=100)
    _, scale = stats.expon.fit(tail.top[:-1] - tail.location, floc=0.0)
    assert tail.scale == pytest.approx(scale, rel=1e-12)
    times = pd.Series(scores, index=pd.date_range("2000-01-01", periods=len(scores), freq="D"))
    model = pyextremes.EVA(times)
    model.get_extremes("POT", threshold=float(tail.location), r="1h")
    model.fit_model("MLE", distribution="expon", distribution_kwargs={"floc": float(tail.location)})
    peer = model.get_return_value(return_period=1e5, return_period_size="1D", alpha=None)[0]
    # a peaks-over-threshold fit has k - 1 excesses above psi_k out of m: their 1/n quantile
    ours = tail.location + tail.scale * np.log(99 / 3000 * 1e5)
    assert ours == pytest.approx(float(peer), rel=1e-3)


def test_gumbel_forecast_agrees_with_the_parent_distribution():
    """Scores that are Gumbel: the forecast is unbiased for the mean of scipy's distribution of the maximum, a shifted Gumbel."""
    rng = np.random.default_rng(2)
    forecasts = sf.GumbelTail.fit(rng.gumbel(size=(4000, 1000)), k=10).forecast(100_000)
    mean = stats.gumbel_r.mean(loc=np.log(100_000))
    assert abs(forecasts.mean() - mean) < 4 * forecasts.std() / np.sqrt(4000) + 0.02


def test_lognormal_baseline():
    rng = np.random.default_rng(3)
    log_p = rng.normal(-20, 2, size=4000)
    forecast = lognormal_forecast(sf.failure_score(log_p), 1e5)
    assert float(sf.log_failure_probability(forecast)) == pytest.approx(-20 + 2 * stats.norm.isf(1e-5), abs=0.5)
    assert lognormal_forecast(sf.failure_score(rng.normal(-2, 0.4, size=400)), 1e9) == np.inf
    assert np.isfinite(lognormal_forecast(np.append(sf.failure_score(log_p), -np.inf), 1e5))
    with pytest.raises(ValueError, match="scores must hold at least 2 finite values, got 1"):
        lognormal_forecast(np.array([-np.inf, 0.3]), 10)
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match=rf"scores must be numbers below \+inf, got {bad}"):
            lognormal_forecast(np.array([0.1, bad, 0.3]), 10)


@pytest.mark.parametrize(("n", "expected"), [(2000, (16, 1024))])
def test_suggested_partitions(n, expected):
    import torch as th

    loss = sf.ForecastLoss(100, 10, 64)
    ideal = th.from_numpy(np.random.default_rng(0).gumbel(size=n))
    mode = ideal.clone()
    mode[:3] += 12.0
    many, few = (loss.suggest_partitions(x, np.random.default_rng(1)) for x in (ideal, mode))
    assert expected[0] <= few < many <= expected[1]  # docs/method.md section 7: a rare mode makes the gradient clear


def test_the_lognormal_forecast_is_the_quantile_of_the_fitted_normal():
    log_p = np.random.default_rng(4).normal(-20, 2, size=50)
    for n, share in ((1, 0.5), (2, 0.5), (3, 1 / 3), (1e5, 1e-5)):
        expected = stats.norm(log_p.mean(), log_p.std(ddof=1)).isf(share)
        assert float(sf.log_failure_probability(lognormal_forecast(sf.failure_score(log_p), n))) == pytest.approx(expected)


def test_two_finite_scores_are_enough_for_a_lognormal_forecast():
    assert np.isfinite(lognormal_forecast(np.array([-np.inf, -1.0, -0.5]), 10))


def test_the_pareto_forecast_is_the_score_that_one_task_in_n_exceeds():
    tail = ParetoTail(threshold=2.0, shape=0.3, scale=0.5, k=21, n_eval=400)
    for n in (1, 20, 1000):
        share = min(1.0, 400 / 20 / n) if n > 1 else 1.0
        assert tail.forecast(n) == pytest.approx(2.0 + stats.genpareto.isf(share, 0.3, scale=0.5))
    assert tail.forecast(400) == pytest.approx(2.0 + 0.5 / 0.3 * (20**0.3 - 1))
    with pytest.raises(ValueError, match="n_deploy must be at least 1, got 0"):
        tail.forecast(0)


def test_a_pareto_tail_knows_its_sizes():
    scores = np.random.default_rng(5).exponential(size=300)
    tail = ParetoTail.fit(scores, 30)
    assert (tail.k, tail.n_eval, tail.threshold) == (30, 300, np.sort(scores)[-30])
    assert ParetoTail.fit(scores).k == sf.GumbelTail.fit(scores).k
