"""What tasks offer to a scorer, and what a scorer offers to training and measuring.

A pool says in ``scorers`` what it can serve; ``scorer="auto"`` takes the first. ``"exact"`` needs :class:`SupportsExact`, ``"survival"`` needs
:class:`SupportsSurvival`, ``"episodes"`` and ``"frequency"`` need :class:`SupportsEpisodes`. Environments implement these protocols without
importing this module.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch as th
from numpy.typing import ArrayLike, NDArray
from stable_baselines3.common.vec_env import VecEnv
from typing_extensions import Self

from sb3_forecast.statistics.scores import failure_probability

Tasks = NDArray[np.int64]


@runtime_checkable
class Pool(Protocol):
    """A pool of N tasks."""

    @property
    def scorers(self) -> Sequence[str]:
        """Scorers that the tasks can serve, strongest first."""

    @property
    def rare(self) -> NDArray[np.bool_]:
        """Which tasks belong to the rare mode, shape (N,); for reports only."""

    @property
    def key(self) -> str:
        """What tells these tasks from others: equal for the same tasks, also after pickling."""

    def __len__(self) -> int: ...

    def subset(self, indices: ArrayLike) -> Self:
        """A pool of some of the tasks.

        :param indices: positions in this pool, or a boolean mask over it
        """


@runtime_checkable
class TellsTasksApart(Protocol):
    """A pool that knows which of its tasks are the same as others."""

    def task_keys(self) -> Sequence[Hashable]:
        """One key per task: equal for tasks that are the same, also of another pool."""


class FiniteModel(Protocol):
    """Tasks as finite Markov decision processes."""

    @property
    def horizon(self) -> int:
        """Steps after which an episode ends."""

    @property
    def timeout_fails(self) -> bool:
        """Whether an episode that reaches the horizon has failed."""

    @property
    def n_actions(self) -> int:
        """Number of discrete actions."""

    def __len__(self) -> int: ...

    def tables(self, tasks: Tasks) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.uint8], NDArray[np.float64]]:
        """Reachable states of some tasks; state 0 of each task is its start.

        :param tasks: indices into the pool
        :return: first state of each task and the total, (tasks + 1,), int64; successors (states, columns), int32,
            numbered within the task, -1 success and -2 failure, the same number of columns side by side for each action; compact views
            (states, width), uint8: states with equal views look equal to the policy; probability of each column given its action
            (states, columns), float64, or (0, columns) where the dynamics are deterministic and each action has one column
        """

    def observations(self, views: NDArray[np.uint8]) -> NDArray[Any]:
        """What the policy sees for compact views, shape (views, *observation)."""

    def action_masks(self, views: NDArray[np.uint8]) -> NDArray[np.bool_] | None:
        """Actions that a policy with masks may take, shape (views, actions); ``None`` if the tasks have no masks."""


class Simulation(Protocol):
    """Episodes side by side, one per given task, with the failing actions known."""

    @property
    def horizon(self) -> int:
        """Steps after which an episode ends without failure."""

    @property
    def n_actions(self) -> int:
        """Number of discrete actions."""

    def views(self) -> NDArray[np.uint8]:
        """Compact views of the running episodes, shape (episodes, width), uint8."""

    def observations(self, views: NDArray[np.uint8]) -> NDArray[Any]:
        """What the policy sees for compact views, shape (views, *observation)."""

    def action_masks(self, views: NDArray[np.uint8]) -> NDArray[np.bool_] | None:
        """Actions that a policy with masks may take, shape (views, actions); ``None`` if the tasks have no masks."""

    def step(self, pi: NDArray[np.float64], uniforms: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Take one step in each running episode, given that it does not fail, and drop those that ended.

        An action is drawn in proportion to pi (1 - c), where c is the probability that it fails now; an episode without such an action ends.

        :param pi: action probabilities, shape (episodes, actions), float64
        :param uniforms: in [0, 1), shape (2, episodes): which action, and what it does where the dynamics are random
        :return: c, shape (episodes, actions), float64; which episodes go on, boolean, in the order before the call
        """


class SupportsExact(Pool, Protocol):
    """Tasks with a finite model."""

    def finite_model(self) -> FiniteModel:
        """The tasks as finite models."""


class SupportsEpisodes(Pool, Protocol):
    """Tasks that can be played."""

    def make_vec_env(self, n_envs: int) -> VecEnv:
        """Environments side by side that play these tasks: ``reset(options={"task": i})``, ``set_next_task``, ``info["cost"]``."""


class SupportsSurvival(SupportsEpisodes, Protocol):
    """Tasks that can be simulated with the failing actions known."""

    def simulation(self, tasks: Tasks) -> Simulation:
        """One episode of each given task, repeats allowed."""


@runtime_checkable
class PlaysTasks(Protocol):
    """An environment, single or vectorised, whose episodes are tasks of a pool."""

    @property
    def pool(self) -> Pool:
        """The tasks."""

    def set_next_task(self, task: int | None) -> None:
        """Say which task the next reset starts; ``None`` to draw it."""

    def set_task_weights(self, weights: NDArray[np.float64] | None, share: float = 1.0) -> None:
        """Start a share of the episodes on tasks drawn in proportion to weights.

        :param weights: one per task; ``None`` to draw all tasks alike
        :param share: share of the weighted draws, in [0, 1]
        """


@runtime_checkable
class Stateful(Protocol):
    """Something that a resumed run must restore: it samples, or learns."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`."""


@dataclass(frozen=True)
class Counts:
    """How often each task failed.

    :param failures: failed episodes of each task, shape (N,), int64
    :param trials: episodes of each task, shape (N,), int64
    """

    failures: NDArray[np.int64]
    trials: NDArray[np.int64]


@dataclass(frozen=True)
class Measurement:
    """What a scorer says of a model on all of its tasks.

    :param scores: failure scores psi, shape (N,), float64
    :param frequencies: failure probabilities without any smoothing, for means, shape (N,), float64
    :param success: success probabilities, shape (N,), float64; NaN where nothing tells
    :param warnings: reasons not to trust the scores
    :param counts: where the scores come from counting; else ``None``
    """

    scores: NDArray[np.float64]
    frequencies: NDArray[np.float64]
    success: NDArray[np.float64]
    warnings: tuple[str, ...] = ()
    counts: Counts | None = None


@dataclass(frozen=True)
class Rollout:
    """A finished rollout of the training, for a scorer that learns from it.

    :param model: the model, its rollout buffer full
    :param costs: of each step, shape (steps, environments)
    :param dones: whether the episode ended with the step, same shape
    :param observations: of each step as the environment gave them, where the buffer holds normalised ones; else ``None``
    """

    model: Any
    costs: NDArray[np.float64]
    dones: NDArray[np.bool_]
    observations: list[Any] | None


@runtime_checkable
class FailureScorer(Protocol):
    """Failure scores of N tasks under a model: the least that training and measuring need of a scorer."""

    @property
    def n_tasks(self) -> int:
        """Pool size N."""

    @property
    def supports_partial(self) -> bool:
        """Whether some tasks may be scored without the others."""

    def score(self, model: Any, tasks: Tasks | None = None) -> th.Tensor:
        """Scores without a graph.

        :param model: the agent or language model
        :param tasks: which tasks; ``None`` for all
        :return: shape (tasks,), float64, CPU
        """

    def rescore(self, model: Any, tasks: Tasks) -> th.Tensor:
        """Scores with a graph to the model's parameters.

        :param model: the agent or language model
        :param tasks: which tasks, as touched by the loss
        :return: shape (tasks,), float64, CPU
        """


class Scorer(ABC):
    """A complete scorer: :class:`FailureScorer`, and what training and measuring may ask beyond scores, with the usual answers.

    Derive your own scorer from it to change one of them; :func:`~sb3_forecast.scorers.make.complete` gives them to any other.
    """

    n_tasks: int
    #: whether some tasks may be scored without the others
    supports_partial: bool = True
    #: whether scoring the same model again gives other scores
    samples: bool = False
    #: whether the scorer learns from the training's rollouts, see :meth:`after_rollout`
    learns: bool = False

    @property
    @abstractmethod
    def key(self) -> str | None:
        """The ``key`` of the pool whose tasks are scored; ``None`` where there is none to compare."""

    @abstractmethod
    def score(self, model: Any, tasks: Tasks | None = None) -> th.Tensor:
        """See :meth:`FailureScorer.score`."""

    @abstractmethod
    def rescore(self, model: Any, tasks: Tasks) -> th.Tensor:
        """See :meth:`FailureScorer.rescore`."""

    def measure(self, model: Any, k: int = 10, seed: int = 0) -> Measurement:
        """Everything that a report needs, of all tasks.

        :param model: the agent or language model
        :param k: top scores that a forecast will use, for the warnings
        :param seed: seed of episodes that are played for success alone
        """
        scores = self.score(model).numpy()
        return Measurement(scores, failure_probability(scores), np.full(len(scores), np.nan), self.warnings(scores, k))

    def warnings(self, scores: NDArray[np.float64], k: int) -> tuple[str, ...]:
        """Reasons not to trust some scores.

        :param scores: scores of tasks, any shape (tasks,)
        :param k: top scores that a forecast uses
        """
        return ()

    @property
    def ready(self) -> bool:
        """Whether the scores mean something yet."""
        return True

    @property
    def steps_played(self) -> int:
        """Environment steps that scoring has taken so far."""
        return 0

    def after_rollout(self, rollout: Rollout) -> dict[str, float]:
        """Called after each rollout of a training if :attr:`learns`.

        :param rollout: the rollout
        :return: what to log
        """
        return {}
