"""SplittingScorer: unbiased small failure probabilities, of any model in any simulator whose state can be kept."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from tqdm import tqdm

from sb3_forecast.checks import check_seed, real, task_indices, whole
from sb3_forecast.scorers.playing import count_success, is_stochastic, seeded
from sb3_forecast.scorers.protocols import Measurement, Scorer, Tasks
from sb3_forecast.scorers.splitting.agent import Agent
from sb3_forecast.scorers.splitting.critic import Critic
from sb3_forecast.scorers.splitting.intervals import log_normal_intervals
from sb3_forecast.scorers.splitting.keeping import Keeper, MakesEnvs, find_keeper
from sb3_forecast.scorers.splitting.levels import Splitting
from sb3_forecast.scorers.splitting.walking import Coordinate, Walker
from sb3_forecast.statistics.scores import failure_score

#: failure probability above which counting does as well
COUNTING_DOES = 1e-2
#: chances of a random action in the episodes from which the critic learns
_PILOT_NOISE = (0.05, 0.15, 0.3, 0.5)
#: paths of all tasks that are in memory at once
_PATHS = 4000
#: heights are rounded down to this many places per unit of log-odds, so that a path has few records
_PLACES = 2.0


@dataclass(frozen=True)
class SplittingResult:
    """What splitting found.

    :param tasks: indices of the tasks, shape (tasks,), int64
    :param estimates: unbiased estimates of each task's failure probability, shape (tasks, repetitions), float64
    :param intervals: 90% intervals of their means, shape (tasks, 2); NaN where every estimate is 0
    :param task_steps: environment steps taken for each task, shape (tasks,), int64
    :param pilot_steps: those of the pilot
    :param paths: paths of each task, over all repetitions
    """

    tasks: NDArray[np.int64]
    estimates: NDArray[np.float64]
    intervals: NDArray[np.float64]
    task_steps: NDArray[np.int64]
    pilot_steps: int
    paths: int

    @property
    def steps(self) -> int:
        """Environment steps that were taken, those of the pilot included."""
        return int(self.task_steps.sum()) + self.pilot_steps

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """Mean of the estimates of each task, shape (tasks,), float64.

        It is at most (M + 1/2) / (M + 1) for M paths, as if they were counted: paths that all fail do not prove that p = 1.
        """
        most = (self.paths + 0.5) / (self.paths + 1.0)
        found: NDArray[np.float64] = np.minimum(self.estimates.mean(axis=1), most)
        return found


class SplittingScorer(Scorer):
    """Failure scores by adaptive multilevel splitting.

    Counting needs 100 / p episodes for a failure probability p. Splitting plays a few paths, kills those that stayed far from failing, and
    goes on from the states in which the others came near. It needs an environment whose state can be kept: with ``get_state`` and
    ``set_state``, by copying (classic control, MuJoCo) or by replaying actions (Box2D). The scorer finds out which works, and proves it
    before it is used.

    How near a state is to failing is a *coordinate*: your function of the observations, or a critic that learns from episodes with random
    actions. A bad coordinate costs work, and no bias. Where actions of a stochastic policy over discrete actions cause failures, dangerous
    actions are drawn more often, and weighted accordingly (``tilt``).

    The scores have no gradient.

    :param pool: tasks that can be played in single environments: pools of ``sb3_forecast_envs``, or any pool with ``make_env()``
    :param particles: paths of one splitting
    :param repetitions: independent splittings of each task; two or more give intervals
    :param coordinate: takes a batch of observations, returns a number for each that grows towards a failure; ``None`` for the critic
    :param tilt: largest chance, per step, of an action drawn by its danger, in [0, 1); 0 for the policy's own actions
    :param pilot: episodes from which the critic learns
    :param budget: environment steps after which no further repetition of the pool begins; ``None`` for no budget. The first two are always
        played
    :param seed: seed of everything
    :param deterministic: whether the model takes its likeliest action. ``None``: on-policy models sample their actions, others take their
        likeliest
    :param slots: episodes played side by side
    :param progress_bar: whether to show progress
    :raises ValueError: if an argument is out of range, or the state of the environments cannot be kept
    """

    samples = True

    def __init__(
        self,
        pool: MakesEnvs,
        particles: int = 50,
        repetitions: int = 4,
        coordinate: Coordinate | None = None,
        tilt: float = 0.3,
        pilot: int = 400,
        budget: int | None = None,
        seed: int = 0,
        deterministic: bool | None = None,
        slots: int = 128,
        progress_bar: bool = False,
    ) -> None:
        if not callable(getattr(pool, "make_env", None)):
            raise ValueError(
                f"pool must have make_env(), which makes one environment that plays its tasks, got {pool!r}; use scorer='frequency'"
            )
        whole("particles", particles, low=4, use="for example 50")
        whole("repetitions", repetitions, low=1, use="for example 4")
        whole("pilot", pilot, low=0, use="for example 400")
        whole("slots", slots, low=1, use="for example 128")
        if not 0.0 <= real("tilt", tilt) < 1.0:
            raise ValueError(f"tilt must be in [0, 1), got {tilt}; use 0.3, or 0 for the policy's own actions")
        if budget is not None:
            whole("budget", budget, low=1, use="a number of environment steps, or None")
        if coordinate is not None and not callable(coordinate):
            raise ValueError(
                f"coordinate must be a function of a batch of observations, got {coordinate!r}; use None for a critic that is learnt"
            )
        self.pool, self.n_tasks = pool, len(pool)
        self.particles, self.repetitions, self.coordinate, self.tilt = particles, repetitions, coordinate, tilt
        self.pilot, self.budget, self.seed, self.deterministic = pilot, budget, check_seed(seed), deterministic
        self.slots, self.progress_bar = slots, progress_bar
        self.keeper: Keeper = find_keeper(pool, seed)
        self.space: spaces.Space[Any] = pool.make_env().observation_space
        #: what the last :meth:`estimate` found
        self.last: SplittingResult | None = None
        self._notes: list[str] = []
        self._steps_played = 0

    @property
    def key(self) -> str:
        """Key of the pool whose tasks are scored."""
        return self.pool.key

    @property
    def steps_played(self) -> int:
        """Number of environment steps that splitting has taken so far."""
        return self._steps_played

    def estimate(self, model: BaseAlgorithm, tasks: Tasks | None = None) -> SplittingResult:
        """Estimate failure probabilities.

        :param model: any SB3 or sb3-contrib model
        :param tasks: indices of the tasks; ``None`` for all
        :return: the estimates
        :raises ValueError: if the environment reports no cost, or the model explores with gSDE
        """
        chosen = task_indices(tasks, self.n_tasks)
        greedy = not is_stochastic(model) if self.deterministic is None else self.deterministic
        generator = np.random.default_rng([self.seed, 77])
        agent = Agent(model, greedy, generator)
        walker = Walker(self.keeper, agent, self.space, generator, self.slots)
        with seeded(self.seed):
            critic = self._learn(walker, chosen, generator)
            pilot_steps = walker.steps
            estimates, task_steps = self._sweeps(walker, chosen, critic, generator)
        self._steps_played += walker.steps
        paths = estimates.shape[1] * self.particles
        self.last = SplittingResult(chosen, estimates, log_normal_intervals(estimates), task_steps, pilot_steps, paths)
        return self.last

    def _learn(self, walker: Walker, tasks: NDArray[np.int64], generator: np.random.Generator) -> Critic | None:
        """Let a critic learn from noisy episodes; ``None`` if nothing needs it, or no episode fails."""
        self._notes = []
        tilts = self.tilt > 0.0 and walker.agent.actor is not None
        if self.pilot == 0 or (self.coordinate is not None and not tilts):
            return None
        drawn = generator.choice(tasks, self.pilot)
        found = walker.pilot(drawn.tolist(), [_PILOT_NOISE[i % len(_PILOT_NOISE)] for i in range(self.pilot)])
        if not np.isfinite(found.to_failure).any():
            self._notes.append(
                f"none of {self.pilot} pilot episodes failed, so nothing is known of what is dangerous, and splitting is no better than "
                "counting; use a larger pilot, or a coordinate of your own"
            )
            return None
        return Critic(found, walker.agent.n_actions, self.seed)

    def _sweeps(
        self, walker: Walker, tasks: NDArray[np.int64], critic: Critic | None, generator: np.random.Generator
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Estimates, shape (tasks, repetitions), and environment steps of each task."""

        def height(observations: Any, decision: Any) -> NDArray[np.float64]:
            if self.coordinate is not None:
                values = np.asarray(self.coordinate(observations), dtype=np.float64)
                if values.shape != (len(decision.log_weights),) or np.isnan(values).any():
                    raise ValueError(
                        f"coordinate must return one number per observation, got {values!r}; use a function of a batch of observations"
                    )
                return values
            if critic is None:
                return np.zeros(len(decision.log_weights))
            danger = np.clip(decision.danger, 1e-9, 1.0 - 1e-9)
            rounded: NDArray[np.float64] = np.floor(_PLACES * np.log(danger / (1.0 - danger))) / _PLACES
            return rounded

        columns: list[NDArray[np.float64]] = []
        steps = np.zeros(len(tasks), dtype=np.int64)
        size = max(_PATHS // self.particles, 1)
        with tqdm(total=len(tasks) * self.repetitions, disable=not self.progress_bar, desc="splittings") as bar:
            for repetition in range(self.repetitions):
                before = walker.steps
                found = []
                for begin in range(0, len(tasks), size):
                    runs = [Splitting(int(task), self.particles, generator) for task in tasks[begin : begin + size]]
                    walker.split(runs, height, self.tilt if walker.agent.actor is not None else 0.0, critic)
                    self.keeper.forget()
                    found += [run.estimate for run in runs]
                    steps[begin : begin + size] += [run.steps for run in runs]
                    bar.update(len(runs))
                columns.append(np.array(found))
                used = walker.steps - before
                if self.budget is not None and repetition > 0 and walker.steps + used > self.budget:
                    break
        if self.budget is not None and walker.steps > self.budget:
            self._notes.append(
                f"{walker.steps} environment steps were taken, more than the budget of {self.budget}; use fewer particles or tasks"
            )
        return np.stack(columns, axis=1), steps

    def score(self, model: Any, tasks: Tasks | None = None) -> th.Tensor:
        """Scores of the estimated probabilities.

        :param model: any SB3 or sb3-contrib model
        :param tasks: indices of the tasks; ``None`` for all
        :return: scores, shape (tasks,), float64, CPU; -inf for tasks in which no path failed
        """
        found = self.estimate(model, tasks).probabilities
        with np.errstate(divide="ignore"):
            return th.from_numpy(np.asarray(failure_score(np.log(found))))

    def rescore(self, model: Any, tasks: Tasks) -> th.Tensor:
        """Not possible: splitting has no gradient.

        :raises ValueError: always
        """
        raise ValueError(
            "scorer must have a gradient for training, got 'splitting', which only measures; use 'exact', 'survival' or 'episodes', or "
            "forecast_coef=0"
        )

    def measure(self, model: Any, k: int = 10, seed: int = 0) -> Measurement:
        """Scores, and successes counted in one episode per task; see :meth:`Scorer.measure`."""
        found = super().measure(model, k, seed)
        assert self.last is not None
        env = self.pool.make_vec_env(min(16, self.n_tasks))
        success = count_success(model, env, self.n_tasks, seed)
        return replace(found, success=success, frequencies=self.last.estimates.mean(axis=1), steps=self.last.task_steps)

    def warnings(self, scores: NDArray[np.float64], k: int) -> tuple[str, ...]:
        """Reasons not to trust the scores, and whether counting would do; see :meth:`Scorer.warnings`."""
        notes = list(self._notes)
        unseen = int(np.isneginf(scores).sum())
        if unseen:
            notes.append(
                f"in {unseen} of {len(scores)} tasks no path failed: their failure probability is not known to be 0, only too small for "
                f"{self.particles} particles"
            )
        if self.last is not None and len(scores) and np.median(self.last.probabilities) > COUNTING_DOES:
            notes.append(
                "most failure probabilities are above 1 in 100, where counting (scorer='frequency') does as well for less"
            )
        return tuple(notes)
