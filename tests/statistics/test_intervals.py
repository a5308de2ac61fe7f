import numpy as np
import pytest
from scipy.special import gammaln

import sb3_forecast as sf
from sb3_forecast.statistics.intervals import beta_nodes, gamma_nodes, pivot_cdf, pivot_quantile, pivot_survival


def test_vectors(vectors):
    case = vectors["pivot_quantiles_max"]
    for row in case["outputs"]["rows"]:
        assert pivot_quantile(row["p"], row["k"], row["m"], row["n"]) == pytest.approx(row["c"], rel=case["rtol"])


def test_value_quoted_in_the_method():
    assert pivot_cdf(10.0, 10, 200, 20_000) == pytest.approx(0.75685, abs=1e-5)  # docs/method.md after eq. 30


def test_coverage_of_an_exact_tail():
    rng = np.random.default_rng(0)
    repeats = 4000
    psi = rng.exponential(size=(repeats, 200))
    realised = -np.log1p(-(rng.random(repeats) ** (1 / 20_000)))
    low, high = sf.GumbelTail.fit(psi, k=10).interval(20_000, level=0.9)
    covered = ((low <= realised) & (realised <= high)).mean()
    assert abs(covered - 0.9) < 2 * np.sqrt(0.09 / repeats)


def test_limit_below_psi_k_is_psi_k():
    assert pivot_quantile(0.05, 10, 1000, 10) == 0.0
    with pytest.raises(ValueError, match="c must be at least 0, got -1"):
        pivot_cdf(-1.0, 10, 200, 2000)


@pytest.mark.parametrize("name", ["expon", "gumbel_r", "logistic"])
def test_nominal_coverage_where_the_tail_is_exponential(name):
    """m = 500, k = 10, n = 50,000, 20,000 repeats; Gumbel and logistic are exponential only in the limit: half a point is allowed for that."""
    from scipy import stats

    rng, repeats = np.random.default_rng(4), 20_000
    tail = getattr(stats, name)
    sample = tail.isf(rng.random((repeats, 500)))
    realised = tail.isf(-np.expm1(np.log(rng.random(repeats)) / 50_000))
    low, high = sf.GumbelTail.fit(sample, k=10).interval(50_000)
    covered = ((low <= realised) & (realised <= high)).mean()
    allowed = 2 * np.sqrt(0.09 / repeats)
    assert -allowed < covered - 0.9 < allowed + (0.0 if name == "expon" else 0.009)


@pytest.mark.parametrize(("k", "n_eval"), [(2, 50), (10, 200), (40, 1000)])
def test_the_far_tail_of_the_pivot(k, n_eval):
    """With one deployment task, P(V > c) = k / (m + 1) (1 + c / (k - 1))^-(k - 1): the mean over a beta and a gamma variable in closed form."""
    for log10_p in (-0.5, -3, -6, -9, -12):
        c = (k - 1) * ((10**log10_p * 0.5) ** (-1 / (k - 1)) - 1)
        exact = k / (n_eval + 1) * (1 + c / (k - 1)) ** -(k - 1)
        assert pivot_survival(c, k, n_eval, 1) == pytest.approx(exact, rel=1e-4)


def test_cdf_and_survival_are_complements():
    for c in (0.5, 3.0, 9.0, 20.0):
        assert pivot_cdf(c, 10, 200, 3800) + pivot_survival(c, 10, 200, 3800) == pytest.approx(1.0, abs=1e-8)


@pytest.mark.parametrize("level", [1e-9, 0.5, 0.999, 1 - 1e-9, 1 - 1e-14])
def test_any_level(level):
    """Wider for a higher level, and the limit leaves half of the rest above itself, also where 1 - level is near rounding."""
    tail = sf.GumbelTail.fit(np.random.default_rng(0).gumbel(size=200), 10)
    low, high = (float(v) for v in tail.interval(3800, level))
    assert low <= high
    c = (high - float(tail.location)) / float(tail.scale)
    assert pivot_survival(c, 10, 200, 3800) == pytest.approx((1 - level) / 2, rel=0.1)


@pytest.mark.parametrize("shape", [0.5, 1.0, 9.0, 200.0])
def test_gamma_nodes_integrate(shape):
    g, weights = gamma_nodes(shape)
    for power in (0, 1, 2):
        assert weights @ g**power == pytest.approx(np.exp(gammaln(shape + power) - gammaln(shape)), rel=1e-8)


@pytest.mark.parametrize(("k", "m"), [(1, 1), (1, 50), (50, 50), (10, 200), (1, 10**12)])
def test_beta_nodes_integrate(k, m):
    u, weights = beta_nodes(k, m)
    assert weights @ u == pytest.approx(k / (m + 1), rel=1e-8)
    assert weights @ u**2 == pytest.approx(k * (k + 1) / (m + 1) / (m + 2), rel=1e-8)


@pytest.mark.parametrize("p", [1e-6, 0.3, 0.98, 0.9999, 1 - 1e-13])
def test_a_quantile_inverts_the_distribution(p):
    for sizes in ((2, 20, 5000), (10, 200, 20_000), (10, 200, 2e9)):
        c = pivot_quantile(p, *sizes)
        if c > 0.0:
            assert pivot_survival(c, *sizes) / (1 - p) == pytest.approx(1.0, rel=1e-6)
        else:
            assert pivot_cdf(0.0, *sizes) > p


@pytest.mark.parametrize("function", [pivot_cdf, pivot_survival])
def test_bad_arguments_of_the_pivot(function):
    with pytest.raises(ValueError, match="k must be at least 2, got 1"):
        function(1.0, 1, 200, 2000)
    with pytest.raises(ValueError, match=r"c must be at least 0, got -0\.5"):
        function(-0.5, 10, 200, 2000)
    assert 0.0 < function(0.0, 10, 200, 20) < 1.0


def test_bad_arguments_of_the_quantile():
    for p in (0.0, 1.0):
        with pytest.raises(ValueError, match="p must be strictly between 0 and 1"):
            pivot_quantile(p, 10, 200, 2000)
    with pytest.raises(ValueError, match="n_deploy must be at least 1, got 0"):
        pivot_quantile(0.5, 10, 200, 0)
