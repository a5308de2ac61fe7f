"""The tail of scores with weights."""

import numpy as np
import pytest

import sb3_forecast as sf
from sb3_forecast.statistics.intervals import pivot_quantile
from sb3_forecast.statistics.weighted_tail import weighted_limit


def test_equal_weights_give_the_limit_of_the_plain_tail():
    scores = np.random.default_rng(0).gumbel(size=300)
    tail = sf.GumbelTail.fit(scores, 10)
    expected = float(tail.location + pivot_quantile(0.95, 10, 300, 5000) * tail.scale)
    assert weighted_limit(scores, np.full(300, 7.0), 5000) == pytest.approx(expected)


def test_tasks_without_weight_do_not_count():
    rng = np.random.default_rng(1)
    scores = rng.gumbel(size=300)
    with_found = np.concatenate([scores, [50.0, 60.0]])
    weights = np.concatenate([np.ones(300), [0.0, 0.0]])
    assert weighted_limit(with_found, weights, 1000) == weighted_limit(scores, np.ones(300), 1000)


def test_the_limit_holds_for_samples_in_proportion_to_something():
    """High scores drawn four times as often, with weights to match: the limit of the worst of 2,000 others holds in more than 86% of 100."""
    rng = np.random.default_rng(2)
    held = 0
    for _ in range(100):
        population = rng.gumbel(size=4000)
        inclusion = np.where(population > 1.0, 0.2, 0.05)
        chosen = rng.random(4000) < inclusion
        limit = weighted_limit(population[chosen], 1.0 / inclusion[chosen], 2000)
        held += rng.gumbel(size=2000).max() <= limit
    assert held / 100 > 0.86


def test_the_limit_grows_with_the_deployment_and_the_level():
    scores, weights = np.random.default_rng(3).gumbel(size=200), np.ones(200)
    assert weighted_limit(scores, weights, 10) < weighted_limit(scores, weights, 1e6)
    assert weighted_limit(scores, weights, 100, 0.5) < weighted_limit(scores, weights, 100, 0.99)


def test_too_few_finite_scores():
    with pytest.raises(sf.NoForecastError, match=r"scores must have finite values for a tail of .* got 2 finite ones"):
        weighted_limit(np.array([1.0, 2.0, *[-np.inf] * 30]), np.ones(32), 100)


def test_equal_scores_have_no_tail():
    with pytest.raises(sf.NoForecastError, match="scores must differ for a tail, got 10 equal ones at the top"):
        weighted_limit(np.full(100, -3.0), np.ones(100), 1e6)
