"""Add a gradient to the steps of an optimizer, without a copy of the training loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch as th
from torch.utils.hooks import RemovableHandle


class GradientInjector:
    """Adds the gradient of a loss to ``p.grad`` just before every n-th step of an optimizer.

    SB3 has already clipped its own gradient at that point. The added gradient is therefore clipped separately, to ``max_grad_norm``, and
    then multiplied by the coefficient. Its norm in a step is at most coefficient x ``max_grad_norm``.

    :param loss: returns the loss under the current parameters, a scalar
    :param coef: returns the factor of the clipped gradient, called at every injection; 0 adds nothing
    :param max_grad_norm: largest norm of the gradient after clipping
    :param every: add the gradient in every n-th step
    :param gentle: clip to the norm of the gradient that is there, if that is smaller. An optimizer that divides by the running size of its
        gradients, as Adam does, makes steps of many times the learning rate of one that is much larger than usual
    """

    def __init__(
        self,
        loss: Callable[[], th.Tensor],
        coef: Callable[[], float],
        max_grad_norm: float,
        every: int,
        gentle: bool = False,
    ) -> None:
        self.loss = loss
        self.coef = coef
        self.max_grad_norm = max_grad_norm
        self.every = every
        self.gentle = gentle
        self._step = 0

    def restart(self) -> None:
        """Start counting steps again: the next step gets the gradient."""
        self._step = 0

    def __call__(self, optimizer: th.optim.Optimizer, args: Any, kwargs: Any) -> None:
        """The hook that torch calls before a step; torch prescribes the signature.

        :param optimizer: the optimizer that is about to step
        :param args: positional arguments of the step, unused
        :param kwargs: keyword arguments of the step, unused

        :raises FloatingPointError: if the gradient is not finite
        """
        self._step += 1
        if (self._step - 1) % self.every:
            return
        coef = self.coef()
        if coef == 0.0:
            return
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
        with th.enable_grad():
            loss = self.loss()
            if not loss.requires_grad:
                return
            gradients = th.autograd.grad(loss, parameters, allow_unused=True)
        largest = self.max_grad_norm
        if self.gentle:
            # only of parameters that both have: the critic's gradient says nothing of what is usual for the actor
            own = [
                th.linalg.vector_norm(p.grad.float())
                for p, gradient in zip(parameters, gradients, strict=True)
                if p.grad is not None and gradient is not None
            ]
            largest = min(largest, float(th.linalg.vector_norm(th.stack(own)))) if own else 0.0
        add_clipped(parameters, gradients, coef, largest)


#: the hook of each optimizer. A run that an error stopped leaves its hook behind, so the next run must find it and replace it
_HOOKS: WeakKeyDictionary[th.optim.Optimizer, RemovableHandle] = WeakKeyDictionary()


def attach(injector: GradientInjector, optimizer: th.optim.Optimizer) -> None:
    """Add an injector to an optimizer. It replaces an injector that is already there.

    :param injector: the injector
    :param optimizer: the optimizer
    """
    detach(optimizer)
    _HOOKS[optimizer] = optimizer.register_step_pre_hook(injector)


def detach(optimizer: th.optim.Optimizer) -> None:
    """Remove the injector of an optimizer, if it has one.

    :param optimizer: the optimizer
    """
    if optimizer in _HOOKS:
        _HOOKS.pop(optimizer).remove()


def add_clipped(
    parameters: Sequence[th.nn.Parameter], gradients: Sequence[th.Tensor | None], coef: float, max_grad_norm: float
) -> None:
    """Clip gradients, multiply them by a coefficient, and add them to the gradients of the parameters.

    The gradients are clipped together, to one norm, and without the gradients that the parameters already have.

    :param parameters: the parameters
    :param gradients: one gradient per parameter, of the same shape; ``None`` if the loss does not use it
    :param coef: factor of the clipped gradient
    :param max_grad_norm: largest norm of the gradient after clipping
    :raises FloatingPointError: if the gradient is not finite
    """
    norms = [th.linalg.vector_norm(gradient.float()) for gradient in gradients if gradient is not None]
    if not norms:
        return
    norm = th.linalg.vector_norm(th.stack(norms))
    if not bool(th.isfinite(norm)):
        raise FloatingPointError(
            f"the forecast gradient must be finite, got norm {float(norm)}; use a smaller forecast_coef or learning rate, "
            "and resume from the last checkpoint"
        )
    scale = coef * min(1.0, max_grad_norm / (float(norm) + 1e-6))
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None:
            if parameter.grad is None:
                parameter.grad = th.zeros_like(parameter)
            parameter.grad.add_(gradient, alpha=scale)
