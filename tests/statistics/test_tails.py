"""The methods of a fitted tail hand on their arguments, and their limits hold for the sizes that they are given."""

import numpy as np
import pytest
import torch as th

import sb3_forecast as sf
from sb3_forecast.statistics.estimators import bootstrap_tops
from sb3_forecast.statistics.risk import frequency_upper_limit
from sb3_forecast.statistics.tails import default_k


@pytest.fixture(scope="module")
def tail():
    return sf.GumbelTail.fit(np.random.default_rng(0).gumbel(size=300) - 3.0, k=20)


def test_both_targets_reach_the_risks(tail):
    for target in ("max", "quantile"):
        forecast = tail.forecast(5000, target)
        assert tail.worst_query_risk(5000, target) == sf.failure_probability(forecast)
        assert tail.log_worst_query_survival(5000, target) == sf.log_survival_probability(forecast)
    assert tail.forecast(5000, "max") - tail.forecast(5000, "quantile") == pytest.approx(np.euler_gamma * tail.scale, rel=1e-3)
    assert tail.worst_query_risk(5000) == tail.worst_query_risk(5000, "max")
    assert tail.log_worst_query_survival(5000) == tail.log_worst_query_survival(5000, "max")


def test_where_a_tail_starts_and_how_wide_it_is():
    rows = np.random.default_rng(7).gumbel(size=(2, 50))
    ordered = -np.sort(-rows, axis=1)
    for make in (np.asarray, th.from_numpy):
        found = sf.GumbelTail.fit(make(rows), k=8)
        assert found.n_eval == 50
        np.testing.assert_array_equal(found.top, ordered[:, :8])
        np.testing.assert_array_equal(found.location, ordered[:, 7])
        np.testing.assert_allclose(found.scale, (ordered[:, :7] - ordered[:, 7:8]).sum(1) / 7)


def test_a_bootstrap_knows_its_arguments(tail):
    assert tail.bootstrap(100).shape == (1000,)
    a, b = (tail.bootstrap(100, 50, target=target) for target in ("max", "quantile"))
    assert (a > b).all()
    np.testing.assert_array_equal(tail.bootstrap(100, 50), tail.bootstrap(100, 50, seed=0, target="max"))
    assert not np.array_equal(tail.bootstrap(100, 50), tail.bootstrap(100, 50, seed=1))
    assert len(tail.bootstrap(100, 1)) == 1
    with pytest.raises(ValueError, match="n_boot must be at least 1, got 0"):
        tail.bootstrap(100, 0)
    with pytest.raises(ValueError, match=r"scores must have the shape \(m,\) for bootstrap"):
        sf.GumbelTail.fit(np.zeros((2, 50)), k=5).bootstrap(100)


def test_tops_of_resamples_by_drawing_whole_resamples():
    """Mean and variance of the rank of the k-th largest, with 20,000 resamples each; four standard errors."""
    m, k, repeats = 60, 8, 20_000
    ordered = -np.arange(m, dtype=float)
    ours = bootstrap_tops(ordered, k, repeats, np.random.default_rng(0))
    theirs = -np.sort(-np.random.default_rng(1).choice(ordered, size=(repeats, m)), axis=1)[:, :k]
    assert ours.shape == (repeats, k)
    spread = theirs.std(axis=0)
    np.testing.assert_array_less(np.abs(ours.mean(0) - theirs.mean(0)), 4 * spread * np.sqrt(2 / repeats))
    np.testing.assert_allclose(ours.var(0)[2:], theirs.var(0)[2:], rtol=0.06)


@pytest.mark.parametrize(("m", "k"), [(8, 2), (12, 3), (40, 10), (100, 20), (400, 40), (10_000, 200), (3, 2)])
def test_the_usual_k_is_two_roots_of_m_or_a_quarter(m, k):
    assert default_k(m) == k


def test_an_interval_is_wider_at_a_higher_level_and_not_below_the_tail(tail):
    inner, outer = tail.interval(5000, 0.5), tail.interval(5000, 0.95)
    assert outer[0] < inner[0] < inner[1] < outer[1]
    assert tail.interval(5000) == tail.interval(5000, 0.9)
    assert tail.interval(1, 0.9)[0] == tail.location
    with pytest.raises(ValueError, match="n_deploy must be at least 1, got 0"):
        tail.interval(0)


def test_shares_beyond_the_tail_and_their_limit(tail):
    x = float(tail.location + 3.0 * tail.scale)
    p = float(sf.failure_probability(x))
    assert tail.behavior_frequency(p) == pytest.approx(20 / 300 * np.exp(-3.0))
    assert tail.behavior_frequency_limit(p) == pytest.approx(frequency_upper_limit(3.0, 20, 300, 0.95))
    assert tail.behavior_frequency_limit(p, 0.5) == pytest.approx(frequency_upper_limit(3.0, 20, 300, 0.5))


def test_shares_below_the_tail_are_counted_in_each_row():
    rows = np.random.default_rng(1).gumbel(size=(3, 100))
    batch = sf.GumbelTail.fit(rows, k=10)
    p = float(sf.failure_probability(0.5))
    np.testing.assert_allclose(batch.behavior_frequency(p), (rows > 0.5).mean(1))
    assert np.isneginf(sf.GumbelTail.fit(np.full(50, -1.0), k=5).log_behavior_frequency(p))


def test_a_score_at_the_threshold_does_not_exceed_it():
    scores = np.concatenate([np.arange(10.0, 20.0), np.full(90, 0.0)])
    assert sf.GumbelTail.fit(scores, k=5).behavior_frequency(np.exp(-1.0)) == pytest.approx(0.1)  # p = 1/e has the score 0


def test_batches_have_the_risks_of_their_rows():
    rows = np.random.default_rng(2).gumbel(size=(3, 80)) - 3.0
    rows[1] -= 4.0
    for make in (np.asarray, th.from_numpy):
        batch = sf.GumbelTail.fit(make(rows), k=10)
        for i, row in enumerate(rows):
            one = sf.GumbelTail.fit(row, k=10)
            assert float(batch.log_mean_failure()[i]) == pytest.approx(float(one.log_mean_failure()))
            assert float(batch.aggregate_risk(50)[i]) == pytest.approx(float(one.aggregate_risk(50)))
            assert float(batch.location[i]) == one.location
            assert float(batch.scale[i]) == pytest.approx(one.scale)


def test_a_risk_needs_a_deployment(tail):
    with pytest.raises(ValueError, match="n_deploy must be at least 1, got 0"):
        tail.aggregate_risk(0)


def test_two_scores_make_a_tail():
    assert sf.GumbelTail.fit([1.0, 3.0]).forecast(2, "quantile") > 1.0
    for bad in ([1.0], 1.0):
        with pytest.raises(ValueError, match=r"scores must have shape \(\.\.\., m\), m >= 2"):
            sf.GumbelTail.fit(bad)
    with pytest.raises(sf.NoForecastError, match="only 1 of 3 scores are finite"):
        sf.GumbelTail.fit([1.0, -np.inf, -np.inf])


def test_the_smallest_number_of_finite_scores_in_a_batch_counts():
    rows = np.random.default_rng(3).gumbel(size=(2, 100))
    rows[1, 6:] = -np.inf
    assert sf.GumbelTail.fit(rows).k == 6
    with pytest.raises(sf.NoForecastError, match="k must be from 2 to 6, since 6 of 100"):
        sf.GumbelTail.fit(rows, k=7)


def test_tensors_are_sorted_along_the_last_axis():
    rows = th.from_numpy(np.random.default_rng(4).gumbel(size=(2, 30)))
    tail = sf.GumbelTail.fit(rows, k=5)
    np.testing.assert_array_equal(tail.scores.numpy(), -np.sort(-rows.numpy(), axis=-1))
    with pytest.raises(ValueError, match=r"got \(2, 30\); fit each row by itself"):
        tail.diagnostics()
    assert sf.GumbelTail.fit(rows[0].clone().requires_grad_(), k=5).diagnostics().k == 5
