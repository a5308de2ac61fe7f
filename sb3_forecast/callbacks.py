"""SB3 callbacks: the rollout callback that refreshes the forecast objective."""

from __future__ import annotations

import time
from collections import deque

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback

from sb3_forecast.losses import LossTerms
from sb3_forecast.objective import ForecastObjective
from sb3_forecast.scores import failure_probability


def forecast_metrics(objective: ForecastObjective, terms: LossTerms, seconds: float) -> dict[str, float]:
    """What is logged of a refresh, by logger key; the same for agents and language models.

    :param objective: the objective, just refreshed
    :param terms: what the refresh returned
    :param seconds: how long it took
    """
    assert objective.scores is not None
    found = {
        "forecast/loss": terms.loss.item(),
        "forecast/worst_failure": float(failure_probability(objective.scores.max())),
        "forecast/tasks_touched": len(objective.touched),
        "forecast/seconds": seconds,
    }
    if not np.isnan(objective.missed_top):
        found["forecast/missed_top"] = objective.missed_top
    if len(terms.forecast):
        found["forecast/error"] = (terms.forecast - terms.realised).abs().mean().item()
        found["forecast/forecast"] = terms.forecast.mean().item()
        found["forecast/realised_max"] = terms.realised.mean().item()
        found["forecast/scale"] = terms.scale.mean().item()
    return found


class ForecastCallback(BaseCallback):
    """Refreshes cached scores and partitions at the end of every rollout, draws tasks for the next one, and logs.

    Logger keys: ``forecast/loss``, ``forecast/error`` (mean absolute), ``forecast/forecast``, ``forecast/realised_max``,
    ``forecast/scale``, ``forecast/worst_failure``, ``forecast/tasks_touched``, ``forecast/seconds``, ``rollout/ep_cost_mean``.

    :param objective: the objective; ``None`` logs the episodes' cost only
    :param drawn_share: share of the training episodes that start on tasks drawn in proportion to the loss's weights
    :param verbose: as in SB3
    :raises ValueError: if ``drawn_share`` is not a share
    """

    def __init__(self, objective: ForecastObjective | None, drawn_share: float = 0.0, verbose: int = 0) -> None:
        super().__init__(verbose)
        if not 0.0 <= drawn_share <= 1.0:
            raise ValueError(f"drawn_share={drawn_share} is no share of the episodes; use a value in [0, 1]")
        self.objective = objective
        self.drawn_share = drawn_share
        self._cost: NDArray[np.float64] = np.zeros(0)
        self._episode_costs: deque[float] = deque()

    def _init_callback(self) -> None:
        self._cost = np.zeros(self.training_env.num_envs)
        self._episode_costs = deque(maxlen=self.model._stats_window_size)

    def _on_step(self) -> bool:
        self._cost += [info.get("cost", 0.0) for info in self.locals["infos"]]
        for env in np.flatnonzero(self.locals["dones"]):
            self._episode_costs.append(self._cost[env])
            self._cost[env] = 0.0
        return True

    def _on_rollout_end(self) -> None:
        if self._episode_costs:
            self.logger.record("rollout/ep_cost_mean", float(np.mean(self._episode_costs)))
        if self.objective is None:
            return
        start = time.perf_counter()
        terms = self.objective.refresh(self.model)
        if self.drawn_share > 0.0:
            self.training_env.env_method("set_task_weights", self.objective.task_weights, self.drawn_share)
        for key, value in forecast_metrics(self.objective, terms, time.perf_counter() - start).items():
            self.logger.record(key, value)

    def _on_training_end(self) -> None:
        if self.objective is not None and self.drawn_share > 0.0:
            # whoever uses the environment next expects its own distribution of tasks
            self.training_env.env_method("set_task_weights", None)
