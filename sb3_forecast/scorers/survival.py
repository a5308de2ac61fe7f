"""Survival scores (implicit capture): sample episodes that do not fail, and multiply their survival factors.

Let q_t be the total probability that the policy's action fails now. The episode continues with a safe action, and the
factor 1 - q_t is kept: p = 1 - E[prod_t (1 - q_t)]. This estimate of p is unbiased. It is never zero if a failure is
possible at the visited states. It is differentiable through the policy at the visited states (figures in
``docs/gridworld.md``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch as th
from numpy.typing import NDArray

from sb3_forecast.checks import check_seed, task_indices, whole
from sb3_forecast.scorers.actor import Actor
from sb3_forecast.scorers.memo import PolicyMemo
from sb3_forecast.scorers.playing import count_success
from sb3_forecast.scorers.protocols import Measurement, Scorer, Simulation, SupportsSurvival, Tasks
from sb3_forecast.statistics.scores import failure_score, failure_score_from_log_survival


def log_survival_of_step(log_pi: th.Tensor, failure: th.Tensor) -> th.Tensor:
    """log(1 - q) with q = sum_a pi(a) c(a), computed from the smaller one of q and 1 - q.

    :param log_pi: log action probabilities, shape (batch, actions), float64
    :param failure: probability c that each action fails now, same shape
    :return: shape (batch,), float64, at most 0
    """
    log_q = th.logsumexp(log_pi + failure.log(), dim=-1)
    log_safe = th.logsumexp(log_pi + th.log1p(-failure), dim=-1)
    rare = log_q < np.log(0.5)
    # the branch that is not used must not contribute a NaN gradient
    return th.where(rare, th.log1p(-th.where(rare, log_q, -1.0).exp()), th.where(rare, -1.0, log_safe)).clamp(max=0.0)


@dataclass(frozen=True)
class _RiskySteps:
    """Visited states of a simulation in which some action can fail.

    :param episode: episode of each visit, shape (visits,), int64
    :param view: row of ``distinct`` of each visit, shape (visits,), int32
    :param distinct: distinct compact views, shape (views, width), uint8
    :param failure: probability c that each action fails, shape (visits, actions), float64
    :param simulation: the simulation; it turns views into observations
    """

    episode: NDArray[np.int64]
    view: NDArray[np.int32]
    distinct: NDArray[np.uint8]
    failure: NDArray[np.float64]
    simulation: Simulation


class SurvivalScorer(Scorer):
    """Failure scores from simulated episodes, for tasks whose simulation knows which actions fail.

    The estimate of the failure probability is unbiased.

    :param pool: tasks whose simulation knows which actions fail
    :param episodes: number of episodes per task
    :param seed: seed of the episodes' random numbers
    :raises ValueError: if the pool cannot serve ``"survival"``, or ``episodes < 1``
    """

    supports_partial = False
    samples = True

    def __init__(self, pool: SupportsSurvival, episodes: int = 1, seed: int = 0) -> None:
        if "survival" not in pool.scorers:
            raise ValueError(
                f"pool must know which actions fail for survival scores, got one that can serve {tuple(pool.scorers)}; "
                f"use scorer={pool.scorers[0]!r}"
            )
        whole("episodes", episodes, low=1, use="1 or a larger number")
        self.pool = pool
        self.n_tasks = len(pool)
        self.n_actions = pool.simulation(np.array([0])).n_actions
        self.episodes = episodes
        self.generator = np.random.default_rng(check_seed(seed))
        self._visits: _RiskySteps | None = None

    @property
    def key(self) -> str:
        """Key of the pool whose tasks are scored."""
        return self.pool.key

    def measure(self, model: Any, k: int = 10, seed: int = 0) -> Measurement:
        """Scores, and successes counted in one episode per task; see :meth:`Scorer.measure`."""
        found = super().measure(model, k, seed)
        if "frequency" not in self.pool.scorers:
            return found
        env = self.pool.make_vec_env(min(64, self.n_tasks))
        return replace(found, success=count_success(model, env, self.n_tasks, seed))

    def log_survival(self, model: Any, tasks: Tasks | None = None) -> th.Tensor:
        """Sampled log survival probability of each episode.

        :param model: SB3 on-policy model with discrete actions
        :param tasks: indices of the tasks; ``None`` for all
        :return: shape (tasks, episodes), float64
        """
        actor = Actor(model, self.n_actions)
        chosen = task_indices(tasks, self.n_tasks)
        with actor.evaluating(), th.no_grad():
            total, visits = self._simulate(actor, np.repeat(chosen, self.episodes))
        if tasks is None:
            self._visits = visits
        return th.from_numpy(total.reshape(len(chosen), self.episodes))

    def _simulate(self, actor: Actor, tasks: Tasks) -> tuple[NDArray[np.float64], _RiskySteps]:
        simulation = self.pool.simulation(tasks)
        running = np.arange(len(tasks))
        visits = []
        memo = PolicyMemo(actor, simulation)
        for _ in range(simulation.horizon):
            uniforms = self.generator.random((2, len(tasks)))[:, running]
            view = memo.add(simulation.views())
            failure, going_on = simulation.step(np.exp(memo.log_pi[view]), uniforms)
            risky = np.flatnonzero(failure.any(axis=1))
            visits.append((running[risky], view[risky], failure[risky]))
            running = running[going_on]
            if not len(running):
                break
        episode, view, chance = (np.concatenate(column) for column in zip(*visits, strict=True))
        steps = log_survival_of_step(th.from_numpy(memo.log_pi[view]), th.from_numpy(chance)).numpy()
        total = np.zeros(len(tasks))
        np.add.at(total, episode, steps)
        assert memo.index is not None
        return total, _RiskySteps(episode, view, memo.index.views.copy(), chance, simulation)

    def score(self, model: Any, tasks: Tasks | None = None) -> th.Tensor:
        """Scores without a graph. If the whole pool is scored, the visited states are kept for :meth:`rescore`.

        :param model: SB3 on-policy model with discrete actions
        :param tasks: indices of the tasks; ``None`` for all
        :return: scores, shape (tasks,), float64, CPU
        """
        return episode_scores(self.log_survival(model, tasks))

    def rescore(self, model: Any, tasks: Tasks) -> th.Tensor:
        """Scores with a graph: the current policy at the states that the last full :meth:`score` visited.

        :param model: SB3 on-policy model with discrete actions
        :param tasks: indices of the tasks
        :return: scores, shape (tasks,), float64, CPU
        :raises RuntimeError: if the whole pool was never scored
        """
        if self._visits is None:
            raise RuntimeError(
                "rescore() needs the states that score() visits, and there are none yet; call score(model) first"
            )
        tasks = task_indices(tasks, self.n_tasks)
        position = np.full(self.n_tasks, -1)
        position[tasks] = np.arange(len(tasks))
        visits = self._visits
        row = position[visits.episode // self.episodes]
        chosen = row >= 0
        total = th.zeros(len(tasks) * self.episodes, dtype=th.float64)
        if chosen.any():
            actor = Actor(model, self.n_actions)
            used, view = np.unique(visits.view[chosen], return_inverse=True)
            with actor.evaluating():
                log_pi = actor.log_probabilities_of_views(visits.simulation, visits.distinct[used])
            steps = log_survival_of_step(log_pi[th.from_numpy(view)], th.from_numpy(visits.failure[chosen]))
            slot = row[chosen] * self.episodes + visits.episode[chosen] % self.episodes
            total = total.index_add(0, th.from_numpy(slot), steps)
        return episode_scores(total.reshape(len(tasks), self.episodes))

    def state_dict(self) -> dict[str, Any]:
        """The state that a resumed run needs."""
        return {"generator": self.generator.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state.

        :param state: as returned by :meth:`state_dict`
        """
        self.generator.bit_generator.state = state["generator"]


def episode_scores(log_survival: th.Tensor) -> th.Tensor:
    """Score of the mean failure probability of each task's episodes. It is precise for p near 0 and for p near 1.

    :param log_survival: log survival probability of each episode, shape (tasks, episodes), float64
    :return: scores, shape (tasks,), float64
    """
    if log_survival.shape[1] == 1:
        scores: th.Tensor = failure_score_from_log_survival(log_survival[:, 0])
        return scores
    p = -th.expm1(log_survival).mean(dim=1)
    small = p < 0.5
    near = failure_score(th.where(small, p, 0.5).log())
    log_mean = th.logsumexp(log_survival, dim=1) - np.log(log_survival.shape[1])
    far = failure_score_from_log_survival(th.where(small, -1.0, log_mean).clamp(max=0.0))
    return th.where(small, near, far)
