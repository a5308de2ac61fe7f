"""Adding a gradient to an optimizer's own steps, without copying the training loop that takes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch as th


class GradientInjector:
    """Adds the gradient of a loss to ``p.grad`` right before every n-th step of an optimizer.

    SB3 clips its gradient before the step, so the added one is clipped by itself to the same norm and then multiplied by
    the coefficient: the coefficient is the largest share that the loss can have in a step.

    :param loss: the loss under the current parameters
    :param coef: factor of the clipped gradient
    :param max_grad_norm: norm that the gradient is clipped to
    :param every: inject into every n-th step
    """

    def __init__(self, loss: Callable[[], th.Tensor], coef: float, max_grad_norm: float, every: int) -> None:
        self.loss = loss
        self.coef = coef
        self.max_grad_norm = max_grad_norm
        self.every = every
        self._step = 0

    def __call__(self, optimizer: th.optim.Optimizer, args: Any, kwargs: Any) -> None:
        """The hook; signature as torch wants it.

        :raises FloatingPointError: if the gradient is not finite
        """
        self._step += 1
        if (self._step - 1) % self.every:
            return
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
        with th.enable_grad():
            loss = self.loss()
            if not loss.requires_grad:
                return
            gradients = th.autograd.grad(loss, parameters, allow_unused=True)
        add_clipped(parameters, gradients, self.coef, self.max_grad_norm)

    @contextmanager
    def attached(self, optimizer: th.optim.Optimizer) -> Iterator[None]:
        """Inject into the optimizer's steps within the ``with`` block.

        :param optimizer: the optimizer
        """
        self._step = 0
        handle = optimizer.register_step_pre_hook(self)
        try:
            yield
        finally:
            handle.remove()


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
