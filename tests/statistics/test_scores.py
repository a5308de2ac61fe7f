import math

import numpy as np
import pytest
import torch as th
from hypothesis import given
from hypothesis import strategies as st

import sb3_forecast as sf
from sb3_forecast.statistics.scores import float64_array, float64_like, log1mexp, score_vector

log_ps = st.floats(min_value=-1e300, max_value=-1e-300)


def test_vectors(vectors):
    case = vectors["psi_from_logp"]
    log_p = th.tensor(case["inputs"]["logp"], dtype=th.float64, requires_grad=True)
    psi = sf.failure_score(log_p)
    np.testing.assert_allclose(psi.detach().numpy(), case["outputs"]["psi"], rtol=case["rtol"], atol=0)
    psi.sum().backward()
    np.testing.assert_allclose(log_p.grad.numpy(), case["outputs"]["dpsi_dlogp"], rtol=case["rtol"])


@given(log_ps)
def test_score_and_inverse(log_p):
    assert float(sf.log_failure_probability(sf.failure_score(log_p))) == pytest.approx(log_p, rel=1e-12)


@given(st.floats(min_value=-700.0, max_value=-1e-18))
def test_score_from_log_survival_is_precise_at_both_ends(log1mp):
    # log p to full precision by whichever of expm1 and log1p applies
    log_p = math.log(-math.expm1(log1mp)) if log1mp > -math.log(2) else math.log1p(-math.exp(log1mp))
    expected = -math.log(-log_p) if log_p < -1e-300 else -log1mp
    assert float(sf.failure_score_from_log_survival(log1mp)) == pytest.approx(expected, rel=1e-10, abs=1e-12)


@given(st.floats(min_value=-3.0, max_value=600.0))
def test_log_survival_inverts_score_from_log_survival(score):
    log1mp = float(sf.log_survival_probability(score))
    assert float(sf.failure_score_from_log_survival(log1mp)) == pytest.approx(score, rel=1e-9, abs=1e-9)


def test_gradient_towards_certain_failure():
    log1mp = th.tensor([-1e-9, -1.0, -36.9, -37.1, -500.0], dtype=th.float64, requires_grad=True)
    sf.failure_score_from_log_survival(log1mp).sum().backward()
    q = log1mp.detach().numpy()
    exact = np.exp(q) / (np.expm1(q) * -np.where(q < -1e-3, np.log1p(-np.exp(q)), np.log(-np.expm1(q))))  # dpsi/dp dp/dq
    np.testing.assert_allclose(log1mp.grad[:3].numpy(), exact[:3], rtol=1e-6)
    np.testing.assert_array_equal(log1mp.grad[3:].numpy(), -1.0)


def test_ends_and_kinds():
    assert sf.failure_score(0.0) == np.inf
    assert sf.failure_score(-np.inf) == -np.inf
    assert sf.failure_score_from_log_survival(0.0) == -np.inf
    assert sf.failure_probability(-np.inf) == 0.0
    assert sf.failure_probability(np.inf) == 1.0
    assert isinstance(sf.failure_score(th.tensor([-1.0], dtype=th.float32)), th.Tensor)
    assert sf.failure_score(th.tensor([-1.0], dtype=th.float32)).dtype == th.float64
    assert sf.failure_score(np.array([-1.0], dtype=np.float32)).dtype == np.float64


@pytest.mark.parametrize("function", [sf.failure_score, sf.failure_score_from_log_survival])
@pytest.mark.parametrize("bad", [0.5, float("nan")])
def test_rejects_what_is_no_log_probability(function, bad):
    with pytest.raises(
        ValueError, match=r"must be natural logarithms of probabilities, at most 0 and not NaN, got (0\.5|nan)"
    ):
        function(np.array([-1.0, bad]))


def test_values_that_are_no_numbers():
    for bad in ("a", None, 1j, [None]):
        with pytest.raises(TypeError, match="values must be numbers, got"):
            float64_array(bad)
    for good in (True, 3, np.uint8(3), [1, 2.5], np.float32(0.5)):
        assert float64_array(good).dtype == np.float64


def test_masked_values_are_refused_and_an_idle_mask_is_not():
    with pytest.raises(ValueError, match="an array must have no masked values, got 2 of them"):
        float64_array(np.ma.array([1.0, 2.0, 3.0], mask=[True, False, True]))
    assert float64_array(np.ma.array([1.0, 2.0], mask=[False, False])).tolist() == [1.0, 2.0]


def test_a_vector_of_scores():
    assert score_vector(th.tensor([1.0, -th.inf], requires_grad=True)).tolist() == [1.0, -np.inf]
    assert score_vector([2]).tolist() == [2.0]
    for bad in ([], 1.0, [[1.0]]):
        with pytest.raises(ValueError, match=r"scores must have shape \(m,\), m >= 1"):
            score_vector(bad)
    with pytest.raises(ValueError, match=r"p must be numbers below \+inf, got inf at 1 \(2 of 3\)"):
        score_vector([0.0, np.inf, np.nan], "p")


def test_constants_take_the_kind_of_what_they_are_like():
    tensor = float64_like(np.arange(2), th.zeros(1, dtype=th.float64))
    assert (tensor.dtype, tensor.tolist()) == (th.float64, [0.0, 1.0])
    assert float64_like(np.arange(2), np.zeros(1)).dtype == np.float64


@pytest.mark.parametrize("a", [1e-300, 1e-9, 0.5, math.log(2), 0.7, 5.0, 50.0, 700.0])
def test_log1mexp_against_many_digits(a):
    import mpmath

    mpmath.mp.dps = 700
    assert float(log1mexp(a)) == pytest.approx(float(mpmath.log(1 - mpmath.exp(-mpmath.mpf(a)))), rel=1e-14)


def test_log1mexp_has_a_gradient_everywhere():
    a = th.tensor([1e-9, 0.5, 0.7, 50.0, 800.0], dtype=th.float64, requires_grad=True)
    log1mexp(a).sum().backward()
    np.testing.assert_allclose(a.grad.numpy(), [1e9, *1 / np.expm1([0.5, 0.7, 50.0]), 0.0], rtol=1e-8)
    assert float(log1mexp(0.0)) == -np.inf


def test_far_scores_have_a_gradient():
    """-1 where log(1 - p) = -psi, and where p is tiny nearly 0: neither branch gives the other a NaN."""
    x = th.tensor([-800.0, -5.0, 1.0, 36.9, 37.1, 900.0], dtype=th.float64, requires_grad=True)
    value = sf.log_survival_probability(x)
    value.sum().backward()
    assert value[-2:].tolist() == [-37.1, -900.0]
    assert x.grad[-2:].tolist() == [-1.0, -1.0]
    assert x.grad[3] == pytest.approx(-1.0, rel=1e-9)
    assert th.isfinite(x.grad[1:]).all()


def test_scores_of_low_probabilities_do_not_warn():
    assert sf.failure_probability(-1000.0) == 0.0
    assert sf.log_failure_probability(np.array([-1000.0, 0.0])).tolist() == [-np.inf, -1.0]
    assert float(sf.log_survival_probability(-1000.0)) == 0.0
    assert float(sf.failure_score_from_log_survival(-1e-320)) < -6.0


def test_a_single_bad_log_probability_is_named():
    for bad in (0.5, np.nan):
        with pytest.raises(ValueError, match=f"log_p must be natural logarithms .* got {bad}"):
            sf.failure_score(bad)
    with pytest.raises(ValueError, match="log1mp must be natural logarithms"):
        sf.failure_score_from_log_survival(1.0)
