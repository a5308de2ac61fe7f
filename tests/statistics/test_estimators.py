import numpy as np
import pytest
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import sb3_forecast as sf
from sb3_forecast.statistics.estimators import (
    blue_weights,
    check_sizes,
    direct_weights,
    forecast_top,
    harmonic,
    jones_forecast,
    jones_gradient,
    linear_weights,
    log_positions,
    mean_spacing,
    target_height,
)

METHODS = ("blue", "jones", "direct")
scores = st.lists(st.floats(-30, 30, allow_subnormal=False), min_size=40, max_size=60, unique=True)


def test_vectors(vectors):
    case = vectors["estimators"]
    m, n, out = case["inputs"]["m"], case["inputs"]["n"], case["outputs"]
    top = np.array(case["inputs"]["psi"])
    for name, method, target in (
        ("inv", "jones", "max"),
        ("dir", "direct", "max"),
        ("blu_max", "blue", "max"),
        ("blu_quantile", "blue", "quantile"),
    ):
        assert forecast_top(top, m, n, method, target) == pytest.approx(out[name], rel=case["rtol"])
    assert mean_spacing(top) == pytest.approx(out["sigma_bar"], rel=case["rtol"])
    tail = sf.GumbelTail.fit(np.concatenate([top, np.full(m - len(top), -9.0)]), k=10, method="jones")
    assert tail.worst_query_risk(n) == pytest.approx(out["p_hat_inv"], rel=case["rtol"])
    assert sf.log_survival_probability(tail.forecast(n)) == pytest.approx(out["log1mp_hat_inv"], rel=case["rtol"])


def test_jones_is_the_inverse_regression_of_scipy():
    top = np.sort(np.random.default_rng(0).gumbel(size=(20, 10)))[:, ::-1]
    for row in top:
        # log(j/m) regressed on the score, solved for log(1/n)
        fit = stats.linregress(row, -log_positions(10, 200))
        assert jones_forecast(row, 200, 5000) == pytest.approx((-np.log(5000) - fit.intercept) / fit.slope, rel=1e-10)
        back = stats.linregress(log_positions(10, 200), row)
        direct = forecast_top(row, 200, 5000, "direct")
        assert direct == pytest.approx(back.intercept + back.slope * np.log(5000), rel=1e-10)
        assert jones_forecast(row, 200, 5000) > direct


@settings(max_examples=50)
@given(scores, st.floats(-5, 5), st.floats(0.1, 10), st.sampled_from(METHODS), st.integers(1, 10**6))
def test_equivariance_and_permutation(values, shift, factor, method, n):
    x = np.array(values)
    tail = sf.GumbelTail.fit(x, k=10, method=method)
    moved = sf.GumbelTail.fit(shift + factor * x[::-1], k=10, method=method)
    scale = 1 + abs(tail.forecast(n)) * factor
    assert abs(moved.forecast(n) - (shift + factor * tail.forecast(n))) < 1e-8 * scale
    assert moved.scale == pytest.approx(factor * tail.scale, rel=1e-8, abs=1e-9)


@given(st.integers(2, 40), st.integers(41, 2000), st.integers(1, 10**7))
def test_weights_sum_to_one(k, m, n):
    assert direct_weights(k, m, n).sum() == pytest.approx(1.0, abs=1e-9)
    assert blue_weights(k, m, n).sum() == pytest.approx(1.0, abs=1e-9)


@settings(max_examples=30)
@given(scores, st.sampled_from(METHODS))
def test_monotone_in_deployment_size(values, method):
    tail = sf.GumbelTail.fit(np.array(values), k=10, method=method)
    forecasts = [tail.forecast(n) for n in (100, 1000, 10_000, 10**6)]
    assert forecasts == sorted(forecasts)


def test_jones_gradient_is_autograd():
    top = np.sort(np.random.default_rng(1).normal(size=(5, 12)))[:, ::-1].copy()
    x = th.from_numpy(top).requires_grad_()
    jones_forecast(x, 300, 9000).sum().backward()
    closed = jones_gradient(top, 300, 9000)
    np.testing.assert_allclose(x.grad.numpy(), closed, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(closed.sum(-1), 1.0, rtol=1e-12)  # location equivariance
    np.testing.assert_allclose((closed * top).sum(-1), jones_forecast(top, 300, 9000), rtol=1e-10)  # homogeneity


@pytest.mark.parametrize("method", METHODS)
def test_ties_give_the_common_score_and_no_spread_gradient(method):
    x = th.full((10,), 0.7, dtype=th.float64, requires_grad=True)
    forecast = forecast_top(x, 200, 5000, method)
    assert forecast.item() == 0.7
    forecast.backward()
    assert th.isfinite(x.grad).all()
    if method == "jones":
        np.testing.assert_allclose(x.grad.numpy(), 0.1)
        np.testing.assert_allclose(jones_gradient(x.detach().numpy(), 200, 5000), 0.1)


def test_numpy_torch_and_batches_agree():
    x = np.random.default_rng(2).normal(size=(4, 3, 50))
    for method in METHODS:
        batch = sf.GumbelTail.fit(x, k=10, method=method)
        torch_batch = sf.GumbelTail.fit(th.from_numpy(x), k=10, method=method)
        assert isinstance(torch_batch.forecast(1000), th.Tensor)
        np.testing.assert_allclose(torch_batch.forecast(1000).numpy(), batch.forecast(1000), rtol=1e-12)
        assert batch.forecast(1000)[2, 1] == pytest.approx(sf.GumbelTail.fit(x[2, 1], k=10, method=method).forecast(1000))


def test_blue_is_unbiased_under_an_exact_tail():
    rng = np.random.default_rng(3)
    psi = rng.exponential(size=(20_000, 100))
    realised = -np.log1p(-(rng.random(20_000) ** (1 / 1000)))  # maximum of 1000 exponentials
    errors = sf.GumbelTail.fit(psi, k=10, method="blue").forecast(1000) - realised
    assert abs(errors.mean()) < 4 * errors.std() / np.sqrt(len(errors))
    jones = sf.GumbelTail.fit(psi, k=10, method="jones").forecast(1000) - realised
    assert jones.mean() == pytest.approx(
        0.794, abs=4 * jones.std() / np.sqrt(len(jones)) + 0.006
    )  # docs/method.md section 3, row k=10, n/m=10


def test_p_zero_stays_out_of_the_top():
    x = np.concatenate([np.full(20, -np.inf), np.linspace(-3, 1, 12)])
    tail = sf.GumbelTail.fit(x, method="jones")
    assert tail.k == 8
    assert np.isfinite(tail.forecast(1000))
    with pytest.raises(ValueError, match=r"k must be from 2 to 12, since 12 of 32 scores are finite.* got 13"):
        sf.GumbelTail.fit(x, k=13)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scores": np.arange(50.0), "k": 1}, r"k must be at least 2, got 1"),
        ({"scores": np.arange(50.0), "k": 51}, r"k must be at most the evaluation set size n_eval=50, got 51"),
        ({"scores": np.append(np.arange(50.0), np.nan)}, r"scores must be numbers, got NaN"),
        ({"scores": np.append(np.arange(50.0), np.inf)}, r"scores must be below \+inf"),
        ({"scores": np.arange(50.0), "method": "magic"}, r"method must be one of .* got 'magic'"),
        ({"scores": 3.0}, r"scores must have shape .* got \(\)"),
    ],
)
def test_bad_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        sf.GumbelTail.fit(**arguments)


def test_bad_deployment():
    tail = sf.GumbelTail.fit(np.arange(50.0))
    with pytest.raises(ValueError, match="n_deploy must be at least 1, got 0"):
        tail.forecast(0)
    with pytest.raises(ValueError, match=r"target must be one of .* got 'mean'"):
        tail.forecast(10, target="mean")
    with pytest.raises(ValueError, match="level must be strictly between 0 and 1, got 90"):
        tail.interval(10, level=90)


def test_bootstrap_is_that_of_resampling():
    scores = np.random.default_rng(0).gumbel(size=200)
    tail = sf.GumbelTail.fit(scores, k=10, method="jones")
    ours = tail.bootstrap(5000, n_boot=4000)
    resampled = np.random.default_rng(1).choice(scores, size=(4000, 200))
    theirs = sf.GumbelTail.fit(resampled, k=10, method="jones").forecast(5000)
    assert stats.ks_2samp(ours, theirs).pvalue > 1e-3
    np.testing.assert_array_equal(ours, tail.bootstrap(5000, n_boot=4000))
    with pytest.raises(ValueError, match="k must be well below the number of finite scores"):
        sf.GumbelTail.fit(np.append(np.full(100, -np.inf), scores[:12]), k=10).bootstrap(100)


def test_harmonic_numbers():
    for n in (0, 1, 2, 10):
        assert harmonic(n) == pytest.approx(sum(1 / i for i in range(1, n + 1)), abs=1e-12)


def test_the_height_of_the_target():
    """Expected maximum of n exponentials less that of the k-th largest of m; the quantile is lower by Euler's constant."""
    height = target_height(5, 100, 2000)
    assert height == pytest.approx(sum(1 / i for i in range(101, 2001)) + 1 + 1 / 2 + 1 / 3 + 1 / 4)
    assert target_height(5, 100, 2000, "quantile") == pytest.approx(height + np.log(2000) - harmonic(2000))
    # the second largest is one lower in the mean, the third another half
    assert target_height(5, 100, 2000, r=2) == pytest.approx(height - 1.0)
    assert target_height(5, 100, 2000, r=3) == pytest.approx(height - 1.5)


def test_weights_of_each_method():
    assert linear_weights("direct", 5, 100, 2000) == pytest.approx(direct_weights(5, 100, 2000))
    for target in ("max", "quantile"):
        height = target_height(5, 100, 2000, target)
        assert linear_weights("blue", 5, 100, 2000, target) == pytest.approx([height / 4] * 4 + [1 - height])
    np.testing.assert_array_equal(blue_weights(5, 100, 2000), blue_weights(5, 100, 2000, "max"))
    np.testing.assert_array_equal(linear_weights("blue", 5, 100, 2000), blue_weights(5, 100, 2000, "max"))
    with pytest.raises(ValueError, match="method must be linear in the scores, got 'jones'"):
        linear_weights("jones", 5, 100, 2000)


def test_a_common_shift_costs_no_precision():
    """Differences of 1e-6 on scores of 1e8: what is fitted depends on the differences only."""
    small = np.array([3.0, 2.0, 1.0, 0.0]) * 2.0**-20
    for method in ("blue", "direct", "jones"):
        shifted = forecast_top(small + 2.0**27, 50, 1000, method) - 2.0**27
        assert shifted == pytest.approx(forecast_top(small, 50, 1000, method), rel=0.01)
    assert mean_spacing(small + 2.0**27) == mean_spacing(small)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_usual_for_a_forecast(method):
    top = np.array([3.0, 1.0, 0.5])
    assert forecast_top(top, 50, 1000) == forecast_top(top, 50, 1000, "blue", "max")
    assert forecast_top(top, 50, 1000, method) == forecast_top(top, 50, 1000, method, "max")
    if method != "blue":
        assert forecast_top(top, 50, 1000, method, "quantile") == forecast_top(top, 50, 1000, method)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, 50, 1000), "k must be at least 2, got 1"),
        ((51, 50, 1000), "k must be at most the evaluation set size n_eval=50, got 51"),
        ((2, 0, 1000), "n_eval must be at least 1, got 0"),
        ((2, 50, 0.5), r"n_deploy must be at least 1, got 0\.5"),
        ((2, 50, np.nan), "n_deploy must be at least 1, got nan"),
        ((2, 50, np.inf), "n_deploy must be finite, got inf"),
    ],
)
def test_sizes_without_a_forecast(arguments, message):
    with pytest.raises(ValueError, match=message):
        check_sizes(*arguments)


def test_the_smallest_sizes_with_a_forecast():
    check_sizes(2, 2, 1)
    assert forecast_top(np.array([1.0, 0.0]), 2, 1, "jones") == pytest.approx(0.5 + (0 - np.log(2) / 2) / np.log(2))


def test_tied_rows_of_a_batch_leave_the_others_alone():
    top = np.array([[2.0, 1.0, 0.0], [0.5, 0.5, 0.5]])
    assert jones_forecast(top, 50, 1000)[1] == 0.5
    assert jones_forecast(top, 50, 1000)[0] == pytest.approx(jones_forecast(top[0], 50, 1000))
    gradient = jones_gradient(top, 50, 1000)
    np.testing.assert_allclose(gradient[1], 1 / 3)
    np.testing.assert_allclose(gradient[0], jones_gradient(top[:1], 50, 1000)[0])
