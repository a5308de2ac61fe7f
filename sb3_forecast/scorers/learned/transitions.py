"""Transitions that a cost model learns from, and what counts as a failing one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sb3_forecast.scorers.playing import QueueStep

Features = NDArray[np.float32]


@dataclass
class EpisodeLog:
    """Transitions of some episodes, step by step: what a cost model learns from."""

    features: list[NDArray[np.float32]] = field(default_factory=list)
    actions: list[NDArray[np.int64]] = field(default_factory=list)
    costs: list[NDArray[np.float64]] = field(default_factory=list)
    episodes: list[NDArray[np.int64]] = field(default_factory=list)

    def add(self, features: NDArray[np.float32], actions: NDArray[np.int64], step: QueueStep) -> None:
        """Note a step's transitions of environments that count.

        :param features: of the observations before it, shape (envs, width)
        :param actions: shape (envs,)
        :param step: what came of it
        """
        counted = step.episodes >= 0
        self.episodes.append(step.episodes[counted])
        self.features.append(features[counted])
        self.actions.append(actions[counted])
        self.costs.append(step.costs[counted])


class Transitions:
    """Every failing transition, a uniform sample of the others, and the most recent ones as they came.

    :param n_features: width of an observation
    :param generator: source of randomness
    :param capacity: how many of the others are kept
    :param n_recent: how many recent ones are kept
    """

    def __init__(
        self, n_features: int, generator: np.random.Generator, capacity: int = 300_000, n_recent: int = 100_000
    ) -> None:
        self.generator, self.capacity, self.n_recent = generator, capacity, n_recent
        self.failing: tuple[Features, NDArray[np.int64]] = _nothing(n_features)
        self.others: tuple[Features, NDArray[np.int64]] = _nothing(n_features)
        self.recent: tuple[Features, NDArray[np.int64]] = _nothing(n_features)
        self.recent_failed = np.zeros(0, dtype=np.bool_)
        self.n_others_seen = 0

    def add(self, features: Features, actions: NDArray[np.int64], failed: NDArray[np.bool_]) -> None:
        """Keep some transitions.

        :param features: observations, shape (n, width)
        :param actions: shape (n,)
        :param failed: whether a cost followed, shape (n,)
        """
        self.failing = _joined(self.failing, (features[failed], actions[failed]))
        self._sample(features[~failed], actions[~failed])
        self.recent = _joined(self.recent, (features, actions), self.n_recent)
        self.recent_failed = np.concatenate([self.recent_failed, failed])[-self.n_recent :]

    def _sample(self, features: Features, actions: NDArray[np.int64]) -> None:
        room = min(self.capacity - len(self.others[1]), len(actions))
        if room > 0:
            self.others = _joined(self.others, (features[:room], actions[:room]))
        self.n_others_seen += room
        features, actions = features[room:], actions[room:]
        # reservoir sampling: the t-th transition replaces one of the kept with probability capacity / t
        slots = (self.generator.random(len(actions)) * (self.n_others_seen + 1 + np.arange(len(actions)))).astype(np.int64)
        replaces = slots < self.capacity
        self.others[0][slots[replaces]], self.others[1][slots[replaces]] = features[replaces], actions[replaces]
        self.n_others_seen += len(actions)

    def forget_all_but_failing(self) -> None:
        """Keep the failing transitions only."""
        nothing = _nothing(self.failing[0].shape[1])
        self.others, self.recent, self.recent_failed, self.n_others_seen = nothing, nothing, np.zeros(0, dtype=np.bool_), 0

    def state_dict(self) -> dict[str, Any]:
        """Everything that is kept."""
        return {name: getattr(self, name) for name in ("failing", "others", "recent", "recent_failed", "n_others_seen")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`.

        :param state: as returned there
        """
        for name, value in state.items():
            setattr(self, name, tuple(part.copy() for part in value) if isinstance(value, tuple) else value)


def _nothing(n_features: int) -> tuple[Features, NDArray[np.int64]]:
    return np.zeros((0, n_features), dtype=np.float32), np.zeros(0, dtype=np.int64)


def _joined(
    old: tuple[Features, NDArray[np.int64]], new: tuple[Features, NDArray[np.int64]], most: int | None = None
) -> tuple[Features, NDArray[np.int64]]:
    features, actions = np.concatenate([old[0], new[0]]), np.concatenate([old[1], new[1]])
    return (features, actions) if most is None else (features[-most:], actions[-most:])


def label_costs(costs: NDArray[np.bool_], dones: NDArray[np.bool_], delay: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether a cost follows each step at once or up to ``delay`` steps later in its episode, and whether all of these steps were seen.

    A step near the end of the record counts as unknown also where a cost was seen already: keeping those alone would be a selection.

    :param costs: whether each step had a cost, shape (steps, environments)
    :param dones: whether an episode ended with the step, same shape
    :param delay: how many steps a cost may be late
    :return: failed, known, same shape
    """
    failed, known = costs.copy(), np.ones(costs.shape, dtype=np.bool_)
    going_on = ~dones
    for late in range(1, delay + 1):
        if late >= len(costs):
            known &= ~going_on
            break
        # row t of going_on: the episode of step t still runs `late` steps later
        failed[:-late] |= going_on[:-late] & costs[late:]
        known[-late:] &= ~going_on[-late:]
        going_on = np.concatenate([going_on[:-late] & ~dones[late:], going_on[-late:]])
    return failed, known
