import itertools

import numpy as np
import pytest
from scipy.stats import hypergeom

import sb3_forecast as sf
from sb3_forecast import conformal


def test_vectors(vectors):
    case = vectors["conformal"]
    for arguments, expected in zip(case["inputs"]["cases"], case["outputs"]["P"], strict=True):
        assert sf.exceedance_probability(*arguments) == pytest.approx(expected, rel=case["rtol"])


def test_largest_score_in_closed_form():
    assert sf.exceedance_probability(100, 1000, 1) == pytest.approx(1000 / 1100)  # docs/method.md eq. 32, j = 1


@pytest.mark.parametrize("draw", ["normal", "standard_cauchy"])
def test_counts_cover_whatever_the_distribution(draw):
    rng = np.random.default_rng(0)
    low, high = conformal.exceedance_count_interval(100, 1000, 5, level=0.9)
    counts, below = [], 0
    for _ in range(4000):
        x = getattr(rng, draw)(size=1100)
        evaluation = np.sort(x[:100])[::-1]
        counts.append((x[100:] > evaluation[4]).sum())
        below += conformal.lower_bound(x[:100], 1000, 0.9) < x[100:].max()
    covered = np.mean([(low <= c <= high) for c in counts])
    assert 0.9 - 2 * np.sqrt(0.09 / 4000) < covered < 0.93
    assert below / 4000 > 0.9 - 2 * np.sqrt(0.09 / 4000)


def test_upper_bound_exists_only_for_small_deployments():
    scores = np.arange(1000.0)
    assert conformal.upper_bound(scores, 52, 0.95) == 999.0  # docs/method.md after eq. 34
    assert conformal.upper_bound(scores, 111, 0.9) == 999.0
    with pytest.raises(
        ValueError,
        match=r"n_deploy must be at most 52 for an upper bound.*got 53.*GumbelTail.interval",
    ):
        conformal.upper_bound(scores, 53, 0.95)
    # the bound holds: P(max of 52 exceeds the best of 1000) = 52 / 1052 < 5%
    assert sf.exceedance_probability(1000, 52, 1) < 0.05 < sf.exceedance_probability(1000, 53, 1)


def test_no_lower_bound_from_too_few():
    assert conformal.lower_bound(np.array([1.0]), 1, 0.9) == -np.inf


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((10, 5, 11), "j must be a rank among the 10 evaluation scores, got 11"),
        ((10, 5, 0), "j must be a rank .* got 0"),
        ((10, 5, 1, 6), "r must be .* got 6"),
        ((0, 5, 1), "n_eval must be at least 1, got 0; use a number of tasks"),
        ((10, 2.5, 1), r"n_deploy must be a whole number, got 2\.5"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        sf.exceedance_probability(*arguments)


@pytest.mark.parametrize(("n_eval", "n_deploy", "j"), [(100, 150_000, 5), (2_000, 110_000, 40), (50, 10_000_000, 1)])
def test_counts_of_large_deployments(n_eval, n_deploy, j):
    """The quadrature that large sizes use, against the hypergeometric distribution."""
    for r in (2, n_deploy // (2 * n_eval) + 2, n_deploy * j // n_eval, 3 * n_deploy * j // n_eval):
        exact = hypergeom.cdf(j - 1, n_eval + n_deploy, n_eval, j + r - 1)
        assert conformal.exceedance_probability(n_eval, n_deploy, j, r) == pytest.approx(exact, abs=1e-7)


def test_counts_of_a_million_and_a_trillion():
    low, high = conformal.exceedance_count_interval(1_000_000, 10**12, 1000)
    # 1000 of a million, times a million, and two standard errors of it
    assert (low, high) == pytest.approx((1e9 * (1 - 1.645 / 1000**0.5), 1e9 * (1 + 1.645 / 1000**0.5)), rel=0.01)


def test_the_lower_bound_is_the_first_rank_that_is_exceeded():
    scores = np.random.default_rng(0).gumbel(size=300)
    for n_deploy, level in ((10, 0.5), (300, 0.9), (5000, 0.99)):
        ranks = [j for j in range(1, 301) if conformal.exceedance_probability(300, n_deploy, j) >= level]
        assert conformal.lower_bound(scores, n_deploy, level) == np.sort(scores)[::-1][ranks[0] - 1]


@pytest.mark.parametrize(("n_eval", "n_deploy", "j"), [(5, 4, 2), (6, 3, 6), (3, 7, 1)])
def test_counts_by_enumeration(n_eval, n_deploy, j):
    """Every way to choose the evaluation ranks among all is equally likely."""
    counts = [chosen[j - 1] - (j - 1) for chosen in itertools.combinations(range(n_eval + n_deploy), n_eval)]
    for r in range(1, n_deploy + 1):
        assert conformal.exceedance_probability(n_eval, n_deploy, j, r) == pytest.approx(np.mean(np.array(counts) >= r))


@pytest.mark.parametrize("level", [0.5, 0.9, 0.99])
def test_an_interval_of_a_count_is_the_shortest_that_its_level_allows(level):
    """Below and above it lies at most (1 - level) / 2 each; one count less on either side would be too much."""
    m, n, j, alpha = 40, 60, 4, (1 - level) / 2
    low, high = conformal.exceedance_count_interval(m, n, j, level)

    def at_least(r):
        return 1.0 if r == 0 else 0.0 if r > n else conformal.exceedance_probability(m, n, j, r)

    assert 1 - at_least(low) <= alpha < 1 - at_least(low + 1)
    assert at_least(high + 1) <= alpha < at_least(high)


def test_the_usual_levels_are_90_percent():
    scores = np.random.default_rng(0).gumbel(size=300)
    assert conformal.exceedance_count_interval(40, 60, 4) == conformal.exceedance_count_interval(40, 60, 4, 0.9)
    assert conformal.upper_bound(scores, 33) == scores.max()
    assert conformal.lower_bound(scores, 500) == conformal.lower_bound(scores, 500, 0.9)


def test_a_count_may_be_none_or_all():
    assert conformal.exceedance_count_interval(5, 3, 1, 0.9)[0] == 0
    assert conformal.exceedance_count_interval(5, 3, 5, 0.5)[1] == 3
    with pytest.raises(ValueError, match="j must be a rank among the 40"):
        conformal.exceedance_count_interval(40, 60, 41)
    with pytest.raises(ValueError, match="level must be strictly between"):
        conformal.exceedance_count_interval(40, 60, 4, 1.0)


def test_the_bound_that_does_not_exist_says_how_many_tasks_would_give_it():
    with pytest.raises(ValueError, match=r"evaluate at least 900 tasks") as caught:
        conformal.upper_bound(np.arange(50.0), 100, 0.9)
    assert "n_deploy must be at most 5 for" in str(caught.value)
    for bound in (conformal.upper_bound, conformal.lower_bound):
        with pytest.raises(ValueError, match="n_deploy must be at least 1, got 0"):
            bound(np.arange(50.0), 0)
        with pytest.raises(ValueError, match="level must be strictly between"):
            bound(np.arange(50.0), 1, 0.0)


def test_the_lower_bound_holds_at_exactly_its_level():
    """One of two deployment scores exceeds the better of 2 evaluation scores with probability 1/2."""
    assert conformal.lower_bound(np.array([3.0, 1.0]), 2, 0.5) == 3.0
    assert conformal.lower_bound(np.array([3.0, 1.0]), 2, 0.5001) == 1.0
    assert conformal.lower_bound(np.array([3.0, 1.0]), 1e6, 0.9) == 3.0


def test_sizes_may_be_written_as_floats():
    assert conformal.exceedance_probability(1e2, 1e3, 3) == conformal.exceedance_probability(100, 1000, 3)
