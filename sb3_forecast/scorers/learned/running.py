"""The training's own episodes, put together from rollouts. An episode that a rollout cuts goes on in the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sb3_forecast.scorers.situations import Situations


@dataclass(frozen=True)
class Steps:
    """Steps of some episodes.

    :param episode: episode of each step, shape (steps,), int64
    :param task: its task, shape (steps,), int64
    :param cost: whether the step had a cost, shape (steps,), bool
    :param situations: what the agent's action depended on
    :param features: features of the observations, shape (steps, features), float32
    :param inputs: inputs of the cost model for the step's action, shape (steps, columns), float32
    :param outputs: its output for this action, shape (steps,), int64
    """

    episode: NDArray[np.int64]
    task: NDArray[np.int64]
    cost: NDArray[np.bool_]
    situations: Situations
    features: NDArray[np.float32]
    inputs: NDArray[np.float32]
    outputs: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.episode)

    def take(self, rows: NDArray[np.int64]) -> Steps:
        """Some of the steps.

        :param rows: indices, shape (n,)
        """
        return Steps(
            self.episode[rows], self.task[rows], self.cost[rows], self.situations.take(rows), self.features[rows], self.inputs[rows],
            self.outputs[rows],
        )  # fmt: skip

    def joined(self, later: Steps) -> Steps:
        """These steps, then others."""
        return Steps.all_of([self, later])

    @staticmethod
    def all_of(parts: Sequence[Steps]) -> Steps:
        """The steps of several parts, one after the other.

        :param parts: at least one
        """
        names = ("episode", "task", "cost", "features", "inputs", "outputs")
        arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        return Steps(situations=Situations.joined([part.situations for part in parts]), **arrays)


class RunningEpisodes:
    """Numbers the episodes of a training, and keeps the steps of those that have not ended."""

    def __init__(self) -> None:
        self._current: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._next = 0
        self._open: Steps | None = None

    def numbers(self, dones: NDArray[np.bool_], starts: NDArray[np.bool_]) -> NDArray[np.int64]:
        """The episode of each step of a rollout.

        :param dones: whether the episode ended with the step, shape (steps, environments), bool
        :param starts: whether the rollout begins with a new episode, shape (environments,), bool. What is open there was cut off, because the
            environments were reset
        :return: shape (steps, environments), int64; larger for later episodes
        """
        envs = dones.shape[1]
        if len(self._current) != envs:
            # other environments than before
            self._current, self._open = self._fresh(envs), None
        elif starts.any() and self._open is not None:
            self._open = self._open.take(np.flatnonzero(~np.isin(self._open.episode, self._current[starts])))
        ended = np.cumsum(dones, axis=0)
        before: NDArray[np.int64] = ended - dones
        numbers: NDArray[np.int64] = np.where(before == 0, self._current, self._next + before * envs + np.arange(envs))
        self._current = np.where(ended[-1] == 0, self._current, self._next + ended[-1] * envs + np.arange(envs))
        self._next += int(ended[-1].max() + 1) * envs
        return numbers

    def _fresh(self, count: int) -> NDArray[np.int64]:
        self._next += count
        return np.arange(self._next - count, self._next)

    def add(self, steps: Steps, ended: NDArray[np.int64]) -> Steps:
        """Add the steps of a rollout.

        :param steps: the steps, in the order of time
        :param ended: episodes that ended
        :return: the steps of the episodes that ended, up to the first cost of each; sorted by episode, then in the order of time
        """
        known = steps if self._open is None else self._open.joined(steps)
        over = np.isin(known.episode, ended)
        self._open = known.take(np.flatnonzero(~over))
        return up_to_first_costs(known.take(np.flatnonzero(over)))

    def state_dict(self) -> dict[str, Any]:
        """The state that a resumed run needs."""
        return {"current": self._current.copy(), "next": self._next, "open": self._open}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state.

        :param state: as returned by :meth:`state_dict`
        """
        self._current, self._next, self._open = state["current"].copy(), state["next"], state["open"]


def up_to_first_costs(steps: Steps) -> Steps:
    """The steps of each episode up to its first cost, with which it has failed; sorted by episode.

    :param steps: steps of whole episodes, or of their ends; those of an episode in the order of time
    """
    order = np.argsort(steps.episode, kind="stable")
    costs = steps.cost[order].astype(np.int64)
    before: NDArray[np.int64] = np.cumsum(costs) - costs
    first = np.append(True, np.diff(steps.episode[order]) != 0)
    # costs before the step, in its own episode
    before -= np.maximum.accumulate(np.where(first, before, 0)) if len(order) else before
    return steps.take(order[before == 0])
