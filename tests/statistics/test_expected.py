"""How many of n tasks will fail: the data's own mean, with an interval over tasks."""

import numpy as np
import pytest

from sb3_forecast.statistics.expected import expected_failures


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
    assert (many.low, many.mean, many.high) == pytest.approx((0.0088427, 0.01, 0.0111573), abs=1e-6)
    assert (
        many.sentence(1e6, 0.9)
        == "Expect about 10,000 failures in 1,000,000 tasks, each tried once (90% interval: 8,800 to 11,000)."
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
