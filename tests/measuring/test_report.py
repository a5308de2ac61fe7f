"""What a report says, keeps and leaves out."""

import numpy as np
import pytest

import sb3_forecast as sf
import sb3_forecast_envs as sfe
from sb3_forecast.measuring.splits import forecast_splits, split_indices
from sb3_forecast.statistics.bias import bias_constants, ideal_error
from sb3_forecast.statistics.intervals import pivot_quantile
from tests.measuring.test_evaluate import report_of


def exponential(n, seed, scale=0.3):
    return scale * np.random.default_rng(seed).exponential(size=n) - 3.0


def test_the_splits_are_kept_with_their_forecasts():
    scores = exponential(500, 0)
    report = report_of(scores, eval_size=50, n_splits=30, seed=3, deploy_size=300, k=6)
    splits = report.splits
    assert len(splits) == 30
    np.testing.assert_array_equal(splits.tasks, split_indices(500, 50, 300, 30, 3))
    for split in (0, 17):
        tail = sf.GumbelTail.fit(scores[splits.tasks[split, :50]], 6, "blue")
        assert splits.location[split] == pytest.approx(float(tail.location))
        assert splits.scale[split] == pytest.approx(float(tail.scale))
        assert splits.forecast[split] == pytest.approx(float(tail.forecast(300)))
        assert (splits.low[split], splits.high[split]) == pytest.approx(tail.interval(300, 0.9))
        limit = float(tail.location) + pivot_quantile(0.95, 6, 50, 300) * float(tail.scale)
        assert splits.limit[split] == pytest.approx(limit)
        assert splits.realised[split] == scores[splits.tasks[split, 50:]].max()
    assert report.limit_holds == np.mean(splits.realised <= splits.limit)
    assert report.interval_holds == np.mean((splits.realised >= splits.low) & (splits.realised <= splits.high))
    errors = np.abs(splits.forecast - splits.realised)
    assert np.sort(errors)[15] == errors[splits.typical]


def test_an_exponential_tail_has_the_promised_coverage():
    """Fresh pools: the splits of one pool share its tasks, and say little more than one."""
    holds, inside, errors = [], [], []
    for seed in range(400):
        splits = forecast_splits(exponential(4000, seed), 200, 3800, 1, seed, 10, "blue")
        holds.append(splits.realised[0] <= splits.limit[0])
        inside.append(splits.low[0] <= splits.realised[0] <= splits.high[0])
        errors.append(abs(splits.forecast[0] - splits.realised[0]) / splits.scale[0])
    assert np.mean(holds) == pytest.approx(0.95, abs=4 * np.sqrt(0.95 * 0.05 / 400))
    assert np.mean(inside) == pytest.approx(0.9, abs=4 * np.sqrt(0.9 * 0.1 / 400))
    assert np.mean(errors) == pytest.approx(ideal_error(10, 200, 3800, "blue"), rel=0.2)


def test_the_ideal_error_is_that_of_an_exponential_tail():
    """By direct simulation of all m scores, where the function simulates spacings; and Jones' is larger by its bias."""
    rng = np.random.default_rng(0)
    tail = sf.GumbelTail.fit(rng.exponential(size=(20_000, 200)), 10, "jones")
    maximum = -np.log(-np.expm1(np.log(rng.random(20_000)) / 3800))
    direct = np.abs((tail.forecast(3800) - maximum) / tail.scale).mean()
    assert ideal_error(10, 200, 3800, "jones") == pytest.approx(direct, rel=0.03)
    assert bias_constants(10, 200, 3800, "jones").maximum > 0.5
    assert ideal_error(10, 200, 3800, "jones") > ideal_error(10, 200, 3800, "blue")


def test_the_verdict_comes_first():
    held = report_of(exponential(4200, 1), eval_size=200, n_splits=100)
    assert held.limit_holds > 0.9
    assert held.summary().startswith("The forecast held: the worst of 4,000 deployment tasks stayed below the 95% limit in")
    mode = exponential(4200, 1)
    mode[:4] = 6.0
    missed = report_of(mode, eval_size=200, n_splits=100)
    assert missed.limit_holds < 0.5
    assert missed.summary().startswith("The forecast did NOT hold")
    assert "they say about as much as one independent split" in missed.summary()
    assert missed.n_independent == 1
    assert "unknown" in missed.summary()  # success, which nothing tells


def test_within_ten_times_is_in_probability():
    """Forecasts that are wrong by a given factor of p, not of psi."""
    report = report_of(exponential(600, 2), eval_size=100, n_splits=50)
    log10 = [-np.exp(-s) / np.log(10.0) for s in (report.splits.forecast, report.splits.realised)]
    assert report.within_10x == np.mean(np.abs(log10[0] - log10[1]) <= 1.0)
    assert report.error_log10.signed == pytest.approx((log10[0] - log10[1]).mean())
    # too low a forecast is a negative error, in every unit
    low = report_of(np.r_[exponential(600, 2), 5.0], eval_size=100, n_splits=50)
    assert low.under_predicted > 0.5
    assert low.error.signed < 0.0
    assert low.error_log10.signed < 0.0


def test_saving_keeps_everything(tmp_path):
    report = report_of(exponential(500, 0), eval_size=50, n_splits=30, seed=3, deploy_size=300, k=6)
    report.save(tmp_path / "report.npz")
    again = sf.ForecastReport.load(tmp_path / "report.npz")
    assert again.to_json() == report.to_json()
    np.testing.assert_array_equal(again.scores, report.scores)
    np.testing.assert_array_equal(again.splits.tasks, report.splits.tasks)
    np.testing.assert_array_equal(again.splits.limit, report.splits.limit)
    assert np.isnan(again.success)
    assert again.summary() == report.summary()
    again.plot(tmp_path / "tail.png")
    assert (tmp_path / "tail.png").stat().st_size > 10_000


def test_training_tasks_are_left_out(clumsy, pool):
    """Each task once, and none that training holds; the report says how many were left out."""
    training = pool.subset(np.arange(100))
    doubled = pool.subset(np.r_[np.arange(60, 300), np.arange(250, 300)])
    report = sf.evaluate_forecast(clumsy, doubled, 60, 20, k=5, exclude=training)
    seen, kept = set(training.task_keys()), []
    for i, key in enumerate(doubled.task_keys()):
        if key not in seen:
            seen.add(key)
            kept.append(i)
    assert report.n_tasks == len(kept) < 240
    assert report.overlap == pytest.approx(np.mean([key in set(training.task_keys()) for key in doubled.task_keys()]))
    assert report.overlap >= 40 / 290
    np.testing.assert_allclose(report.scores, sf.ExactScorer(doubled).score(clumsy).numpy()[kept], rtol=1e-6)
    np.testing.assert_array_equal(report.rare, doubled.rare[kept])
    assert "of the given tasks occur in training" in report.summary()
    assert np.isnan(sf.evaluate_forecast(clumsy, doubled, 60, 20, k=5).overlap)
    with pytest.raises(ValueError, match="pool must hold a task that exclude does not hold, got none"):
        sf.evaluate_forecast(clumsy, training, 60, 20, k=5, exclude=pool)


def test_other_pools_tell_their_tasks_apart():
    poles = sfe.CartPoleTasks(30, 0)
    assert len(set(poles.task_keys()) & set(sfe.CartPoleTasks(50, 0).task_keys())) == 30
    assert not set(poles.task_keys()) & set(sfe.CartPoleTasks(30, 1).task_keys())
    seeded = sfe.SeededTasks("CartPole-v1", 10, sfe.ended_early, first_seed=5)
    assert len(set(seeded.task_keys()) & set(sfe.SeededTasks("CartPole-v1", 10, sfe.ended_early).task_keys())) == 5
