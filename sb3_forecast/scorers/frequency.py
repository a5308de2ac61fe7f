"""Failure scores by counting, for any model and any environment that reports its failures."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from sb3_forecast.checks import check_seed, task_indices, whole
from sb3_forecast.scorers.playing import Episodes, is_stochastic, play
from sb3_forecast.scorers.protocols import Counts, Measurement, Scorer, SupportsEpisodes, Tasks
from sb3_forecast.statistics.allocation import Design, failure_means, further_episodes
from sb3_forecast.statistics.scores import failure_score

_COLUMNS = tuple(field.name for field in fields(Episodes))


class FrequencyScorer(Scorer):
    """Failure scores from counted failures: each task is played several times, by any model that can act.

    If r of M episodes fail, p is estimated as (r + 1/2) / (M + 1), the mean under Jeffreys' prior. So no score is
    infinite, and no score is above about log(2 M). Agents that fail less often than once in M episodes get the same
    scores. The scores have no gradient.

    With a ``budget``, every task is played ``episodes`` times, and then the tasks whose failure probability is least known are played again,
    mostly those that failed (:mod:`sb3_forecast.statistics.allocation`). With one episode of each of many tasks first, the same number of
    episodes says far more of the mean than many episodes of a few tasks. Then p is drawn towards the mean of all tasks by the weight of one
    episode. Where the tasks that are played again all end as before, the task decides, and the rest of the budget is not used.

    :param pool: tasks that can be played
    :param episodes: number M of episodes of each task; with a budget, of its first ones
    :param seed: seed of environments and actions
    :param env: environments to play in, with the same wrappers as the model's own; ``None`` for environments made by the
        pool
    :param n_envs: number of parallel environments that the pool makes; not used if ``env`` is given
    :param deterministic: whether the model takes its likeliest action. ``None``: on-policy models sample their actions,
        others take their likeliest action
    :param progress_bar: whether to show the progress
    :param budget: number of episodes of all tasks together; ``None`` for ``episodes`` of each
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
        budget: int | None = None,
    ) -> None:
        if "frequency" not in pool.scorers:
            raise ValueError(
                f"pool must have tasks that can be played, got one that can serve {tuple(pool.scorers)}; use scorer={pool.scorers[0]!r}"
            )
        whole("episodes", episodes, low=1, use="for example 20")
        whole("n_envs", n_envs, low=1, use="for example 16")
        check_seed(seed)
        self.design = None if budget is None else Design(episodes, budget)
        self.pool = pool
        self.n_tasks = len(pool)
        self.episodes = episodes
        self.seed = seed
        self.env = pool.make_vec_env(n_envs) if env is None else env
        self.deterministic = deterministic
        self.progress_bar = progress_bar
        #: the episodes of the last :meth:`score` or :meth:`failures`; those of one task are neighbours, in the order in which they were played
        self.last: Episodes | None = None
        self._trials = np.zeros(0, dtype=np.int64)
        self._steps_played = 0
        self._notes: tuple[str, ...] = ()

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
        counts = self.counts(model)
        scores = self._scores(counts)
        steps = np.add.reduceat(self._played().lengths, self._starts())
        return Measurement(scores, self.frequencies(), self.success(), self.warnings(scores, k), counts, steps)

    def counts(self, model: Any, tasks: Tasks | None = None) -> Counts:
        """Play the tasks, and count.

        :param model: any SB3 or sb3-contrib model
        :param tasks: indices of the tasks; ``None`` for all
        :return: failures and episodes of each task
        :raises ValueError: if the budget is too small for these tasks
        """
        chosen = task_indices(tasks, self.n_tasks)
        self._notes = ()
        greedy = not is_stochastic(model) if self.deterministic is None else self.deterministic
        if self.design is not None:
            self.design.check(len(chosen))
        rows, rounds = [np.repeat(np.arange(len(chosen)), self.episodes)], []
        rounds.append(self._play(model, chosen[rows[0]], self.seed))
        once = np.bincount(rows[0][rounds[0].failed], minlength=len(chosen))
        failures, trials = once.copy(), np.full(len(chosen), self.episodes)
        if self.design is not None:
            for number, episodes in enumerate(self.design.rounds(len(chosen)), 1):
                extra = further_episodes(failures, trials, episodes)
                rows.append(np.repeat(np.arange(len(chosen)), extra))
                # other noise than in the episodes before
                seed = int(np.random.default_rng([self.seed, number]).integers(2**31))
                rounds.append(self._play(model, chosen[rows[-1]], seed))
                failures += np.bincount(rows[-1][rounds[-1].failed], minlength=len(chosen))
                trials += extra
                if all_as_before(np.concatenate(rows), _joined(rounds), not greedy):
                    note = (
                        f"every task that was played again ended as before, so the task decides: {int(trials.sum()):,} of "
                        f"{self.design.budget:,} episodes were played; use as many tasks as episodes"
                    )
                    self._notes = (note,)
                    break
        order = np.argsort(np.concatenate(rows), kind="stable")
        self.last, self._trials = _joined(rounds, order), trials
        if self.design is None:
            return Counts(failures, trials)
        return Counts(failures, trials, once, self.design)

    def failures(self, model: Any, tasks: Tasks | None = None) -> NDArray[np.int64]:
        """Number of failed episodes of each task.

        :param model: any SB3 or sb3-contrib model
        :param tasks: indices of the tasks; ``None`` for all
        :return: shape (tasks,), int64
        """
        return self.counts(model, tasks).failures

    def score(self, model: Any, tasks: Tasks | None = None) -> th.Tensor:
        """Scores from counted failures.

        :param model: any SB3 or sb3-contrib model
        :param tasks: indices of the tasks; ``None`` for all
        :return: scores, shape (tasks,), float64, CPU
        """
        return th.from_numpy(self._scores(self.counts(model, tasks)))

    def _scores(self, counts: Counts) -> NDArray[np.float64]:
        own = self.design is None
        means = (counts.failures + 0.5) / (self.episodes + 1.0) if own else failure_means(counts.failures, counts.trials)
        scores: NDArray[np.float64] = failure_score(np.log(means))
        return scores

    def _play(self, model: Any, tasks: NDArray[np.int64], seed: int) -> Episodes:
        found = play(model, self.env, tasks, seed, self.deterministic, self.progress_bar)
        self._steps_played += int(found.lengths.sum())
        return found

    def warnings(self, scores: NDArray[np.float64], k: int) -> tuple[str, ...]:
        """Reasons not to trust the scores, and how the budget was used; see :meth:`Scorer.warnings`."""
        return (*super().warnings(scores, k), *self._notes)

    def rescore(self, model: Any, tasks: Tasks) -> th.Tensor:
        """Not possible: counts have no gradient.

        :raises ValueError: always
        """
        raise ValueError(
            "scorer must have a gradient for training, got 'frequency', which only counts failures; use 'exact', 'survival' or 'episodes', "
            "or forecast_coef=0"
        )

    def frequencies(self) -> NDArray[np.float64]:
        """Share of failed episodes of each task in the last :meth:`score`; with a budget, of the first episodes, whose mean has no bias.

        :return: shape (tasks,), float64
        :raises RuntimeError: if nothing was scored yet
        """
        return self._share(self._played().failed)

    def success(self) -> NDArray[np.float64]:
        """Share of successful episodes of each task in the last :meth:`score`; with a budget, of the first episodes.

        :return: shape (tasks,), float64; NaN for tasks whose environment does not report success
        :raises RuntimeError: if nothing was scored yet
        """
        return self._share(self._played().success)

    def _played(self) -> Episodes:
        if self.last is None:
            raise RuntimeError("no episode was played yet; call score(model) first")
        return self.last

    def _starts(self) -> NDArray[np.int64]:
        """Position of the first episode of each task, shape (tasks,), int64."""
        return np.cumsum(self._trials) - self._trials

    def _share(self, outcomes: NDArray[Any]) -> NDArray[np.float64]:
        """Mean over the first episodes of each task, shape (tasks,), float64."""
        share: NDArray[np.float64] = outcomes[self._starts()[:, None] + np.arange(self.episodes)].mean(axis=1)
        return share


def _joined(rounds: list[Episodes], order: Any = slice(None)) -> Episodes:
    """All episodes of some rounds, in a given order."""
    return Episodes(*(np.concatenate([getattr(part, name) for part in rounds])[order] for name in _COLUMNS))


def all_as_before(tasks: NDArray[np.int64], episodes: Episodes, sampled: bool) -> bool:
    """Whether all episodes of a task ended alike, in every task that was played more than once.

    :param tasks: task of each episode, shape (episodes,), int64
    :param episodes: the episodes
    :param sampled: whether the model sampled its actions
    :return: ``False`` also if that can be chance: if fewer than five tasks were played more than once, or, with sampled actions, if these ended
        in fewer than three ways, as where nearly every episode reaches its time limit
    """
    _, where, repeats = np.unique(tasks, return_inverse=True, return_counts=True)
    ends = np.stack([where, episodes.failed, episodes.lengths, episodes.returns], axis=1)
    ways = np.unique(ends[repeats[where] > 1, 1:], axis=0)
    return (
        int((repeats > 1).sum()) >= 5 and len(ways) >= (3 if sampled else 1) and len(np.unique(ends, axis=0)) == len(repeats)
    )
