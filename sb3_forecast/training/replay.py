"""Plays tasks again that failed in training: the cheapest thing that one can do about a rare mode, without a scorer and without further steps.

It is prioritised replay of levels (Jiang, Grefenstette & Rocktaeschel 2021, arXiv 2010.03934) with failures as the priority.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback

from sb3_forecast.checks import real
from sb3_forecast.scorers.tasks_of import tasks_of
from sb3_forecast.training.costs import step_costs
from sb3_forecast.training.forecast_ppo import ForecastPPO

#: a task whose failure estimate has fallen below this is played as often as any other
_FORGOTTEN = 0.02


class FailureMemory:
    """An estimate of the failure probability of every task that failed in training, from its latest episodes.

    :param n_tasks: tasks of the pool
    :param rate: weight of a task's newest episode in its estimate
    """

    def __init__(self, n_tasks: int, rate: float = 0.2) -> None:
        self.rate = real("rate", rate, low=0.01, high=1.0, use="0.2")
        #: failure estimate of each task, shape (N,), float64; 0 for a task that has not failed, or not for long
        self.estimates: NDArray[np.float64] = np.zeros(n_tasks)

    def see(self, task: int, failed: bool) -> None:
        """Learn how an episode ended.

        :param task: index of the task
        :param failed: whether it failed
        """
        before = self.estimates[task]
        if failed or before > 0.0:
            now = max(before + self.rate * (failed - before), self.rate * failed)
            self.estimates[task] = now if now >= _FORGOTTEN else 0.0

    def share(self, largest: float, per_task: float) -> float:
        """The share of the episodes that is played on the remembered tasks: it falls as they are learnt.

        :param largest: largest share
        :param per_task: share of a task that has failed once
        """
        return min(largest, per_task * float(self.estimates.sum()) / self.rate)


class FailureReplay(BaseCallback):
    """Plays tasks again that failed in training, with any algorithm of SB3 or sb3-contrib.

    A task that fails is played more often until it has not failed for long. All that is needed are environments that play tasks (of
    ``SeededTasks``, ``ContextTasks``, a ``TaskPool``, ...) and report ``info["cost"]``. There is no scoring, and no further step:
    ``PPO("MlpPolicy", tasks.make_vec_env(16)).learn(500_000, callback=sf.FailureReplay())``. Where it helps and where it does not is told in
    ``docs/model_free.md``.

    Logger keys: ``replay/tasks`` (tasks that are remembered), ``replay/share`` (of the episodes) and ``replay/failed`` (share of the episodes of
    the last rollouts that failed; they are not typical ones).

    Not together with a forecast (``ForecastPPO``, ``ForecastCallback``), which chooses the tasks itself.

    What is remembered belongs to this object, not to the model: another ``learn`` with it goes on, a training that is resumed in another process
    starts with nothing remembered.

    :param share: largest share of the episodes that are played on such tasks
    :param per_task: share of a task that has failed once; a few failures of a good agent do not take over its training
    :param rate: weight of a task's newest episode in the estimate of its failure probability
    :raises ValueError: if an argument is out of range; when training starts, if the environments do not play tasks, or the model trains with a
        forecast
    """

    def __init__(self, share: float = 0.5, per_task: float = 0.02, rate: float = 0.2) -> None:
        super().__init__()
        self.share = real("share", share, low=0.0, high=1.0, use="0.5")
        self.per_task = real("per_task", per_task, low=0.0, high=1.0, use="0.02")
        self.rate = FailureMemory(0, rate).rate
        self.memory: FailureMemory | None = None
        self._pool_key = ""
        self._failed: NDArray[np.bool_] = np.zeros(0, dtype=np.bool_)
        self._ends: list[bool] = []

    def _on_training_start(self) -> None:
        if isinstance(self.model, ForecastPPO) and self.model.objective is not None:
            # two choosers of tasks would overwrite each other, and tasks of the validation would be trained on
            raise ValueError(
                "model must not train with a forecast together with FailureReplay, got a ForecastPPO that chooses its tasks itself; use "
                "drawn_share, or forecast_coef=0"
            )
        if not self.training_env.has_attr("set_task_weights"):
            raise ValueError(
                "env must have `set_task_weights` to play tasks again, got none; use SeededTasks(...).make_vec_env(n_envs), or another pool's"
            )
        pool = tasks_of(self.training_env)
        if self.memory is None or pool.key != self._pool_key:
            self.memory, self._pool_key = FailureMemory(len(pool), self.rate), pool.key
        self._failed = np.zeros(self.training_env.num_envs, dtype=np.bool_)
        self._play()

    def _on_step(self) -> bool:
        assert self.memory is not None
        infos: list[dict[str, Any]] = self.locals["infos"]
        self._failed |= step_costs(infos, "FailureReplay") > 0.0
        for env in np.flatnonzero(self.locals["dones"]).tolist():
            self.memory.see(infos[env]["task"], bool(self._failed[env]))
            self._ends.append(bool(self._failed[env]))
            self._failed[env] = False
        return True

    def _on_rollout_end(self) -> None:
        # rollouts of off-policy algorithms are a few steps long
        if len(self._ends) >= self.training_env.num_envs:
            self._play()

    def _play(self) -> None:
        """Tell the environments how to choose their next tasks."""
        assert self.memory is not None
        estimates = self.memory.estimates
        share = self.memory.share(self.share, self.per_task)
        self.training_env.env_method("set_task_weights", estimates if share > 0.0 else None, share)
        self.logger.record("replay/tasks", int((estimates > 0.0).sum()))
        self.logger.record("replay/share", share)
        if self._ends:
            self.logger.record("replay/failed", float(np.mean(self._ends)))
        self._ends.clear()

    def _on_training_end(self) -> None:
        # whoever uses the environment next expects its own distribution of tasks
        self.training_env.env_method("set_task_weights", None)
