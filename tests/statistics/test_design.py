"""Estimates from samples with known inclusion probabilities."""

import numpy as np
import pytest

from sb3_forecast.statistics.design import (
    Round,
    draw,
    estimate_total,
    inclusion_probabilities,
    round_weights,
)


def test_inclusion_is_in_proportion_and_at_most_one():
    inclusion = inclusion_probabilities(np.array([8.0, 1.0, 1.0, 2.0, 0.0]), 3)
    np.testing.assert_allclose(inclusion, [1.0, 0.5, 0.5, 1.0, 0.0])
    np.testing.assert_allclose(inclusion_probabilities(np.array([1.0, 3.0]), 1), [0.25, 0.75])


def test_capping_goes_on_until_nothing_is_above_one():
    inclusion = inclusion_probabilities(np.array([100.0, 10.0, 1.0, 1.0]), 3)
    np.testing.assert_allclose(inclusion, [1.0, 1.0, 0.5, 0.5])


def test_a_sample_larger_than_the_weights_allow():
    with pytest.raises(ValueError, match="weights must be positive for at least size=3 tasks, got 2"):
        inclusion_probabilities(np.array([1.0, 0.0, 2.0]), 3)


def test_draws_have_the_size_and_the_frequencies_that_were_asked_for():
    generator = np.random.default_rng(0)
    inclusion = np.array([1.0, 0.9, 0.5, 0.3, 0.2, 0.1, 0.0])
    drawn = [draw(inclusion, generator) for _ in range(4000)]
    assert {len(tasks) for tasks in drawn} == {3}
    assert all(len(set(tasks.tolist())) == 3 for tasks in drawn)
    shares = np.bincount(np.concatenate(drawn), minlength=7) / 4000
    # five standard errors
    np.testing.assert_allclose(shares, inclusion, atol=5 * 0.5 / np.sqrt(4000))
    assert shares[6] == 0.0


def test_the_first_round_counts_half_and_the_weights_sum_to_one():
    weights = round_weights([10, 10, 20], 10**9)
    np.testing.assert_allclose(weights, [1 / 7, 2 / 7, 4 / 7], rtol=1e-6)
    np.testing.assert_allclose(round_weights([5], 100), [1.0])


def test_a_round_that_takes_the_rest_knows_the_total():
    np.testing.assert_allclose(round_weights([5, 5, 10], 20), [0.0, 0.0, 1.0])
    values = np.arange(20) / 20
    rounds = [Round(np.arange(10), np.full(10, 0.5), 0.5), Round(np.arange(10, 20), np.ones(10), 1.0)]
    found = estimate_total(rounds, [values[:10], values[10:]], 20)
    assert (found.value, found.low, found.high) == pytest.approx((values.sum(),) * 3)


def test_a_later_round_of_a_small_population_knows_more():
    """Half of the 40 tasks are left to the second round: 10 of 20 say more than 10 of 40."""
    weights = round_weights([20, 10], 40)
    assert weights[1] / weights[0] == pytest.approx((10 / (20 * 10)) / (0.5 * 20 / (40 * 20)))


def test_probabilities_below_1e_160_have_limits():
    """Their squares are 0 in float64."""
    n, size = 1000, 100
    tasks = np.arange(size)
    rounds = [Round(tasks, np.full(size, size / n), size / n)]
    values = np.random.default_rng(0).random(size)
    for like_seen in (False, True):
        usual, tiny = (estimate_total(rounds, [values * scale], n, like_seen=like_seen) for scale in (1e-3, 1e-200))
        assert tiny.value == pytest.approx(usual.value * 1e-197)
        assert np.isfinite(tiny.high)
    assert (tiny.low, tiny.high) == pytest.approx((usual.low * 1e-197, usual.high * 1e-197))


def two_rounds(generator, values):
    """A first round by chance, a second that hunts for what the first made likely: here, the right neighbours of high values."""
    n = len(values)
    first = inclusion_probabilities(np.ones(n), 10)
    one = draw(first, generator)
    weights = np.ones(n)
    weights[(one[values[one] > 0.2] + 1) % n] = 20.0
    weights[one] = 0.0
    second = inclusion_probabilities(weights, 10)
    two = draw(second, generator)
    left = np.setdiff1d(np.arange(n), one)
    return [Round(one, first[one], float(first.min())), Round(two, second[two], float(second[left].min()))], one, two


def test_the_estimate_is_unbiased_and_its_interval_holds_although_choices_depend_on_what_was_seen():
    generator = np.random.default_rng(1)
    values = np.where(generator.random(60) < 0.3, generator.random(60), 0.01)
    estimates, held = [], 0
    for _ in range(4000):
        rounds, one, two = two_rounds(generator, values)
        found = estimate_total(rounds, [values[one], values[two]], 60)
        estimates.append(found.value)
        held += found.low <= values.sum() <= found.high
    error = np.std(estimates) / np.sqrt(4000)
    assert abs(np.mean(estimates) - values.sum()) < 4 * error
    assert held / 4000 > 0.93


def test_all_tasks_scored_leave_no_doubt():
    values = np.array([0.5, 0.1, 0.0])
    found = estimate_total([Round(np.arange(3), np.ones(3), 1.0)], [values], 3)
    assert (found.value, found.low, found.high) == pytest.approx((0.6, 0.6, 0.6))


def test_nothing_found_has_the_limit_of_the_rule_of_three():
    """With nothing in u tasks by chance the 97.5% limit of the share is 3.69 / u."""
    n, size = 10_000, 500
    inclusion = inclusion_probabilities(np.ones(n), size)
    tasks = np.arange(size)
    found = estimate_total([Round(tasks, inclusion[tasks], float(inclusion.min()))], [np.zeros(size)], n)
    assert (found.value, found.low) == (0.0, 0.0)
    assert found.high == pytest.approx(3.689 / 500 * n, rel=1e-3)


def test_what_is_like_the_seen_has_a_narrower_limit():
    n, size = 10_000, 500
    tasks = np.arange(size)
    rounds = [Round(tasks, np.full(size, size / n), size / n)]
    values = np.full(size, 1e-3)
    wide, narrow = (estimate_total(rounds, [values], n, like_seen=like) for like in (False, True))
    assert narrow.high < 1.01 * narrow.value
    assert wide.high > 5 * wide.value


def test_limits_lie_between_what_was_found_and_what_is_possible():
    generator = np.random.default_rng(2)
    values = (generator.random(60) < 0.5).astype(float)
    for _ in range(50):
        rounds, one, two = two_rounds(generator, values)
        found = estimate_total(rounds, [values[one], values[two]], 60)
        seen = values[one].sum() + values[two].sum()
        assert seen <= found.low <= found.high <= 60 - 20 + seen
