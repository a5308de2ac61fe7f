"""Failure scores by counting, for any model and any environment that reports its failures."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from sb3_forecast.checks import check_seed, task_indices, whole
from sb3_forecast.scorers.playing import Episodes, play
from sb3_forecast.scorers.protocols import Counts, Measurement, Scorer, SupportsEpisodes, Tasks
from sb3_forecast.statistics.scores import failure_score


class FrequencyScorer(Scorer):
    """Failure scores from counted failures: each task is played several times, by any model that can act.

    If r of M episodes fail, p is estimated as (r + 1/2) / (M + 1), the mean under Jeffreys' prior. So no score is
    infinite, and no score is above about log(2 M). Agents that fail less often than once in M episodes get the same
    scores. The scores have no gradient.

    :param pool: tasks that can be played
    :param episodes: number M of episodes of each task
    :param seed: seed of environments and actions
    :param env: environments to play in, with the same wrappers as the model's own; ``None`` for environments made by the
        pool
    :param n_envs: number of parallel environments that the pool makes; not used if ``env`` is given
    :param deterministic: whether the model takes its likeliest action. ``None``: on-policy models sample their actions,
        others take their likeliest action
    :param progress_bar: whether to show the progress
    :raises ValueError: if an argument is out of range, or the tasks cannot be played
    """

    samples = True
    counts_failures = True

    def __init__(
        self,
        pool: SupportsEpisodes,
        episodes: int = 20,
        seed: int = 0,
        env: VecEnv | None = None,
        n_envs: int = 16,
        deterministic: bool | None = None,
        progress_bar: bool = False,
    ) -> None:
        if "frequency" not in pool.scorers:
            raise ValueError(
                f"pool must have tasks that can be played, got one that can serve {tuple(pool.scorers)}; use scorer={pool.scorers[0]!r}"
            )
        whole("episodes", episodes, low=1, use="for example 20")
        whole("n_envs", n_envs, low=1, use="for example 16")
        check_seed(seed)
        self.pool = pool
        self.n_tasks = len(pool)
        self.episodes = episodes
        self.seed = seed
        self.env = pool.make_vec_env(n_envs) if env is None else env
        self.deterministic = deterministic
        self.progress_bar = progress_bar
        #: the episodes of the last :meth:`score` or :meth:`failures`; those of one task are neighbours
        self.last: Episodes | None = None
        self._steps_played = 0

    @property
    def steps_played(self) -> int:
        """Number of environment steps that counting has taken so far."""
        return self._steps_played

    @property
    def key(self) -> str:
        """Key of the pool whose tasks are scored."""
        return self.pool.key

    def measure(self, model: Any, k: int = 10, seed: int = 0) -> Measurement:
        """Scores, shares of failed and successful episodes, and counts; see :meth:`Scorer.measure`."""
        failures = self.failures(model)
        trials = np.full(self.n_tasks, self.episodes)
        scores = self._scores(failures)
        steps = self._played().lengths.reshape(-1, self.episodes).sum(axis=1)
        warnings = self.warnings(scores, k)
        return Measurement(scores, self.frequencies(), self.success(), warnings, Counts(failures, trials), steps)

    def failures(self, model: Any, tasks: Tasks | None = None) -> NDArray[np.int64]:
        """Number of failed episodes of each task.

        :param model: any SB3 or sb3-contrib model
        :param tasks: indices of the tasks; ``None`` for all
        :return: shape (tasks,), int64
        """
        chosen = task_indices(tasks, self.n_tasks)
        repeated = np.repeat(chosen, self.episodes)
        self.last = play(model, self.env, repeated, self.seed, self.deterministic, self.progress_bar)
        self._steps_played += int(self.last.lengths.sum())
        counts: NDArray[np.int64] = self.last.failed.reshape(len(chosen), self.episodes).sum(axis=1)
        return counts

    def score(self, model: Any, tasks: Tasks | None = None) -> th.Tensor:
        """Scores from counted failures.

        :param model: any SB3 or sb3-contrib model
        :param tasks: indices of the tasks; ``None`` for all
        :return: scores, shape (tasks,), float64, CPU
        """
        return th.from_numpy(self._scores(self.failures(model, tasks)))

    def _scores(self, failures: NDArray[np.int64]) -> NDArray[np.float64]:
        scores: NDArray[np.float64] = failure_score(np.log((failures + 0.5) / (self.episodes + 1.0)))
        return scores

    def rescore(self, model: Any, tasks: Tasks) -> th.Tensor:
        """Not possible: counts have no gradient.

        :raises ValueError: always
        """
        raise ValueError(
            "scorer must have a gradient for training, got 'frequency', which only counts failures; use 'exact', 'survival' or 'episodes', "
            "or forecast_coef=0"
        )

    def frequencies(self) -> NDArray[np.float64]:
        """Share of failed episodes of each task in the last :meth:`score`.

        :return: shape (tasks,), float64
        :raises RuntimeError: if nothing was scored yet
        """
        return self._share(self._played().failed)

    def success(self) -> NDArray[np.float64]:
        """Share of successful episodes of each task in the last :meth:`score`.

        :return: shape (tasks,), float64; NaN for tasks whose environment does not report success
        :raises RuntimeError: if nothing was scored yet
        """
        return self._share(self._played().success)

    def _played(self) -> Episodes:
        if self.last is None:
            raise RuntimeError("no episode was played yet; call score(model) first")
        return self.last

    def _share(self, outcomes: NDArray[Any]) -> NDArray[np.float64]:
        """Mean over the episodes of each task, shape (tasks,), float64."""
        share: NDArray[np.float64] = outcomes.reshape(-1, self.episodes).mean(axis=1)
        return share
