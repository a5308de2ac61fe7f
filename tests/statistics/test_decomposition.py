import numpy as np
import pytest
import torch as th
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sb3_forecast as sf
from sb3_forecast.statistics.bias import expected_ratio, ideal_error
from sb3_forecast.statistics.estimators import direct_weights, forecast_top, harmonic


def test_vectors(vectors):
    case = vectors["decomposition"]
    inputs, out = case["inputs"], case["outputs"]
    scores = np.concatenate([inputs["psi"], np.full(inputs["m"] - 10, -8.0)])
    for target in ("max", "quantile"):
        terms = sf.decompose(scores, inputs["n"], inputs["target"], k=10, method="jones", target=target)
        expected = out[f"{target}_inv"]
        for name, key in (
            ("universal", "U"), ("curvature", "C"), ("inflation", "I"), ("extension", "X"), ("total", "total"), ("scale", "sigma"),
        ):  # fmt: skip
            assert getattr(terms, name) == pytest.approx(expected[key], rel=case["rtol"])


@settings(max_examples=60)
@given(
    st.lists(st.floats(-20, 20).map(lambda score: round(score, 12)), min_size=20, max_size=40),
    st.integers(2, 15),
    st.integers(1, 10**6),
    st.floats(-30, 30),
    st.sampled_from(["jones", "direct", "blue"]),
    st.sampled_from(["max", "quantile"]),
)
def test_identity_for_any_scores(values, k, n, observed, method, target):
    terms = sf.decompose(np.array(values), n, observed, k=k, method=method, target=target)
    size = max(abs(terms.universal), abs(terms.curvature), abs(terms.inflation), abs(terms.extension), 1.0)
    assert abs(terms.universal + terms.curvature + terms.inflation - terms.extension - terms.total) < 1e-10 * size
    if method == "blue":
        assert abs(terms.universal) + abs(terms.curvature) + abs(terms.inflation) < 1e-9 * size


@settings(suppress_health_check=[HealthCheck.too_slow])  # how fast a busy machine draws is not the point
@given(st.lists(st.floats(-20, 20).map(lambda score: round(score, 12)), min_size=20, max_size=40), st.integers(3, 15))
def test_inflation_is_not_negative_for_deployments_at_least_as_large(values, k):
    assert sf.decompose(np.array(values), len(values), 0.0, k=k).inflation >= -1e-9


def test_inflation_flips_for_small_deployments():
    scores = np.random.default_rng(0).normal(size=100)
    assert sf.decompose(scores, 1, 0.0, k=10).inflation < 0  # docs/method.md section 9, trap 5


def test_torch_and_batches():
    scores = np.random.default_rng(0).gumbel(size=(3, 50))
    observed = np.array([3.0, 4.0, 5.0])
    batch = sf.decompose(scores, 1000, observed, k=8)
    tensor = sf.decompose(th.from_numpy(scores), 1000, th.from_numpy(observed), k=8)
    np.testing.assert_allclose(tensor.extension.numpy(), batch.extension)
    assert batch.total[1] == pytest.approx(sf.decompose(scores[1], 1000, 4.0, k=8).total)


@pytest.mark.parametrize(
    ("k", "kappa", "c0", "kappa_direct", "c0_direct"),
    [
        (5, 0.4364, 0.6697, 0.2948, 0.5341),
        (10, 0.3178, 0.6392, 0.2067, 0.4715),
        (20, 0.2187, 0.5597, 0.1410, 0.3952),
        (63, 0.1097, 0.3901, 0.0713, 0.2677),
    ],
)
def test_bias_law_of_the_method(k, kappa, c0, kappa_direct, c0_direct):
    jones, direct = sf.bias_constants(k, 1000, 10_000), sf.bias_constants(k, 1000, 10_000, "direct")
    assert (jones.slope, jones.intercept) == pytest.approx((kappa, c0), abs=6e-5)
    assert (direct.slope, direct.intercept) == pytest.approx((kappa_direct, c0_direct), abs=6e-5)
    assert jones.quantile == pytest.approx(jones.intercept + jones.slope * np.log(10), rel=1e-9)
    assert sf.bias_constants(k, 1000, 10_000, "blue").maximum == 0.0


#: docs/method.md section 3: k, n/m, bias vs E M, sd of Jones, P(Jones > M), P(BLU > M) at m = 1000
TABLE = [(5, 10, 1.097, 3.118, 0.587, 0.465), (10, 100, 1.525, 3.707, 0.617, 0.475), (20, 1000, 1.493, 3.625, 0.624, 0.485)]


@pytest.mark.parametrize(("k", "ratio", "bias", "sd", "jones_over", "blue_over"), TABLE)
def test_table_of_the_method_by_simulation(k, ratio, bias, sd, jones_over, blue_over):
    """40,000 exact tails, within 4 Monte Carlo standard errors plus the table's last digit."""
    rng, m, repeats = np.random.default_rng(k), 1000, 40_000
    # Renyi: top k order statistics of m exponentials, and the maximum of n
    low = -np.log(rng.beta(k, m - k + 1, size=repeats))  # psi_k
    top = np.sort(rng.exponential(size=(repeats, k - 1)), axis=1)[:, ::-1] + low[:, None]
    top = np.concatenate([top, low[:, None]], axis=1)
    realised = -np.log(-np.expm1(np.log(rng.random(repeats)) / (m * ratio)))
    jones, blue = (forecast_top(top, m, m * ratio, method) for method in ("jones", "blue"))
    error = jones - realised
    assert error.mean() == pytest.approx(bias, abs=4 * error.std() / np.sqrt(repeats) + 0.006)
    assert error.mean() == pytest.approx(sf.bias_constants(k, m, m * ratio).maximum, abs=4 * error.std() / np.sqrt(repeats))
    assert jones.std() == pytest.approx(sd, rel=0.03)
    half = 4 * 0.5 / np.sqrt(repeats) + 5e-4
    assert (error > 0).mean() == pytest.approx(jones_over, abs=half)
    assert (blue > realised).mean() == pytest.approx(blue_over, abs=half)


@pytest.mark.parametrize(("shift", "error", "under"), [(12, -1.33, 0.68), (16, -5.26, 0.91)])
def test_missed_mode_under_predicts(shift, error, under):
    """docs/method.md section 3, rare mode: m = 1000, n = 1e5, k = 10, rho = 1e-4, evaluation free of the mode."""
    rng, m, n, k, repeats = np.random.default_rng(shift), 1000, 100_000, 10, 20_000
    low = -np.log(rng.beta(k, m - k + 1, size=repeats))
    top = np.concatenate(
        [np.sort(rng.exponential(size=(repeats, k - 1)), axis=1)[:, ::-1] + low[:, None], low[:, None]], axis=1
    )
    rare = rng.binomial(n, 1e-4, size=repeats)
    common_max = -np.log(-np.expm1(np.log(rng.random(repeats)) / (n - rare)))
    with np.errstate(divide="ignore"):
        rare_max = np.where(rare > 0, shift - np.log(-np.expm1(np.log(rng.random(repeats)) / np.maximum(rare, 1))), -np.inf)
    errors = forecast_top(top, m, n, "jones") - np.maximum(common_max, rare_max)
    promised = sf.missed_mode(1e-4, shift, k, m, n)
    assert errors.mean() == pytest.approx(
        promised.error_if_missed, abs=4 * errors.std() / np.sqrt(repeats) + 0.1
    )  # eq. 23: rho n >> 1
    assert errors.mean() == pytest.approx(error, abs=4 * errors.std() / np.sqrt(repeats) + 0.1)
    assert (errors < 0).mean() == pytest.approx(under, abs=0.02)
    assert promised.miss_probability == pytest.approx(0.905, abs=5e-4)
    assert promised.tolerable_shift < shift


def test_expected_ratio_against_simulation():
    rng, repeats = np.random.default_rng(0), 400_000
    spacings = rng.exponential(size=(repeats, 9)) / np.arange(1, 10)
    psi = np.concatenate([np.cumsum(spacings[:, ::-1], axis=1)[:, ::-1], np.zeros((repeats, 1))], axis=1)
    t = np.log(500 / np.arange(1, 11))
    centred = psi - psi.mean(1, keepdims=True)
    ratio = (centred**2).sum(1) / (centred * (t - t.mean())).sum(1)
    assert expected_ratio(10, 500) == pytest.approx(ratio.mean(), abs=4 * ratio.std() / np.sqrt(repeats))


@pytest.mark.parametrize("arguments", [(0.0, 5.0), (1.0, 5.0), (0.1, -1.0)])
def test_bad_modes(arguments):
    with pytest.raises(ValueError, match=r"mass must be|shift must be"):
        sf.missed_mode(*arguments, 10, 1000, 10_000)


def test_each_term_of_a_batch_is_that_of_its_row():
    rng = np.random.default_rng(6)
    scores, observed = rng.gumbel(size=(3, 50)), np.array([3.0, 4.0, 5.0])
    for method in ("jones", "direct", "blue"):
        for target in ("max", "quantile"):
            batch = sf.decompose(scores, 1000, observed, 8, method, target)
            tensor = sf.decompose(th.from_numpy(scores), 1000, observed, 8, method, target)
            for i in range(3):
                one = sf.decompose(scores[i], 1000, observed[i], 8, method, target)
                for name in ("universal", "curvature", "inflation", "extension", "total", "scale"):
                    assert getattr(batch, name)[i] == pytest.approx(getattr(one, name), abs=1e-12)
                    assert float(getattr(tensor, name)[i]) == pytest.approx(getattr(one, name), abs=1e-12)


def test_what_is_observed_may_be_of_the_other_kind():
    scores = np.random.default_rng(0).gumbel(size=50)
    a = sf.decompose(scores, 1000, th.tensor(4.0, requires_grad=True), k=8)
    assert isinstance(a.total, np.float64)
    assert a == sf.decompose(scores, 1000, 4.0, k=8)


def test_the_usual_decomposition_is_that_of_jones_and_the_maximum():
    scores = np.random.default_rng(0).gumbel(size=200)
    assert sf.decompose(scores, 1000, 4.0) == sf.decompose(scores, 1000, 4.0, sf.GumbelTail.fit(scores).k, "jones", "max")


def test_nothing_observed():
    with pytest.raises(ValueError, match="observed must be a number, got NaN"):
        sf.decompose(np.arange(50.0), 1000, np.nan)


def test_the_terms_of_a_linear_forecast_by_their_formula():
    """docs/method.md eq. 11 to 13, spacing by spacing."""
    scores = -np.sort(-np.random.default_rng(7).gumbel(size=40))
    k, m, n, observed = 5, 40, 300, 2.0
    terms = sf.decompose(scores, n, observed, k, "direct")
    top, weights = scores[:k], direct_weights(k, m, n)
    spacings = [i * (top[i - 1] - top[i]) for i in range(1, k)]
    sigma = sum(spacings) / (k - 1)
    cumulative = [sum(weights[:i]) / i for i in range(1, k)]
    height = harmonic(n) - harmonic(m) + harmonic(k - 1)
    assert terms.scale == pytest.approx(sigma)
    assert terms.universal == pytest.approx(sigma * (sum(cumulative) - height))
    assert terms.curvature == pytest.approx(sum(c * (d - sigma) for c, d in zip(cumulative, spacings, strict=True)))
    assert terms.inflation == 0.0
    assert terms.extension == pytest.approx(observed - top[-1] - height * sigma)
    assert terms.total == pytest.approx(weights @ top - observed)


@pytest.mark.parametrize("n", [100, 5000])
def test_the_bias_of_the_unbiased_forecast(n):
    """Against the expected maximum none; against the 1/n quantile what lies between the two."""
    found = sf.bias_constants(10, 200, n, "blue")
    assert (found.intercept, found.slope, found.maximum) == (pytest.approx(harmonic(200) - np.log(200)), 0.0, 0.0)
    assert found.quantile == pytest.approx(harmonic(n) - np.log(n))


@pytest.mark.parametrize("method", ["jones", "direct"])
def test_the_biases_differ_by_that_of_the_maximum(method):
    found = sf.bias_constants(10, 200, 5000, method)
    assert found.maximum == pytest.approx(found.quantile - (harmonic(5000) - np.log(5000)))
    assert found.quantile == pytest.approx(found.intercept + found.slope * np.log(25))
    assert sf.bias_constants(10, 200, 5000) == sf.bias_constants(10, 200, 5000, "jones")
    with pytest.raises(ValueError, match="method must be one of"):
        sf.bias_constants(10, 200, 5000, "magic")
    with pytest.raises(ValueError, match="n_deploy must be at least 1"):
        sf.bias_constants(10, 200, 0)


def test_the_ratio_of_two_scores_in_closed_form():
    """With k = 2 the regression goes through both points: S_xx / S_xt = (psi_1 - psi_2) / log 2, of mean 1 / log 2."""
    assert expected_ratio(2, 50) == pytest.approx(1 / np.log(2), rel=1e-8)
    with pytest.raises(ValueError, match="k must be at least 2"):
        expected_ratio(1, 50)


@pytest.mark.parametrize("method", ["blue", "jones"])
def test_the_error_of_an_ideal_tail_by_drawing_its_scores(method):
    """In a small evaluation set, where the distribution of psi_k differs most from its limit."""
    rng, repeats = np.random.default_rng(8), 100_000
    psi = -np.sort(-rng.exponential(size=(repeats, 8)), axis=1)[:, :6]
    scale = (psi[:, :5] - psi[:, 5:]).sum(1) / 5
    errors = np.abs((forecast_top(psi, 8, 900, method) + np.log(-np.expm1(np.log(rng.random(repeats)) / 900))) / scale)
    assert ideal_error(6, 8, 900, method) == pytest.approx(errors.mean(), abs=5 * errors.std() / np.sqrt(repeats))
    assert ideal_error(6, 8, 900) == ideal_error(6, 8, 900, "blue")
