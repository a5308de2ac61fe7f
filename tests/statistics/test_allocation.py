"""Adaptive counting: where the next episodes go, and what may be said of them afterwards."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sb3_forecast.statistics.allocation import Design, failure_means, further_episodes
from sb3_forecast.statistics.counts import CountTail


def variance(failures, trials, extra):
    """Sum of the variances of the tasks' means after further episodes."""
    means = failure_means(failures, trials)
    return float((means * (1.0 - means) / (1.0 + trials + extra)).sum())


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=3),
    st.integers(1, 12),
)
def test_no_other_allocation_is_better_by_more_than_rounding(rows, episodes):
    failures = np.array([min(pair) for pair in rows])
    trials = np.maximum(np.array([max(pair) for pair in rows]), 1)
    extra = further_episodes(failures, trials, episodes)
    assert extra.sum() == episodes
    assert (extra >= 0).all()
    best = min(
        variance(failures, trials, np.array(other))
        for other in itertools.product(range(episodes + 1), repeat=3)
        if sum(other) == episodes
    )
    # the rule is optimal for real numbers; rounding moves less than one episode of each task
    fewer = min(
        variance(failures, trials, np.array(other))
        for other in itertools.product(range(episodes + 1), repeat=3)
        if sum(other) == max(episodes - 2, 0)
    )
    assert best <= variance(failures, trials, extra) <= fewer + 1e-12


def test_tasks_that_failed_are_played_more():
    failures, trials = np.array([0, 1, 0, 3, 0, 0]), np.array([1, 1, 1, 4, 1, 1])
    extra = further_episodes(failures, trials, 20)
    assert extra.sum() == 20
    assert extra[1] > max(extra[[0, 2, 4, 5]])
    assert extra[1] > extra[3]  # which is known better already


def test_where_nothing_failed_all_are_alike():
    extra = further_episodes(np.zeros(10, dtype=int), np.ones(10, dtype=int), 7)
    np.testing.assert_array_equal(np.sort(extra), [0, 0, 0, 1, 1, 1, 1, 1, 1, 1])


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_certain_outcomes(p):
    failures, trials, first = Design(2, 500).simulate(np.full(100, p), np.random.default_rng(0))
    np.testing.assert_array_equal(failures, p * trials)
    np.testing.assert_array_equal(first, 2 * p)
    assert trials.sum() == 500
    assert np.ptp(trials) <= 1


def test_the_first_episodes_have_no_bias_but_all_have():
    """2 in 100 tasks' mean, measured 400 times. Tasks that failed by chance are played again, so the shares of all episodes are too low."""
    generator, design = np.random.default_rng(0), Design(1, 400)
    means, pooled = [], []
    for _ in range(400):
        failures, trials, first = design.simulate(generator.beta(0.5, 24.5, 300), generator)
        assert trials.sum() == 400
        means.append(first.mean())
        pooled.append((failures / trials).mean())
    error = np.std(means) / 20
    assert abs(np.mean(means) - 0.02) < 3 * error
    assert np.mean(pooled) < 0.02 - 10 * np.std(pooled) / 20


def test_the_likelihood_does_not_mind_the_choice():
    design, generator = Design(1, 60_000), np.random.default_rng(1)
    failures, trials, _ = design.simulate(generator.beta(0.3, 6.0, 30_000), generator)
    tail = CountTail.fit(failures, trials, design=design)
    assert (tail.a, tail.b) == pytest.approx((0.3, 6.0), rel=0.15)
    # repetitions of the counting repeat the choice
    again, chosen = tail.sample(generator)
    assert chosen.sum() == 60_000
    assert not np.array_equal(np.sort(chosen), np.sort(trials))
    assert (again[chosen > 5] > 0).mean() > 0.95  # they are played again because they failed
    assert tail.refit(again, chosen).design is design


def test_one_failing_task_in_five_hundred():
    design, generator = Design(1, 2000), np.random.default_rng(3)
    p = np.where(np.arange(1500) % 100 == 0, 0.95, 0.0)
    failures, trials, _ = design.simulate(p, generator)
    assert trials[p > 0].mean() > 10
    low, high = CountTail.fit(failures, trials, design=design).interval(1000, n_boot=30)
    assert low < high


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((0, 5), "first must be at least 1, got 0"), ((1, 0), "budget must be at least 1, got 0")],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        Design(*arguments)


def test_a_budget_that_does_not_reach_every_task():
    with pytest.raises(ValueError, match=r"budget must be at least episodes x tasks = 20, .* got 19; use fewer tasks"):
        Design(2, 19).check(10)
    assert list(Design(2, 20).rounds(10)) == []
    assert list(Design(1, 20).rounds(10)) == [2, 2, 3, 3]
