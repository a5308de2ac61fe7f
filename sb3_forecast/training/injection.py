"""Adding a gradient to an optimizer's own steps, without copying the training loop that takes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch as th
from torch.utils.hooks import RemovableHandle


class GradientInjector:
    """Adds the gradient of a loss to ``p.grad`` right before every n-th step of an optimizer.

    SB3 clips its gradient before the step, so the added one is clipped by itself to the same norm and then multiplied by
    the coefficient: the coefficient is the largest share that the loss can have in a step.

    :param loss: the loss under the current parameters
    :param coef: factor of the clipped gradient, asked at every injection; 0 adds nothing
    :param max_grad_norm: norm that the gradient is clipped to
    :param every: inject into every n-th step
    """

    def __init__(self, loss: Callable[[], th.Tensor], coef: Callable[[], float], max_grad_norm: float, every: int) -> None:
        self.loss = loss
        self.coef = coef
        self.max_grad_norm = max_grad_norm
        self.every = every
        self._step = 0

    def restart(self) -> None:
        """Count steps anew: the next one is injected into."""
        self._step = 0

    def __call__(self, optimizer: th.optim.Optimizer, args: Any, kwargs: Any) -> None:
        """The hook; signature as torch wants it.

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
        add_clipped(parameters, gradients, coef, self.max_grad_norm)


#: the hook of each optimizer that has one: a run that was stopped by an error leaves its hook behind, and the next replaces it
_HOOKS: WeakKeyDictionary[th.optim.Optimizer, RemovableHandle] = WeakKeyDictionary()


def attach(injector: GradientInjector, optimizer: th.optim.Optimizer) -> None:
    """Inject into an optimizer's steps, in place of any injector that it has.

    :param injector: what is injected
    :param optimizer: the optimizer
    """
    detach(optimizer)
    _HOOKS[optimizer] = optimizer.register_step_pre_hook(injector)


def detach(optimizer: th.optim.Optimizer) -> None:
    """Take an optimizer's injector away, if it has one.

    :param optimizer: the optimizer
    """
    if optimizer in _HOOKS:
        _HOOKS.pop(optimizer).remove()


def add_clipped(
    parameters: Sequence[th.nn.Parameter], gradients: Sequence[th.Tensor | None], coef: float, max_grad_norm: float
) -> None:
    """Clip gradients by themselves and add a multiple of them to the parameters' own.

    :param parameters: the parameters
    :param gradients: one for each; ``None`` for none
    :param coef: factor of the clipped gradient
    :param max_grad_norm: norm that the gradient is clipped to
    :raises FloatingPointError: if the gradient is not finite
    """
    norms = [th.linalg.vector_norm(gradient.float()) for gradient in gradients if gradient is not None]
    if not norms:
        return
    norm = th.linalg.vector_norm(th.stack(norms))
    if not bool(th.isfinite(norm)):
        raise FloatingPointError(
            f"the forecast gradient is not finite (norm {float(norm)}); lower forecast_coef or the learning rate, "
            "and resume from the last checkpoint"
        )
    scale = coef * min(1.0, max_grad_norm / (float(norm) + 1e-6))
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None:
            if parameter.grad is None:
                parameter.grad = th.zeros_like(parameter)
            parameter.grad.add_(gradient, alpha=scale)
