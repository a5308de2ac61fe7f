"""Failure scores by counting: for any model, and any environment that tells when it failed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from sb3_forecast.scorers.playing import Episodes, play
from sb3_forecast.scorers.protocols import Counts, Measurement, Scorer, SupportsEpisodes, Tasks
from sb3_forecast.statistics.scores import failure_score


class FrequencyScorer(Scorer):
    """Scores from how often each task fails in a number of episodes, by any model that can act.

    With r failures in M episodes, p is taken as (r + 1/2) / (M + 1), the mean under Jeffreys' prior: no score is infinite, and none is
    beyond about log(2 M), so that agents which fail less often than once in M episodes cannot be told apart. Not differentiable.

    :param pool: tasks that can be played
    :param episodes: episodes M of each task
    :param seed: seed of environments and actions
    :param env: environments to play in, wrapped as the model's own; ``None`` for the pool's
    :param n_envs: how many environments of the pool run side by side, without ``env``
    :param deterministic: whether the model takes its likeliest action; ``None``: on-policy models act by chance, others do not
    :param progress_bar: show progress
    :raises ValueError: if an argument is out of range, or the tasks cannot be played
    """

    samples = True

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
            raise ValueError(f"the tasks cannot be played (scorers={tuple(pool.scorers)}); use scorer={pool.scorers[0]!r}")
        if episodes < 1:
            raise ValueError(f"episodes={episodes} samples nothing; use episodes >= 1")
        if n_envs < 1:
            raise ValueError(f"n_envs={n_envs} plays nothing; use n_envs >= 1")
        self.pool = pool
        self.n_tasks = len(pool)
        self.episodes = episodes
        self.seed = seed
        self.env = pool.make_vec_env(n_envs) if env is None else env
        self.deterministic = deterministic
        self.progress_bar = progress_bar
        #: the episodes of the last :meth:`score`, task by task
        self.last: Episodes | None = None

    @property
    def key(self) -> str:
        """Key of the pool."""
        return self.pool.key

    def measure(self, model: Any, k: int = 10, seed: int = 0) -> Measurement:
        """Scores, shares of failed and of successful episodes, and the counts; see :meth:`Scorer.measure`."""
        failures = self.failures(model)
        trials = np.full(self.n_tasks, self.episodes)
        scores = self._scores(failures)
        return Measurement(scores, self.frequencies(), self.success(), self.warnings(scores, k), Counts(failures, trials))

    def failures(self, model: Any, tasks: Tasks | None = None) -> NDArray[np.int64]:
        """How many episodes of each task failed, shape (tasks,).

        :param model: any SB3 or sb3-contrib model
        :param tasks: which tasks; ``None`` for all
        """
        chosen = np.arange(self.n_tasks) if tasks is None else np.asarray(tasks, dtype=np.int64)
        repeated = np.repeat(chosen, self.episodes)
        self.last = play(model, self.env, repeated, self.seed, self.deterministic, self.progress_bar)
        counts: NDArray[np.int64] = self.last.failed.reshape(len(chosen), self.episodes).sum(axis=1)
        return counts

    def score(self, model: Any, tasks: Tasks | None = None) -> th.Tensor:
        """Scores, shape (tasks,), float64.

        :param model: any SB3 or sb3-contrib model
        :param tasks: which tasks; ``None`` for all
        """
        return th.from_numpy(self._scores(self.failures(model, tasks)))

    def _scores(self, failures: NDArray[np.int64]) -> NDArray[np.float64]:
        scores: NDArray[np.float64] = failure_score(np.log((failures + 0.5) / (self.episodes + 1.0)))
        return scores

    def rescore(self, model: Any, tasks: Tasks) -> th.Tensor:
        """There is no gradient in counts.

        :raises ValueError: always
        """
        raise ValueError(
            "scorer='frequency' has no gradient: it measures, but cannot train; use 'exact', 'survival' or 'episodes', or forecast_coef=0"
        )

    def frequencies(self) -> NDArray[np.float64]:
        """Share of failed episodes of each task of the last :meth:`score`.

        :raises RuntimeError: before any
        """
        return self._share(self._played().failed)

    def success(self) -> NDArray[np.float64]:
        """Share of successful episodes of each task of the last :meth:`score`; NaN where the environment does not tell.

        :raises RuntimeError: before any
        """
        return self._share(self._played().success)

    def _played(self) -> Episodes:
        if self.last is None:
            raise RuntimeError("nothing was played yet; call score(model) first")
        return self.last

    def _share(self, outcomes: NDArray[Any]) -> NDArray[np.float64]:
        """Mean over a task's episodes, shape (tasks,)."""
        share: NDArray[np.float64] = outcomes.reshape(-1, self.episodes).mean(axis=1)
        return share
