"""What ForecastTrainer adds to the primary gradient in each optimizer step."""

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
    """Something with a gradient in the model's parameters and a state to resume from."""

    def accumulate(self, model: Any) -> dict[str, float]:
        """Add the gradient to the parameters' ``grad``; returns what to log."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`."""


class ForecastPenalty:
    """The gradient of a loss on the scores of a pool of prompts, in two passes.

    The (sub-)pool is scored without a graph, the loss is differentiated in the vector of scores alone, and only prompts
    whose weight is not 0 are scored again with a graph, a micro-batch at a time. With several processes each takes its share of both passes.

    :param objective: partitions and loss on the scores of an :class:`LMFailureScorer`
    """

    def __init__(self, objective: ForecastObjective) -> None:
        if not isinstance(objective.scorer, ShardedScorer):
            raise ValueError(
                f"objective scores with {type(objective.scorer).__name__}; build it on ShardedScorer(LMFailureScorer(...)), "
                f"or pass the arguments "
                "to ForecastTrainer"
            )
        self.objective = objective
        self.scorer = objective.scorer

    def accumulate(self, model: Any) -> dict[str, float]:
        """Refresh the objective and add its gradient to the parameters' ``grad``.

        :param model: the language model
        :return: what to log
        """
        start = time.perf_counter()
        terms = self.objective.refresh(model)
        tasks, weights = self.objective.active
        if len(tasks):
            self.scorer.backward(model, tasks, weights)
        metrics = forecast_metrics(self.objective, terms, time.perf_counter() - start)
        return {**metrics, "forecast/tasks_active": len(tasks)}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs; tensors and plain numbers only, so that loading it executes nothing."""
        state = self.objective.state_dict()
        return {**state, "task_weights": th.from_numpy(state["task_weights"])}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`.

        :param state: as returned there
        """
        self.objective.load_state_dict({**state, "task_weights": state["task_weights"].numpy()})


class ShardedScorer(Scorer):
    """A scorer whose work is shared among the processes of ``torch.distributed``; without any, the scorer itself.

    :param scorer: what scores a process's share
    """

    def __init__(self, scorer: LMFailureScorer) -> None:
        self.scorer = scorer
        self.n_tasks = scorer.n_tasks

    @property
    def key(self) -> None:
        """None: prompts are not compared."""

    def score(self, model: Any, tasks: NDArray[np.int64] | None = None) -> th.Tensor:
        """As :meth:`LMFailureScorer.score`; every process gets all scores."""
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
        """As :meth:`LMFailureScorer.rescore`, in every process."""
        return self.scorer.rescore(model, tasks)

    def backward(self, model: Any, tasks: NDArray[np.int64], weights: th.Tensor) -> None:
        """As :meth:`LMFailureScorer.backward`; afterwards every process has the whole gradient."""
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
