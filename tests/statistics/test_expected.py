"""How many of n tasks will fail: the data's own mean, with an interval over tasks."""

import numpy as np
import pytest
from scipy import stats

from sb3_forecast.statistics.expected import ExpectedFailures, expected_failures


@pytest.mark.parametrize("m", [60, 300])
def test_the_interval_covers_the_truth(m):
    """Tasks from a skewed distribution of mean 0.05, counted in 10 episodes each: 90% intervals hold in 85 to 95% of 400 samples."""
    generator = np.random.default_rng(m)
    covered = 0
    for _ in range(400):
        p = generator.binomial(10, generator.beta(0.5, 9.5, size=m)) / 10
        found = expected_failures(p, 0.9)
        covered += found.low <= 0.05 <= found.high
    assert 0.85 * 400 <= covered <= 0.95 * 400


def test_ten_episodes_of_a_task_are_not_ten_tasks():
    """One percent of the tasks always fail. Without a failure seen, the limit holds in 95% of samples, as it should."""
    generator = np.random.default_rng(0)
    held = [expected_failures((generator.random(100) < 0.01).astype(float), 0.95).high >= 0.01 for _ in range(1000)]
    assert np.mean(held) >= 0.95
    none = expected_failures(np.zeros(100), 0.95)
    assert none.high == pytest.approx(1 - 0.05**0.01)
    assert "No failure was seen. With 95% confidence at most 30,000 of 1,000,000 tasks fail" in none.sentence(1e6, 0.95)


def test_sentences_and_many_tasks():
    many = expected_failures(np.r_[np.ones(200), np.zeros(19_800)], 0.9)
    assert (many.low, many.mean, many.high) == pytest.approx((0.0088708, 0.01, 0.0112367), abs=1e-6)
    assert (
        many.sentence(1e6, 0.9)
        == "Expect about 10,000 failures in 1,000,000 tasks, each tried once (90% interval: 8,900 to 11,000)."
    )
    rare = expected_failures(np.full(50, 1e-9))
    assert rare.sentence(1e6, 0.9).startswith("Expect about 0.001 failures in 1,000,000 tasks")
    assert expected_failures(np.array([0.5])).high == 0.5


def test_the_same_seed_gives_the_same_interval():
    p = np.random.default_rng(1).beta(0.5, 5, size=50)
    assert expected_failures(p, seed=3) == expected_failures(p, seed=3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0.1, 1.2],), r"p must be in \[0, 1\], got 1.2"),
        (([0.1, np.nan],), "p must be numbers below"),
        (([],), r"p must have shape \(m,\)"),
        (([0.1], 1.0), "level must be strictly between 0 and 1, got 1.0"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        expected_failures(*arguments)


def test_probabilities_of_any_size_have_an_interval():
    """The interval scales with the probabilities, also where their cubes underflow."""
    p = np.array([0.1, 0.1, 0.0, 0.4])
    usual, tiny = expected_failures(p), expected_failures(p * 1e-180)
    assert tiny.low == pytest.approx(usual.low * 1e-180)
    assert tiny.high == pytest.approx(usual.high * 1e-180)


@pytest.mark.parametrize("p", [np.zeros(7), np.full(7, 0.2), np.linspace(0, 1, 7), np.r_[np.ones(3), np.zeros(10_000)]])
def test_the_number_of_tasks_is_told(p):
    found = expected_failures(p)
    assert found.n_eval == len(p)
    assert 0.0 <= found.low <= found.mean <= found.high <= 1.0


def test_limits_of_many_tasks_are_shares():
    high = expected_failures(np.r_[np.ones(10_000), [0.5]])
    low = expected_failures(np.r_[np.zeros(10_000), [0.5]])
    assert (high.high, low.low) == (1.0, 0.0)
    assert high.low < high.mean < 1.0
    assert 0.0 < low.mean < low.high


def test_single_episodes_are_binomial():
    """Outcomes of 0 and 1 have the exact interval, whose ends are quantiles of the beta distribution."""
    found = expected_failures(np.r_[np.ones(3), np.zeros(197)])
    assert (found.low, found.high) == pytest.approx((stats.beta.ppf(0.05, 3, 198), stats.beta.ppf(0.95, 4, 197)))
    every = expected_failures(np.ones(50))
    assert (every.mean, every.high) == (1.0, 1.0)
    assert every.low == pytest.approx(0.05 ** (1 / 50))


def test_equal_values_have_no_spread():
    found = expected_failures(np.full(5, 0.3))
    assert (found.low, found.high) == (found.mean, found.mean) == (pytest.approx(0.3),) * 2


def test_the_bootstrap_is_that_of_a_skewed_mean():
    """One failure in 20 tasks: BCa puts more above the mean than below it, and a higher level widens both."""
    p = np.r_[1.0, np.zeros(19)]
    usual, wide = expected_failures(p), expected_failures(p, 0.99)
    assert usual == expected_failures(p, 0.9, 0)
    assert usual.mean == 0.05
    assert usual.high - 0.05 > 0.05 - usual.low
    assert wide.high > usual.high


def test_another_seed_gives_another_interval():
    p = np.random.default_rng(1).beta(0.5, 5, size=50)
    assert expected_failures(p, seed=3) != expected_failures(p, seed=4)
    with pytest.raises(ValueError, match="seed must be at least 0, got -1"):
        expected_failures(p, seed=-1)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (9.99, "about 10 failures"),
        (9.5, "about 9.5 failures"),
        (10.0, "about 10 failures"),
        (123_456, "about 120,000 failures"),
    ],
)
def test_numbers_have_two_digits(count, text):
    assert text in ExpectedFailures(count / 1e6, 0.0, 1.0, 5).sentence(1e6, 0.9)


@pytest.mark.parametrize("value", [-0.1, 1.1])
def test_shares_only(value):
    with pytest.raises(ValueError, match=rf"p must be in \[0, 1\], got {value}"):
        expected_failures(np.array([0.0, value, 1.0]))
    assert expected_failures(np.array([0.0, 1.0])).mean == 0.5
