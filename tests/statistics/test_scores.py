import math

import numpy as np
import pytest
import torch as th
from hypothesis import given
from hypothesis import strategies as st

import sb3_forecast as sf

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
