import numpy as np
import pytest
from scipy import stats

import sb3_forecast as sf
from sb3_forecast.statistics.count_checks import best_fit, goodness_of_fit
from sb3_forecast.statistics.counts import CountTail
from sb3_forecast.statistics.outlook import outlook_of_counts


def counts(m=2000, trials=40, a=0.4, b=12.0, seed=0):
    rng = np.random.default_rng(seed)
    return rng.binomial(trials, rng.beta(a, b, size=m)), np.full(m, trials)


def test_recovers_the_distribution_from_mostly_zeros():
    failures, trials = counts()
    assert (failures == 0).mean() > 0.5
    tail = CountTail.fit(failures, trials)
    assert tail.a == pytest.approx(0.4, rel=0.25)
    assert tail.a / (tail.a + tail.b) == pytest.approx(0.4 / 12.4, rel=0.1)
    truth = float(sf.failure_score(np.log(stats.beta.ppf(0.5 ** (1 / 100_000), 0.4, 12.0))))
    assert tail.forecast(100_000) == pytest.approx(truth, abs=0.15)


@pytest.mark.slow
def test_interval_covers():
    """Nominal 90% of the worst of 2000 over 60 repeats, within 3 standard errors."""
    covered = 0
    for seed in range(60):
        failures, trials = counts(m=300, seed=seed)
        low, high = CountTail.fit(failures, trials).interval(2000, n_boot=60, seed=seed)
        worst = np.random.default_rng(1000 + seed).beta(0.4, 12.0, size=2000).max()
        covered += low <= sf.failure_score(np.log(worst)) <= high
    assert covered / 60 > 0.9 - 3 * np.sqrt(0.09 / 60)


def test_worst_grows_with_the_deployment_and_stays_finite():
    tail = CountTail.fit(*counts(a=0.2, b=0.3))  # many tasks fail always: p is close to 1
    forecasts = [tail.forecast(n) for n in (1, 100, 10_000, 1e9)]
    assert forecasts == sorted(forecasts)
    assert np.isfinite(forecasts).all()


@pytest.mark.parametrize(
    ("failures", "trials", "message"),
    [
        (
            [0] * 96 + [1] * 4,
            [50] * 100,
            r"failures must be above 0 for at least 5 tasks, got 4 of 100.*at most 0\.0892 of all tasks fail",
        ),
        ([3] * 4, [3] * 4, "got 4 of 4.*at most 1 of all tasks fail"),
        ([1, 2, 3], [5, 5], r"failures and trials must have the same shape .* got \(3,\) and \(2,\)"),
        ([6, 2, 3], [5, 5, 5], "got 6 failures in 5 trials in row 0"),
        ([1, -2, 3], [5, 5, 5], "got -2 failures in 5 trials in row 1"),
    ],
)
def test_bad_counts(failures, trials, message):
    with pytest.raises(ValueError, match=message):
        CountTail.fit(np.array(failures), np.array(trials))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_deploy": 0}, "n_deploy must be at least 1, got 0"),
        ({"n_deploy": np.inf}, "n_deploy must be finite, got inf"),
        ({"n_deploy": 10, "level": 1.0}, r"level must be strictly between 0 and 1, got 1\.0"),
        ({"n_deploy": 10, "n_boot": 19}, "n_boot must be at least 20, got 19; use 200 or more, to give quantiles"),
    ],
)
def test_bad_arguments_of_the_interval(arguments, message):
    tail = CountTail(1.0, 10.0, np.array([0, 1]), np.array([5, 5]))
    with pytest.raises(ValueError, match=message):
        tail.interval(**arguments)


def test_no_more_variation_than_chance():
    with pytest.raises(ValueError, match="failures must differ between tasks by more than binomial chance"):
        CountTail.fit(np.tile([4, 5, 6, 5], 50), np.full(200, 10))


def mostly_harmless(m=3000, trials=40, never=0.9, a=3.0, b=7.0, seed=0):
    """Nine of ten tasks never fail; the others fail about 30% of the time."""
    rng = np.random.default_rng(seed)
    p = np.where(rng.random(m) < never, 0.0, rng.beta(a, b, size=m))
    return rng.binomial(trials, p), np.full(m, trials)


def test_tasks_that_never_fail_are_told_from_the_others():
    fit, plain = best_fit(*mostly_harmless())
    assert fit.never == pytest.approx(0.9, abs=0.02)
    assert fit.a / (fit.a + fit.b) == pytest.approx(0.3, abs=0.03)
    assert fit.mean == pytest.approx(0.03, abs=0.005)
    assert plain.never == 0.0
    truth = float(sf.failure_score(np.log(stats.beta.ppf(0.5 ** (1 / 1000), 3.0, 7.0))))
    assert fit.forecast(10_000) == pytest.approx(truth, abs=0.3)
    assert plain.forecast(10_000) > truth + 1.0


def test_one_parameter_more_must_pay():
    """By the threshold about 1.6% of plain counts are taken for zero-inflated ones; 4 of 30 would be far too many."""
    assert sum(best_fit(*counts(m=200, trials=20, a=0.3, b=8.0, seed=seed))[0].never > 0.0 for seed in range(30)) < 4


def test_a_fit_is_checked_against_its_own_counts():
    failures, trials = mostly_harmless()
    inflated, plain = best_fit(failures, trials)
    assert goodness_of_fit(inflated) > 0.05
    assert goodness_of_fit(plain) == pytest.approx(0.01)


def test_p_values_of_right_fits_are_spread():
    """Right about the distribution: p-values are about uniform, so few of 30 are below 0.1, and some are above 0.6."""
    values = [goodness_of_fit(CountTail.fit(*counts(m=200, trials=20, a=0.3, b=8.0, seed=s)), 19, s) for s in range(30)]
    assert sum(value < 0.1 for value in values) <= 9
    assert sum(value > 0.6 for value in values) >= 5


def test_a_refit_of_the_same_counts_is_the_fit():
    for fit in best_fit(*mostly_harmless(m=500)):
        again = fit.refit(fit.failures, fit.trials)
        assert again.log_likelihood == pytest.approx(fit.log_likelihood, abs=1e-3)
        assert again.mean == pytest.approx(fit.mean, rel=1e-2)


def test_a_deployment_that_probably_holds_no_failing_task_has_the_lowest_score():
    fit = CountTail(3.0, 7.0, np.array([0, 1]), np.array([5, 5]), never=0.9)
    assert fit.forecast(1) == -np.inf
    assert fit.forecast(10) > -np.inf


def test_fits_that_disagree_are_told_and_which_to_believe():
    failures, trials = mostly_harmless(m=300, trials=20)
    found = outlook_of_counts(failures, trials, 10_000)
    assert found["method"] == "zero-inflated beta-binomial"
    (said,) = [caveat for caveat in found["caveats"] if "two models of the counts disagree" in caveat]
    assert "believe the first" in said
    assert found["exceeds_observed_worst"] == pytest.approx(10_000 / 10_300)
    assert found["fit_p"] >= 0.05


def test_tasks_that_are_all_alike_get_an_answer_without_a_forecast():
    found = outlook_of_counts(np.tile([4, 5, 6, 5], 50), np.full(200, 10), 1000)
    assert found["method"] == "counts only"
    assert "Expect about 500 failures in 1,000 tasks" in found["answer"]


def worst_of(n, level, a=0.4, b=12.0):
    """Score that the worst of n tasks stays below with a given probability, if a and b are known."""
    return float(sf.failure_score(np.log(stats.beta.ppf(level ** (1 / n), a, b))))


def test_the_interval_lies_around_the_quantiles_of_the_worst():
    """With 3000 tasks the distribution is nearly known: what is left is the chance of the deployment."""
    tail = CountTail.fit(*counts(m=3000))
    low, high = tail.interval(2000, level=0.8, n_boot=30)
    assert low == pytest.approx(worst_of(2000, 0.1, tail.a, tail.b), abs=0.2)
    assert high == pytest.approx(worst_of(2000, 0.9, tail.a, tail.b), abs=0.3)
    assert low < tail.forecast(2000) < high


def test_the_interval_is_wider_at_a_higher_level_and_moves_with_the_deployment():
    tail = CountTail.fit(*counts(m=300))
    narrow, wide, larger = (tail.interval(n, level, n_boot=20) for n, level in ((500, 0.5), (500, 0.95), (50_000, 0.5)))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]
    assert narrow[0] < larger[0]
    assert narrow[1] < larger[1]


def test_the_interval_comes_again_with_its_seed():
    tail = CountTail.fit(*counts(m=200))
    assert tail.interval(500, n_boot=20, seed=1) == tail.interval(500, n_boot=20, seed=1)
    assert tail.interval(500, n_boot=20, seed=1) != tail.interval(500, n_boot=20, seed=2)


def test_the_lower_limit_is_minus_infinity_where_too_many_fits_fail():
    low, high = CountTail.fit(np.array([5, 4, 3, 2, 1] + [0] * 95), np.full(100, 10)).interval(100, n_boot=20)
    assert low == -np.inf
    assert np.isfinite(high)


def test_five_tasks_that_failed_are_enough():
    tail = CountTail.fit(np.array([5.0, 4.0, 3.0, 2.0, 1.0] + [0.0] * 95), np.full(100, 10))
    assert (tail.n_eval, tail.failures.dtype, tail.trials.dtype) == (100, np.int64, np.int64)
    assert tail.failures.sum() == 15


def test_one_trial_of_a_task_is_allowed_and_none_is_not():
    failures, trials = counts(m=300)
    CountTail.fit(np.append(failures, 1), np.append(trials, 1))
    with pytest.raises(ValueError, match="got 0 failures in 0 trials in row 300"):
        CountTail.fit(np.append(failures, 0), np.append(trials, 0))


def test_two_tasks_are_too_few_for_a_fit_but_no_wrong_shape():
    with pytest.raises(sf.NoForecastError, match="got 2 of 2"):
        CountTail.fit(np.array([1, 2]), np.array([5, 5]))
    for shape in ((1,), (2, 2)):
        with pytest.raises(ValueError, match="failures and trials must have the same shape"):
            CountTail.fit(np.ones(shape), np.full(shape, 5))


def test_the_fit_is_the_maximum_of_the_likelihood():
    """No neighbour explains the counts better, by scipy's beta-binomial distribution."""
    failures, trials = counts(m=500)
    tail = CountTail.fit(failures, trials)
    best = stats.betabinom.logpmf(failures, trials, tail.a, tail.b).sum()
    for a, b in ((0.97, 1.0), (1.03, 1.0), (1.0, 0.97), (1.0, 1.03), (0.97, 0.97), (1.03, 1.03)):
        assert stats.betabinom.logpmf(failures, trials, a * tail.a, b * tail.b).sum() < best


@pytest.mark.parametrize("others", [[], [7], [2, 4, 6, 7]])
def test_tasks_that_always_fail(others):
    """The mean of the counts is 1, or close to it."""
    failures = np.array([8] * 60 + others)
    tail = CountTail.fit(failures, np.full(len(failures), 8))
    assert tail.a / (tail.a + tail.b) == pytest.approx(failures.mean() / 8, abs=0.01)
    assert np.isfinite(tail.forecast(1e6))


def test_beyond_the_smallest_number_the_worst_goes_on_as_a_power():
    """P(survival <= x) is proportional to x^b near 0: 10,000 times as many tasks lower log x by log(10,000) / b."""
    tail = CountTail(2.0, 0.02, np.array([0, 1]), np.array([5, 5]))
    seen, beyond = tail.forecast(1e4), tail.forecast(1e8)
    assert 400 < seen < 700 < beyond  # exp(-745) is the smallest number
    assert beyond - seen == pytest.approx(np.log(1e4) / 0.02, rel=1e-3)


@pytest.mark.parametrize("n_deploy", [1, 40, 1e6])
def test_the_forecast_is_the_median_of_the_worst(n_deploy):
    tail = CountTail(0.4, 12.0, np.array([0, 1]), np.array([5, 5]))
    assert tail.forecast(n_deploy) == pytest.approx(worst_of(n_deploy, 0.5), rel=1e-6)


def test_counts_drawn_from_a_fit_hold_its_tasks_that_never_fail():
    m = 4000
    fit = CountTail(30.0, 10.0, np.zeros(m, dtype=np.int64), np.full(m, 50), never=0.9)
    drawn, trials = fit.sample(np.random.default_rng(0))
    np.testing.assert_array_equal(trials, 50)
    assert (drawn == 0).mean() == pytest.approx(0.9, abs=0.02)
    assert drawn[drawn > 0].mean() == pytest.approx(0.75 * 50, rel=0.05)
