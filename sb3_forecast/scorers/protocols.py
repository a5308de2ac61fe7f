"""What tasks offer to a scorer, and what a scorer offers to the objective.

A pool of tasks declares in ``scorers`` what it can serve; ``scorer="auto"`` takes the first. ``"exact"`` needs
:class:`SupportsExact`, ``"survival"`` needs
:class:`SupportsSurvival`, ``"frequency"`` needs ``SupportsEpisodes`` of ``scorers.frequency``. The environments implement these protocols
without importing this package.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch as th
from numpy.typing import NDArray

Tasks = NDArray[np.int64]


class TaskSource(Protocol):
    """A pool of tasks."""

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

        An action is drawn in proportion to pi (1 - c), c being the probability that it fails now; an episode without such an action ends.

        :param pi: action probabilities, shape (episodes, actions), float64
        :param uniforms: in [0, 1), shape (2, episodes): which action, and what it does where the dynamics are random
        :return: c, shape (episodes, actions), float64; which episodes go on, boolean, in the order before the call
        """


class SupportsExact(TaskSource, Protocol):
    """Tasks with a finite model."""

    def finite_model(self) -> FiniteModel:
        """The tasks as finite models."""


class SupportsSurvival(TaskSource, Protocol):
    """Tasks that can be simulated with the failing actions known."""

    def simulation(self, tasks: Tasks) -> Simulation:
        """One episode of each given task, repeats allowed."""


@runtime_checkable
class Stateful(Protocol):
    """A scorer that a resumed run must restore: one that samples, or learns."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`."""


class FailureScorer(Protocol):
    """Failure scores of N tasks under a model."""

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
