import numpy as np
import pytest
import torch as th
from scipy import integrate

import sb3_forecast as sf
from sb3_forecast.statistics.risk import clopper_pearson, log_aggregate_risk, log_mean_beyond, umvu_frequency


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
