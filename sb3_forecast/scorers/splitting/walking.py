"""Plays many paths of many tasks side by side: one forward pass for all, one environment for each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from sb3_forecast.scorers.learned.features import features_of
from sb3_forecast.scorers.splitting.agent import Agent
from sb3_forecast.scorers.splitting.critic import Critic, Pilot
from sb3_forecast.scorers.splitting.keeping import Episode, Keeper
from sb3_forecast.scorers.splitting.levels import Path, Splitting

#: how near to a failure observations are: takes a batch of them, returns shape (batch,)
Coordinate = Callable[[Any], Any]


@dataclass(frozen=True)
class Kept:
    """A state of an episode and of the agent in it.

    :param state: the episode's, see :meth:`Keeper.keep`
    :param memory: the agent's
    :param log_weight: log weight of the path up to here
    """

    state: Any
    memory: Any
    log_weight: float


class Walk:
    """An episode that is played now.

    :param episode: the episode
    :param memory: the agent's memory
    :param log_weight: log weight so far
    """

    def __init__(self, episode: Episode, memory: Any = None, log_weight: float = 0.0) -> None:
        self.episode, self.memory, self.log_weight = episode, memory, log_weight


def stacked(observations: list[Any]) -> Any:
    """A batch of observations: an array, or a dictionary of arrays."""
    if isinstance(observations[0], dict):
        return {key: np.stack([seen[key] for seen in observations]) for key in observations[0]}
    return np.stack(observations)


class Walker:
    """Plays paths.

    :param keeper: keeps and restores states
    :param agent: acts
    :param space: observation space of the environments
    :param generator: source of the seeds of noise
    :param slots: episodes played side by side
    """

    def __init__(
        self, keeper: Keeper, agent: Agent, space: spaces.Space[Any], generator: np.random.Generator, slots: int
    ) -> None:
        self.keeper, self.agent, self.space, self.generator, self.slots = keeper, agent, space, generator, slots
        #: environment steps taken so far
        self.steps = 0

    def _seed(self) -> int:
        return int(self.generator.integers(2**31))

    def _decide(
        self, walks: list[Walk], noise: NDArray[np.float64], tilt: float, critic: Critic | None, featured: bool
    ) -> Any:
        observations = stacked([walk.episode.observation for walk in walks])
        features = features_of(observations, self.space) if featured else None
        masks = None
        if self.agent.masked:
            masks = np.stack([walk.episode.env.get_wrapper_attr("action_masks")() for walk in walks])
        memories = [walk.memory for walk in walks]
        return observations, features, self.agent.decide(observations, features, memories, masks, noise, tilt, critic)

    def _step(self, walk: Walk, action: Any) -> tuple[bool, bool]:
        """Take one step: whether it failed, and whether the path ends."""
        try:
            cost, ended = self.keeper.step(walk.episode, action)
        except KeyError as error:
            raise ValueError(
                "env must report info['cost'] at every step, got an info without it; use environments of "
                "sb3_forecast_envs.SeededTasks(env, n_tasks, failed=...)"
            ) from error
        if not np.isfinite(cost):
            raise FloatingPointError(f"info['cost'] must be finite, got {cost}; correct the environment")
        self.steps += 1
        return cost > 0.0, ended or cost > 0.0

    def pilot(self, tasks: Iterable[int], noises: Iterable[float]) -> Pilot:
        """Play noisy episodes to their end.

        :param tasks: task of each episode
        :param noises: chance of a random action in each of them
        :return: their steps
        """
        listed = list(zip(tasks, noises, strict=True))
        jobs = iter(listed)
        running: list[tuple[Walk, float, list[Any], list[int]]] = []
        features: list[NDArray[np.float32]] = []
        actions: list[int] = []
        distances: list[float] = []
        while True:
            while len(running) < self.slots and (job := next(jobs, None)) is not None:
                running.append((Walk(self.keeper.start(job[0], self._seed())), job[1], [], []))
            if not running:
                break
            noise = np.array([row[1] for row in running])
            _, seen, decision = self._decide([row[0] for row in running], noise, 0.0, None, True)
            left = []
            for i, row in enumerate(running):
                walk, _, rows, taken = row
                walk.memory = decision.memories[i]
                rows.append(seen[i])
                taken.append(int(decision.indices[i]))
                failed, ended = self._step(walk, decision.actions[i])
                if not ended:
                    left.append(row)
                    continue
                self.keeper.release(walk.episode)
                features += rows
                actions += taken
                distances += [float(d) if failed else np.inf for d in range(len(rows) - 1, -1, -1)]
            running = left
        return Pilot(np.stack(features), np.array(actions), np.array(distances), len(listed))

    def split(
        self, runs: list[Splitting], height: Callable[[Any, Any], NDArray[np.float64]], tilt: float, critic: Critic | None
    ) -> None:
        """Play some splittings to their end.

        :param runs: one per task and repetition
        :param height: (observations, decision) -> coordinates, shape (batch,)
        :param tilt: see :meth:`Agent.decide`
        :param critic: see :meth:`Agent.decide`
        """
        waiting: list[tuple[Splitting, Path, Kept | None]] = [(run, path, None) for run in runs for path in run.paths]
        pending = {id(run): len(run.paths) for run in runs}
        waiting.reverse()
        running: list[tuple[Splitting, Path, Walk]] = []
        while waiting or running:
            while waiting and len(running) < self.slots:
                run, path, kept = waiting.pop()
                running.append((run, path, self._begin(run, kept)))
            observations, _, decision = self._decide(
                [row[2] for row in running], np.zeros(len(running)), tilt, critic, critic is not None
            )
            heights = height(observations, decision)
            left = []
            for i, row in enumerate(running):
                run, path, walk = row
                if heights[i] > path.height:
                    path.height = float(heights[i])
                    if path.height > run.level:
                        kept = Kept(self.keeper.keep(walk.episode), walk.memory, walk.log_weight)
                        path.records.append((path.height, kept))
                walk.memory = decision.memories[i]
                walk.log_weight += float(decision.log_weights[i])
                run.steps += 1
                failed, ended = self._step(walk, decision.actions[i])
                if not ended:
                    left.append(row)
                    continue
                self.keeper.release(walk.episode)
                if failed:
                    path.height, path.log_weight = np.inf, walk.log_weight
                pending[id(run)] -= 1
                if pending[id(run)] == 0:
                    jobs = list(self._next(run))
                    pending[id(run)] = len(jobs)
                    waiting += [(run, *job) for job in jobs]
            running = left

    @staticmethod
    def _next(run: Splitting) -> Iterator[tuple[Path, Kept]]:
        """The branches that a splitting plays next; none if it is finished."""
        while not run.finished:
            branches = run.kill()
            if branches:
                yield from ((run.paths[index], kept) for index, kept in branches)
                return

    def _begin(self, run: Splitting, kept: Kept | None) -> Walk:
        if kept is None:
            return Walk(self.keeper.start(run.task, self._seed()))
        episode = self.keeper.branch(kept.state, self._seed())
        self.steps += episode.replayed
        run.steps += episode.replayed
        return Walk(episode, kept.memory, kept.log_weight)
