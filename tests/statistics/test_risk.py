import numpy as np
import pytest
import torch as th
from scipy import integrate, stats

import sb3_forecast as sf
from sb3_forecast.statistics.risk import (
    clopper_pearson,
    frequency_upper_limit,
    jones_log_frequency,
    log_aggregate_risk,
    log_frequency,
    log_mean_beyond,
    log_mean_failure,
    umvu_frequency,
)


def p_of(x):
    return float(sf.failure_probability(x))


def test_vectors(vectors):
    case = vectors["frequency"]
    m, out = case["inputs"]["m"], case["outputs"]
    scores = np.concatenate([case["inputs"]["psi"], np.full(m - 10, -8.0)])
    blue, jones = (sf.GumbelTail.fit(scores, k=10, method=method) for method in ("blue", "jones"))
    for i, x in enumerate(case["inputs"]["x"]):
        assert jones.behavior_frequency(p_of(x)) == pytest.approx(out["jones"][i], rel=case["rtol"])
        assert blue.behavior_frequency(p_of(x)) == pytest.approx(out["plug"][i], rel=case["rtol"])
        assert umvu_frequency(x, blue.location, blue.scale, 10, m) == pytest.approx(out["umvu"][i], rel=case["rtol"])
        assert blue.behavior_frequency_limit(p_of(x), 0.95) == pytest.approx(out["upper95"][i], rel=case["rtol"])


def test_below_the_tail_the_sample_counts():
    scores = np.concatenate([np.full(90, -4.0), np.linspace(0, 1, 10)])
    tail = sf.GumbelTail.fit(scores, k=5)
    assert tail.behavior_frequency(p_of(-1.0)) == pytest.approx(0.1)
    assert tail.behavior_frequency_limit(p_of(-1.0)) == pytest.approx(clopper_pearson(10, 100))
    assert clopper_pearson(0, 100) == pytest.approx(1 - 0.05**0.01)
    tied = sf.GumbelTail.fit(np.full(50, -1.0), k=5)
    assert tied.behavior_frequency(p_of(0.0)) == 0.0
    assert tied.behavior_frequency_limit(p_of(0.0)) == pytest.approx(clopper_pearson(0, 50))


def test_frequency_limit_covers():
    """Nominal 95% over 3000 exact tails, within 2 standard errors."""
    rng = np.random.default_rng(0)
    truth, covered, repeats = 1e-4, 0, 3000
    for _ in range(repeats):
        psi = rng.exponential(size=500) - 3
        tail = sf.GumbelTail.fit(psi, k=10)
        x = -3 - np.log(truth)
        covered += tail.behavior_frequency_limit(p_of(x), 0.95) >= truth
    assert abs(covered / repeats - 0.95) < 2 * np.sqrt(0.95 * 0.05 / repeats)


@pytest.mark.parametrize(("u", "s"), [(-3.0, 0.4), (0.0, 1.0), (-5.0, 0.1), (2.0, 3.0), (-1.0, 0.001)])
def test_mean_beyond_against_adaptive_quadrature(u, s):
    def integrand(z):
        return np.exp(-z - np.exp(-(u + s * z)) - _shift(u, s))

    exact, _ = integrate.quad(integrand, 0, 400, limit=2000, epsabs=0, epsrel=1e-11, points=_peaks(u, s))
    assert log_mean_beyond(u, s) == pytest.approx(np.log(exact) + _shift(u, s), rel=1e-9, abs=1e-9)


def _peaks(u, s):
    """Where the integrand is largest: 1 = s e^-(u + s z)."""
    peak = (np.log(s) - u) / s
    return [peak] if 0 < peak < 400 else None


def _shift(u, s):
    """Log of the integrand's largest value, so that quad sees numbers near 1."""
    z = max(0.0, (np.log(s) - u) / s)
    return -z - np.exp(-(u + s * z))


def test_mean_failure_and_aggregate_risk_of_an_exact_tail():
    rng = np.random.default_rng(1)
    truth = np.exp(log_mean_beyond(-4.0, 0.4))
    large = sf.GumbelTail.fit(rng.exponential(size=400_000) * 0.4 - 4, k=4000)
    assert np.exp(large.log_mean_failure()) == pytest.approx(truth, rel=0.2)  # doubly exponential in a scale known to 1.6%
    tail = sf.GumbelTail.fit(rng.exponential(size=500) * 0.4 - 4, k=20)
    mean = np.exp(tail.log_mean_failure())
    assert tail.aggregate_risk(1000) == pytest.approx(1 - (1 - mean) ** 1000, rel=1e-6)
    assert log_aggregate_risk(-800.0, 1e6) == pytest.approx(-800 + np.log(1e6))
    assert log_aggregate_risk(-20.0, 1e12) == pytest.approx(0.0, abs=1e-12)


def test_everything_that_is_smooth_has_a_gradient():
    x = th.from_numpy(np.random.default_rng(2).gumbel(size=60) - 3).requires_grad_()
    tail = sf.GumbelTail.fit(x, k=8)
    for value in (
        tail.log_behavior_frequency(0.9),
        tail.log_aggregate_risk(10),
        tail.log_mean_failure(),
        tail.log_worst_query_survival(1e5),
    ):
        (gradient,) = th.autograd.grad(value, x, retain_graph=True)
        assert th.isfinite(gradient).all()
        assert gradient.abs().sum() > 0
    (gradient,) = th.autograd.grad(tail.log_aggregate_risk(10), x)
    step = 1e-6
    index = int((x == tail.scores[2]).nonzero()[0, 0])
    moved = x.detach().clone()
    moved[index] += step
    change = sf.GumbelTail.fit(moved, k=8).log_aggregate_risk(10) - sf.GumbelTail.fit(x.detach(), k=8).log_aggregate_risk(10)
    assert gradient[index].item() == pytest.approx(change.item() / step, rel=1e-4)


def test_p_zero_and_k_equal_m():
    scores = np.concatenate([np.full(30, -np.inf), np.linspace(-3, -1, 10)])
    tail = sf.GumbelTail.fit(scores, k=10)
    assert np.isfinite(tail.log_mean_failure())
    whole = sf.GumbelTail.fit(np.linspace(-3, -1, 10), k=10)
    assert np.isfinite(whole.forecast(100))
    assert np.isfinite(whole.log_mean_failure())
    assert whole.interval(1000)[1] > whole.interval(1000)[0]


@pytest.mark.parametrize("p", [0.0, 1.0, -0.5])
def test_bad_threshold(p):
    with pytest.raises(ValueError, match="p_threshold must be strictly between 0 and 1, got"):
        sf.GumbelTail.fit(np.arange(50.0)).behavior_frequency(p)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3, 20, 1.0), r"level must be strictly between 0 and 1, got 1\.0"),
        ((-1, 20), "count must be from 0 to n_eval=20, .* got -1"),
        ((21, 20), "count must be from 0 to n_eval=20, .* got 21"),
    ],
)
def test_bad_counts_beyond_a_threshold(arguments, message):
    with pytest.raises(ValueError, match=message):
        clopper_pearson(*arguments)


def test_batches_are_refused_where_one_sample_is_meant():
    tail = sf.GumbelTail.fit(np.random.default_rng(0).normal(size=(2, 50)), k=10)
    for call in (tail.diagnostics, lambda: tail.behavior_frequency_limit(0.9)):
        with pytest.raises(
            ValueError, match=r"scores must have the shape \(m,\) for (diagnostics|behavior_frequency_limit), got \(2, 50\)"
        ):
            call()


def test_certain_failure_is_no_nan():
    tail = sf.GumbelTail.fit(np.random.default_rng(0).exponential(size=200) + 34, k=20)
    assert tail.aggregate_risk(1) == pytest.approx(1.0)


def test_rows_that_lie_far_apart_do_not_underflow():
    """The log of a mean is taken row by row: p of one row may be 1e-1300 of that of another."""
    both = log_mean_beyond(np.array([-8.0, 2.0]), np.array([0.1, 0.5]))
    np.testing.assert_allclose(both, [log_mean_beyond(-8.0, 0.1), log_mean_beyond(2.0, 0.5)])
    as_tensor = log_mean_beyond(th.tensor([-8.0, 2.0]), th.tensor([0.1, 0.5]))
    np.testing.assert_allclose(as_tensor.numpy(), both, rtol=1e-6)


def test_the_mean_failure_adds_the_sample_and_the_tail():
    scores = np.array([[1.0, 0.5, 0.2, -0.5, -1.0, -9.0], [0.0, -1.0, -1.5, -2.0, -4.0, -np.inf]])
    found = log_mean_failure(scores, 3, np.array([0.4, 0.7]))
    for row, scale, value in zip(scores, (0.4, 0.7), found, strict=True):
        expected = 0.5 * np.exp(log_mean_beyond(row[2], scale)) + sf.failure_probability(row[3:]).sum() / 6
        assert np.exp(value) == pytest.approx(expected)
    assert log_mean_failure(np.array([1.0, 0.0, -np.inf]), 2, 0.5) == pytest.approx(np.log(2 / 3) + log_mean_beyond(0.0, 0.5))


@pytest.mark.parametrize("log_mean", [-1e-3, -1.0, -10.0, -690.0, -720.0, -1e5])
def test_aggregate_risk_against_many_digits(log_mean):
    import mpmath

    mpmath.mp.dps = 400
    for n in (1, 7, 10**6):
        p = mpmath.exp(mpmath.mpf(log_mean))
        exact = mpmath.log(1 - (1 - p) ** n) if log_mean > -800 else mpmath.mpf(log_mean) + mpmath.log(n)
        assert log_aggregate_risk(log_mean, n) == pytest.approx(float(exact), rel=1e-9, abs=1e-12)


def test_a_mean_above_1_by_rounding_is_certain_failure():
    assert log_aggregate_risk(1e-15, 5) == 0.0
    assert log_aggregate_risk(np.array([1e-15, -np.inf]), 5).tolist() == [0.0, -np.inf]


@pytest.mark.parametrize(("count", "m"), [(0, 1), (1, 5), (3, 20), (19, 20)])
def test_the_limit_of_a_count_is_that_of_the_binomial(count, m):
    """At the limit, so few or fewer are seen with probability 1 - level."""
    for level in (0.5, 0.95):
        assert stats.binom.cdf(count, m, clopper_pearson(count, m, level)) == pytest.approx(1 - level)
    assert clopper_pearson(count, m) == clopper_pearson(count, m, 0.95)


def test_all_of_them_is_no_limit():
    assert clopper_pearson(20, 20) == 1.0
    with pytest.raises(ValueError, match="which must be at least 1, got 0"):
        clopper_pearson(0, 0)


def test_an_unbiased_share_needs_three_scores_and_is_unbiased():
    rng, repeats = np.random.default_rng(0), 40_000
    psi = -np.sort(-rng.exponential(size=(repeats, 20)), axis=1)
    location, scale = psi[:, 4], (psi[:, :4] - psi[:, 4:5]).sum(1) / 4
    found = umvu_frequency(5.0, location, scale, 5, 20)
    assert found.mean() == pytest.approx(np.exp(-5.0), abs=4 * found.std() / np.sqrt(repeats))
    assert (found == 0.0).any()
    with pytest.raises(ValueError, match="k must be at least 3 for an unbiased frequency, got 2"):
        umvu_frequency(5.0, 0.0, 1.0, 2, 20)
    assert umvu_frequency(1.0, 0.0, 1.0, 3, 20) == pytest.approx(2 / 20 * 0.5)


@pytest.mark.parametrize(("k", "m", "height"), [(2, 10, 0.0), (10, 200, 3.0), (10, 200, 30.0), (5, 5, 1.0)])
def test_the_limit_of_a_share_is_held_as_often_as_it_says(k, m, height):
    """By simulation of exact tails: the share beyond psi_k + height sigma_bar lies below the limit that the level promises."""
    rng, repeats = np.random.default_rng(1), 20_000
    share = rng.beta(k, m - k + 1, size=repeats)  # of the tasks beyond psi_k
    scale = rng.gamma(k - 1, size=repeats) / (k - 1)
    for level in (0.5, 0.95):
        limit = frequency_upper_limit(height, k, m, level)
        # psi_k + height sigma_bar <= q_f, the score that a share f of the tasks exceeds
        held = (np.log(share) - height * scale <= np.log(limit)).mean()
        assert held == pytest.approx(level, abs=4 * np.sqrt(level * (1 - level) / repeats))
    assert frequency_upper_limit(height, k, m) == frequency_upper_limit(height, k, m, 0.95)


def test_no_limit_below_the_tail():
    with pytest.raises(ValueError, match="height must be at least 0, got -1"):
        frequency_upper_limit(-1, 5, 20)
    with pytest.raises(ValueError, match="level must be strictly between 0 and 1, got 0"):
        frequency_upper_limit(1, 5, 20, 0)
    with pytest.raises(ValueError, match="k must be at most"):
        frequency_upper_limit(1, 50, 20)


def test_frequencies_of_rows():
    rows = -np.sort(-np.random.default_rng(3).gumbel(size=(2, 50)), axis=1)[:, :10]
    for i, value in enumerate(jones_log_frequency(4.0, rows, 50)):
        fit = stats.linregress(rows[i], np.log(np.arange(1, 11) / 50))
        assert value == pytest.approx(fit.intercept + 4.0 * fit.slope)
    np.testing.assert_allclose(log_frequency(3.0, np.array([1.0, 2.0]), np.array([0.5, 2.0]), 5, 50), np.log(0.1) - [4.0, 0.5])
