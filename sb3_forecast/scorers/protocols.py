"""What a scorer needs from the tasks, and what training and measuring need from a scorer.

A pool lists in ``scorers`` the scorers that it can serve. In training, ``scorer="auto"`` takes the first one. ``"exact"``
needs :class:`SupportsExact`, ``"survival"`` needs :class:`SupportsSurvival`, ``"episodes"`` and ``"frequency"`` need
:class:`SupportsEpisodes`. Environments can implement these protocols without importing this module.
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

from sb3_forecast.statistics.allocation import Design
from sb3_forecast.statistics.scores import failure_probability

Tasks = NDArray[np.int64]


@runtime_checkable
class Pool(Protocol):
    """A pool of N tasks."""

    @property
    def scorers(self) -> Sequence[str]:
        """Names of the scorers that the pool can serve, the strongest first."""

    @property
    def rare(self) -> NDArray[np.bool_]:
        """Which tasks belong to the rare mode, shape (N,), bool. Only reports use it."""

    @property
    def key(self) -> str:
        """A text that identifies the tasks: two pools of the same tasks have the same key, also after pickling."""

    def __len__(self) -> int: ...

    def subset(self, indices: ArrayLike) -> Self:
        """A pool that holds some of the tasks.

        :param indices: positions in this pool, or a boolean mask over it
        """


@runtime_checkable
class TellsTasksApart(Protocol):
    """A pool that can say which of its tasks are equal."""

    def task_keys(self) -> Sequence[Hashable]:
        """One key per task. Equal tasks have equal keys, also if they belong to different pools."""


@runtime_checkable
class NamesTasks(Protocol):
    """A pool whose tasks have names that a person can use to find them again."""

    def label(self, task: int) -> str:
        """The name of a task.

        :param task: index into the pool
        """


class FiniteModel(Protocol):
    """Tasks as finite Markov decision processes."""

    @property
    def horizon(self) -> int:
        """Largest number of steps in an episode."""

    @property
    def timeout_fails(self) -> bool:
        """Whether an episode that reaches the horizon has failed."""

    @property
    def n_actions(self) -> int:
        """Number of discrete actions."""

    def __len__(self) -> int: ...

    def tables(self, tasks: Tasks) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.uint8], NDArray[np.float64]]:
        """Reachable states of some tasks. State 0 of each task is its start.

        :param tasks: indices into the pool
        :return: four arrays:

            - first state of each task, then the total number of states, shape (tasks + 1,), int64
            - successors, shape (states, columns), int32. States are numbered within their task; -1 is success, -2 is
              failure. Every action has the same number of columns, and they are neighbours
            - compact views, shape (states, width), uint8. States with equal views look equal to the policy
            - probability of each column if its action is taken, shape (states, columns), float64. The shape is (0, columns)
              if the dynamics are deterministic and each action has one column
        """

    def observations(self, views: NDArray[np.uint8]) -> NDArray[Any]:
        """What the policy sees for compact views, shape (views, *observation)."""

    def action_masks(self, views: NDArray[np.uint8]) -> NDArray[np.bool_] | None:
        """Actions that a policy with masks may take, shape (views, actions); ``None`` if the tasks have no masks."""


class Simulation(Protocol):
    """Parallel episodes, one per given task. It is known which actions fail."""

    @property
    def horizon(self) -> int:
        """Largest number of steps in an episode. An episode that reaches it has not failed."""

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
        """Take one step in each running episode, conditioned on no failure. Then drop the episodes that ended.

        An action is drawn in proportion to pi (1 - c), where c is the probability that it fails now. If pi (1 - c) is 0 for
        all actions, the episode ends.

        :param pi: action probabilities, shape (episodes, actions), float64
        :param uniforms: numbers in [0, 1), shape (2, episodes). Row 0 draws the action; row 1 draws its outcome if the
            dynamics are random
        :return: c, shape (episodes, actions), float64; which episodes continue, shape (episodes,), bool, in the order
            before the call
        """


class SupportsExact(Pool, Protocol):
    """Tasks with a finite model."""

    def finite_model(self) -> FiniteModel:
        """The tasks as finite models."""


class SupportsEpisodes(Pool, Protocol):
    """Tasks that can be played."""

    def make_vec_env(self, n_envs: int) -> VecEnv:
        """Parallel environments that play these tasks.

        They understand ``reset(options={"task": i})`` and ``set_next_task``, and report ``info["cost"]``.

        :param n_envs: number of environments
        """


class SupportsSurvival(SupportsEpisodes, Protocol):
    """Tasks that can be simulated, and whose simulation knows which actions fail."""

    def simulation(self, tasks: Tasks) -> Simulation:
        """One episode of each given task.

        :param tasks: indices into the pool; an index may occur more than once
        """


@runtime_checkable
class PlaysTasks(Protocol):
    """An environment, single or vectorised, whose episodes are tasks of a pool."""

    @property
    def pool(self) -> Pool:
        """The tasks."""

    def set_next_task(self, task: int | None) -> None:
        """Choose the task that the next reset starts.

        :param task: index into the pool; ``None`` to draw it at random
        """

    def set_task_weights(self, weights: NDArray[np.float64] | None, share: float = 1.0) -> None:
        """Start a share of the episodes on tasks that are drawn in proportion to weights.

        :param weights: one weight per task, shape (N,); ``None`` to draw all tasks with equal probability
        :param share: share of the episodes whose task is drawn by the weights, in [0, 1]
        """


@runtime_checkable
class Stateful(Protocol):
    """An object with a state that a resumed run must restore, because the object samples or learns."""

    def state_dict(self) -> dict[str, Any]:
        """The state that a resumed run needs."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state.

        :param state: as returned by :meth:`state_dict`
        """


@dataclass(frozen=True)
class Counts:
    """How often each task failed.

    :param failures: number of failed episodes of each task, shape (N,), int64
    :param trials: number of episodes of each task, shape (N,), int64
    :param first: failures among the first episodes of each task, shape (N,), int64, if what was played later depended on them
    :param design: what was played, if that depended on failures
    """

    failures: NDArray[np.int64]
    trials: NDArray[np.int64]
    first: NDArray[np.int64] | None = None
    design: Design | None = None


@dataclass(frozen=True)
class Measurement:
    """What a scorer measured: the scores and probabilities of all of its tasks under a model.

    :param scores: failure scores psi, shape (N,), float64
    :param frequencies: failure probabilities without smoothing, shape (N,), float64. Means are computed from them
    :param success: success probabilities, shape (N,), float64; NaN for tasks whose success is not known
    :param warnings: reasons not to trust the scores
    :param counts: the counts if the scores come from counting; otherwise ``None``
    :param steps: environment steps that each task took, shape (N,), int64; ``None`` if none were counted
    """

    scores: NDArray[np.float64]
    frequencies: NDArray[np.float64]
    success: NDArray[np.float64]
    warnings: tuple[str, ...] = ()
    counts: Counts | None = None
    steps: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Rollout:
    """A finished rollout of the training, for a scorer that learns from it.

    :param model: the model; its rollout buffer is full
    :param costs: cost of each step, shape (steps, environments), float64
    :param dones: whether the episode ended with the step, shape (steps, environments), bool
    :param observations: observations of each step as the environment gave them, if the buffer holds normalised ones;
        otherwise ``None``
    :param tasks: task of each step, shape (steps, environments), int64; ``None`` if the environments do not tell
    """

    model: Any
    costs: NDArray[np.float64]
    dones: NDArray[np.bool_]
    observations: list[Any] | None
    tasks: NDArray[np.int64] | None = None


@runtime_checkable
class FailureScorer(Protocol):
    """Failure scores of N tasks under a model. Training and measuring need at least this from a scorer."""

    @property
    def n_tasks(self) -> int:
        """Pool size N."""

    @property
    def supports_partial(self) -> bool:
        """Whether a few tasks can be scored without the rest of the pool."""

    def score(self, model: Any, tasks: Tasks | None = None) -> th.Tensor:
        """Scores without a graph.

        :param model: the agent or language model
        :param tasks: indices of the tasks; ``None`` for all
        :return: scores, shape (tasks,), float64, CPU
        """

    def rescore(self, model: Any, tasks: Tasks) -> th.Tensor:
        """Scores with a graph to the model's parameters.

        :param model: the agent or language model
        :param tasks: indices of the tasks that the loss touches
        :return: scores, shape (tasks,), float64, CPU
        """


class Scorer(ABC):
    """A complete scorer: a :class:`FailureScorer` with defaults for everything else that training and measuring use.

    Derive your own scorer from this class if you want to change a default. :func:`~sb3_forecast.scorers.make.complete`
    adds the defaults to any other scorer.
    """

    n_tasks: int
    #: whether a few tasks can be scored without the rest of the pool
    supports_partial: bool = True
    #: whether scoring the same model twice can give different scores
    samples: bool = False
    #: whether the gradient of the scores is held to the norm of the algorithm's own gradient, in each step
    gentle: bool = False
    #: whether a scoring in a training plays episodes of its own
    plays: bool = False
    #: whether the scorer may play episodes now; a training that is told not to keeps the forecast of the last scoring
    may_play: bool = True
    #: whether the scorer learns from the training's rollouts, see :meth:`after_rollout`
    learns: bool = False
    #: whether :meth:`measure` counts failed episodes, so that there is no tail of scores
    counts_failures: bool = False
    #: why ``scorer="auto"`` took no stronger scorer; empty if this one is the strongest or was asked for
    reason: str = ""

    @property
    @abstractmethod
    def key(self) -> str | None:
        """The ``key`` of the pool whose tasks are scored; ``None`` if the pool is not known."""

    @abstractmethod
    def score(self, model: Any, tasks: Tasks | None = None) -> th.Tensor:
        """See :meth:`FailureScorer.score`."""

    @abstractmethod
    def rescore(self, model: Any, tasks: Tasks) -> th.Tensor:
        """See :meth:`FailureScorer.rescore`."""

    def measure(self, model: Any, k: int = 10, seed: int = 0) -> Measurement:
        """Everything that a report needs, for all tasks.

        :param model: the agent or language model
        :param k: number of top scores that the forecast will use; only the warnings depend on it
        :param seed: seed of the episodes that are played only to count successes
        :return: scores, failure and success probabilities, warnings
        """
        scores = self.score(model).numpy()
        return Measurement(scores, failure_probability(scores), np.full(len(scores), np.nan), self.warnings(scores, k))

    def warnings(self, scores: NDArray[np.float64], k: int) -> tuple[str, ...]:
        """Reasons not to trust some scores.

        :param scores: scores of some tasks, shape (tasks,), float64
        :param k: number of top scores that the forecast uses
        :return: one text per reason; empty if there is none
        """
        return ()

    @property
    def ready(self) -> bool:
        """Whether the scores can be used yet."""
        return True

    @property
    def waits_for(self) -> str:
        """What a scorer that is not :attr:`ready` still needs, in words; empty if it is ready."""
        return ""

    @property
    def trusted(self) -> bool:
        """Whether the scores are right often enough to train with. A gradient is not applied while they are not."""
        return True

    @property
    def may_move(self) -> bool:
        """Whether the gradient of the scores may be applied; scores that rank tasks well enough to draw them can still have a poor one."""
        return self.trusted

    @property
    def steps_played(self) -> int:
        """Number of environment steps that scoring has taken so far."""
        return 0

    def after_rollout(self, rollout: Rollout) -> dict[str, float]:
        """Learn from a rollout. The training calls this after each rollout if :attr:`learns` is true.

        :param rollout: the rollout
        :return: names and values to log
        """
        return {}
