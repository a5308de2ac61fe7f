"""What an injector adds to the gradients of a step."""

import numpy as np
import pytest
import torch as th

from sb3_forecast.training.injection import GradientInjector, add_clipped, attach, detach


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


def test_a_parameter_without_a_gradient_gets_one():
    parameter = th.nn.Parameter(th.zeros(2))
    add_clipped([parameter], [th.tensor([0.3, 0.4])], 2.0, 1.0)
    np.testing.assert_allclose(parameter.grad.numpy(), [0.6, 0.8], rtol=1e-5)
    none = th.nn.Parameter(th.zeros(2))
    add_clipped([none], [None], 2.0, 1.0)
    assert none.grad is None


class Counted:
    """A loss of one parameter, whose gradient is 1, and how often it was asked for."""

    def __init__(self, value=1.0):
        self.parameter = th.nn.Parameter(th.zeros(1))
        self.frozen = th.nn.Parameter(th.zeros(1), requires_grad=False)
        self.optimizer = th.optim.SGD([self.parameter, self.frozen], lr=1.0)
        self.coef, self.asked = value, 0

    def loss(self):
        self.asked += 1
        return self.parameter.sum()

    def steps(self, count):
        """The parameter after each of some steps whose own gradient is 0."""
        seen = []
        for _ in range(count):
            self.parameter.grad = th.zeros(1)
            self.optimizer.step()
            seen.append(-self.parameter.item())
        return seen


def injector(counted, every, max_grad_norm=10.0):
    return GradientInjector(counted.loss, lambda: counted.coef, max_grad_norm, every)


def test_every_third_step_gets_the_gradient_beginning_with_the_first():
    counted = Counted()
    attach(injector(counted, 3), counted.optimizer)
    assert counted.steps(7) == pytest.approx([1, 1, 1, 2, 2, 2, 3], rel=1e-5)


def test_a_restart_counts_anew():
    counted = Counted()
    mine = injector(counted, 3)
    attach(mine, counted.optimizer)
    counted.steps(2)
    mine.restart()
    assert counted.steps(3) == pytest.approx([2, 2, 2], rel=1e-5)


def test_coefficient_and_norm():
    counted = Counted(0.5)
    attach(injector(counted, 1, max_grad_norm=0.2), counted.optimizer)
    assert counted.steps(2) == pytest.approx([0.1, 0.2], rel=1e-4)
    counted.coef, counted.asked = 0.0, 0
    assert counted.steps(1) == pytest.approx([0.2], rel=1e-4)
    assert counted.asked == 0


def test_the_gradient_is_taken_where_none_is_recorded():
    counted = Counted()
    attach(injector(counted, 1), counted.optimizer)
    with th.no_grad():
        assert counted.steps(1) == pytest.approx([1.0], rel=1e-5)


def test_a_loss_without_a_gradient_adds_nothing():
    counted = Counted()
    attach(GradientInjector(lambda: th.tensor(1.0), lambda: 1.0, 1.0, 1), counted.optimizer)
    assert counted.steps(2) == [0.0, 0.0]


def test_a_second_injector_replaces_the_first_and_detaching_ends_it():
    counted = Counted()
    for _ in range(2):
        attach(injector(counted, 1), counted.optimizer)
    assert counted.steps(1) == pytest.approx([1.0], rel=1e-5)
    for _ in range(2):  # a second time is no error
        detach(counted.optimizer)
    assert counted.steps(1) == pytest.approx([1.0], rel=1e-5)


@pytest.mark.parametrize(("gentle", "norm"), [(False, 0.5), (True, 0.01)])
def test_a_gentle_gradient_is_not_longer_than_the_one_that_is_there(gentle, norm):
    """The norm counts of parameters that both gradients have: that of the critic, which is large, does not."""
    actor, critic = th.nn.Parameter(th.zeros(4)), th.nn.Parameter(th.zeros(3))
    optimizer = th.optim.SGD([actor, critic], lr=1.0)
    injector = GradientInjector(lambda: 100.0 * actor.sum(), lambda: 1.0, 0.5, 1, gentle)
    actor.grad, critic.grad = th.full((4,), 0.005), th.full((3,), 9.0)
    before = actor.grad.clone()
    injector(optimizer, (), {})
    assert (actor.grad - before).norm().item() == pytest.approx(norm, rel=1e-3)
    assert th.equal(critic.grad, th.full((3,), 9.0))


def test_a_gentle_gradient_alone_moves_nothing():
    actor = th.nn.Parameter(th.zeros(4))
    optimizer = th.optim.SGD([actor], lr=1.0)
    GradientInjector(lambda: actor.sum(), lambda: 1.0, 0.5, 1, True)(optimizer, (), {})
    assert actor.grad is None or not actor.grad.any()
