"""The gradient that ForecastTrainer adds to the primary gradient in an optimizer step."""

from __future__ import annotations

import time
from typing import Any, Protocol

import numpy as np
import torch as th
import torch.distributed as dist
from numpy.typing import NDArray

from sb3_forecast.lm.scorer import LMFailureScorer
from sb3_forecast.scorers.protocols import Scorer
from sb3_forecast.training.callback import forecast_metrics
from sb3_forecast.training.objective import ForecastObjective


class Penalty(Protocol):
    """An object that can add a gradient to the model's parameters, with a state that a resumed run restores."""

    def accumulate(self, model: Any) -> dict[str, float]:
        """Add the gradient to the parameters' ``grad``.

        :param model: the language model
        :return: values to log, by key
        """

    def state_dict(self) -> dict[str, Any]:
        """The state that a resumed run needs."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state.

        :param state: a result of :meth:`state_dict`
        """


class ForecastPenalty:
    """The gradient of a loss on the scores of a pool of prompts, in two passes.

    1. The pool (or sub-pool) is scored without a graph. The gradient of the loss by the scores gives one weight per prompt.
    2. Only prompts whose weight is not 0 are scored again, with a graph, one micro-batch at a time.

    With several processes, each process does a share of both passes.

    :param objective: partitions and loss, with a :class:`ShardedScorer` as its scorer
    :raises ValueError: if the objective has another scorer
    """

    def __init__(self, objective: ForecastObjective) -> None:
        if not isinstance(objective.scorer, ShardedScorer):
            raise ValueError(
                f"objective.scorer must be a ShardedScorer, got {type(objective.scorer).__name__}; "
                "use ShardedScorer(LMFailureScorer(...)), or pass scorer to ForecastTrainer"
            )
        self.objective = objective
        self.scorer = objective.scorer

    def accumulate(self, model: Any) -> dict[str, float]:
        """Refresh the objective and add its gradient to the parameters' ``grad``.

        :param model: the language model
        :return: values to log, by key
        """
        start = time.perf_counter()
        terms = self.objective.refresh(model)
        tasks, weights = self.objective.active
        if len(tasks):
            self.scorer.backward(model, tasks, weights)
        metrics = forecast_metrics(self.objective, terms, time.perf_counter() - start)
        return {**metrics, "forecast/tasks_active": len(tasks)}

    def state_dict(self) -> dict[str, Any]:
        """The state that a resumed run needs: tensors and plain numbers only, so that loading it executes no code."""
        state = self.objective.state_dict()
        return {**state, "task_weights": th.from_numpy(state["task_weights"])}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state.

        :param state: a result of :meth:`state_dict`
        :raises ValueError: if it belongs to a pool of another size
        """
        self.objective.load_state_dict({**state, "task_weights": state["task_weights"].numpy()})


class ShardedScorer(Scorer):
    """A scorer that divides the work among the processes of ``torch.distributed``. With a single process it only calls its scorer.

    :param scorer: scores the share of each process
    """

    def __init__(self, scorer: LMFailureScorer) -> None:
        self.scorer = scorer
        self.n_tasks = scorer.n_tasks

    @property
    def key(self) -> None:
        """Always ``None``: pools of prompts are not compared."""

    def score(self, model: Any, tasks: NDArray[np.int64] | None = None) -> th.Tensor:
        """As :meth:`LMFailureScorer.score`. Every process gets all scores.

        :param model: the language model
        :param tasks: indices of the prompts, the same in every process; ``None`` for all
        :return: psi, shape (tasks,), float64, CPU
        """
        if not _several():
            return self.scorer.score(model, tasks)
        chosen = np.arange(self.n_tasks) if tasks is None else tasks
        rank, world = dist.get_rank(), dist.get_world_size()
        out = th.zeros(len(chosen), dtype=th.float64)
        mine = chosen[rank::world]
        if len(mine):
            out[rank::world] = self.scorer.score(model, mine)
        out = out.to(model.device)
        dist.all_reduce(out)
        return out.cpu()

    def rescore(self, model: Any, tasks: NDArray[np.int64]) -> th.Tensor:
        """As :meth:`LMFailureScorer.rescore`. Every process scores all given prompts.

        :param model: the language model
        :param tasks: indices of the prompts
        :return: psi, shape (tasks,), float64, CPU
        """
        return self.scorer.rescore(model, tasks)

    def backward(self, model: Any, tasks: NDArray[np.int64], weights: th.Tensor) -> None:
        """As :meth:`LMFailureScorer.backward`. Afterwards every process has the whole gradient.

        :param model: the language model
        :param tasks: indices of the prompts, the same in every process
        :param weights: the weight of each prompt, shape (tasks,)
        """
        if not _several():
            self.scorer.backward(model, tasks, weights)
            return
        rank, world = dist.get_rank(), dist.get_world_size()
        if len(tasks[rank::world]):
            self.scorer.backward(model, tasks[rank::world], weights[rank::world])
        for parameter in model.parameters():
            if parameter.requires_grad:
                if parameter.grad is None:
                    parameter.grad = th.zeros_like(parameter)
                dist.all_reduce(parameter.grad)


def _several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
