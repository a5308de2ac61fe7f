"""What an injector adds to the gradients of a step."""

import pytest
import torch as th

from sb3_forecast.training.injection import add_clipped


def added(gradients, coef, max_grad_norm, own=0.0):
    """Add gradients to parameters that already have gradients of ``own``; the gradients afterwards."""
    parameters = [th.nn.Parameter(th.zeros(1)) for _ in gradients]
    for parameter in parameters:
        parameter.grad = th.full((1,), own)
    add_clipped(parameters, [None if g is None else th.tensor([g]) for g in gradients], coef, max_grad_norm)
    return [float(parameter.grad) for parameter in parameters]


def test_a_long_gradient_is_clipped_to_one_norm():
    assert added([3.0, 4.0], coef=2.0, max_grad_norm=0.5) == pytest.approx([0.6, 0.8], rel=1e-5)


def test_a_short_gradient_is_only_multiplied():
    assert added([0.3, 0.4], coef=2.0, max_grad_norm=0.6) == pytest.approx([0.6, 0.8], rel=1e-5)


def test_own_gradients_stay_and_do_not_count_in_the_norm():
    assert added([3.0, 4.0], coef=1.0, max_grad_norm=0.5, own=100.0) == pytest.approx([100.3, 100.4], rel=1e-6)


def test_a_parameter_that_the_loss_does_not_use():
    assert added([0.3, None], coef=1.0, max_grad_norm=0.5, own=1.0) == pytest.approx([1.3, 1.0], rel=1e-6)


def test_a_gradient_that_is_not_finite():
    with pytest.raises(FloatingPointError, match="must be finite, got norm nan"):
        added([float("nan"), 1.0], coef=1.0, max_grad_norm=0.5)
