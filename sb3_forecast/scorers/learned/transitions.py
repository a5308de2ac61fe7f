"""The transitions that a cost model learns from, and the rule for which of them count as failing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sb3_forecast.scorers.playing import QueueStep

Features = NDArray[np.float32]


@dataclass
class EpisodeLog:
    """Transitions of some episodes, for a cost model to learn from. Each list has one entry per step.

    :param features: observations before the step, each of shape (n, n_features), float32
    :param actions: actions, each of shape (n,), int64
    :param costs: costs of the step, each of shape (n,), float64
    :param episodes: episode of each transition, each of shape (n,), int64
    """

    features: list[NDArray[np.float32]] = field(default_factory=list)
    actions: list[NDArray[np.int64]] = field(default_factory=list)
    costs: list[NDArray[np.float64]] = field(default_factory=list)
    episodes: list[NDArray[np.int64]] = field(default_factory=list)

    def add(self, features: NDArray[np.float32], actions: NDArray[np.int64], step: QueueStep) -> None:
        """Add the transitions of one step, except those of episodes that do not count.

        :param features: observations before the step, shape (envs, n_features), float32
        :param actions: actions, shape (envs,), int64
        :param step: the result of the step
        """
        counted = step.episodes >= 0
        self.episodes.append(step.episodes[counted])
        self.features.append(features[counted])
        self.actions.append(actions[counted])
        self.costs.append(step.costs[counted])


class Transitions:
    """Keeps all failing transitions, a uniform sample of the other ones, and the most recent ones of both kinds.

    :param n_features: number of features of an observation
    :param generator: source of random numbers
    :param capacity: largest number of other transitions
    :param n_recent: largest number of recent transitions
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
        """Add some transitions.

        :param features: observations, shape (n, n_features), float32
        :param actions: actions, shape (n,), int64
        :param failed: whether a cost followed, shape (n,), bool
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
        # reservoir sampling: the t-th transition replaces a kept one with probability capacity / t
        slots = (self.generator.random(len(actions)) * (self.n_others_seen + 1 + np.arange(len(actions)))).astype(np.int64)
        replaces = slots < self.capacity
        self.others[0][slots[replaces]], self.others[1][slots[replaces]] = features[replaces], actions[replaces]
        self.n_others_seen += len(actions)

    def forget_all_but_failing(self) -> None:
        """Remove all transitions except the failing ones."""
        nothing = _nothing(self.failing[0].shape[1])
        self.others, self.recent, self.recent_failed, self.n_others_seen = nothing, nothing, np.zeros(0, dtype=np.bool_), 0

    def state_dict(self) -> dict[str, Any]:
        """The state that a resumed run needs: all transitions that are kept."""
        return {name: getattr(self, name) for name in ("failing", "others", "recent", "recent_failed", "n_others_seen")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state.

        :param state: as returned by :meth:`state_dict`
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
    """Label each step: does a cost follow at once, or at most ``delay`` steps later in the same episode?

    A label is known if the record holds all of these later steps of the episode. Near the end of the record, a label
    counts as unknown even if a cost was already seen: otherwise only the failing steps would be kept there, and the
    sample would be biased.

    :param costs: whether each step had a cost, shape (steps, environments), bool
    :param dones: whether an episode ended with the step, shape (steps, environments), bool
    :param delay: largest number of steps by which a cost may be late
    :return: whether a cost follows, and whether that is known; both of shape (steps, environments), bool
    """
    failed, known = costs.copy(), np.ones(costs.shape, dtype=np.bool_)
    going_on = ~dones
    for late in range(1, delay + 1):
        if late >= len(costs):
            known &= ~going_on
            break
        # row t of going_on: whether the episode of step t is still running `late` steps later
        failed[:-late] |= going_on[:-late] & costs[late:]
        known[-late:] &= ~going_on[-late:]
        going_on = np.concatenate([going_on[:-late] & ~dones[late:], going_on[-late:]])
    return failed, known
