"""The base class of all pools of tasks."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from numpy.typing import ArrayLike, NDArray
from stable_baselines3.common.vec_env import VecEnv
from typing_extensions import Self

from sb3_forecast.checks import real, whole
from sb3_forecast_envs.sampling import select

#: number of tasks and seed of the default pool, for environments that are made without a pool
DEFAULT_TASKS, DEFAULT_SEED = 4000, 0


@dataclass(frozen=True)
class Makers:
    """Functions that play and enumerate the tasks of one kind of pool.

    Each kind sets its own in its ``__init__.py``. So an environment can import its pool, and the pool need not import the environment.

    :param env: (pool, render_mode) -> one environment
    :param vec_env: (pool, n_envs, seed) -> a vectorised environment
    :param finite_model: pool -> the tasks as finite Markov decision processes; ``None`` if they have no finite model
    :param simulation: (pool, tasks) -> parallel episodes, one of each given task, in which it is known which actions fail; ``None`` if it
        is not known
    """

    env: Callable[[Any, str | None], gym.Env[Any, Any]]
    vec_env: Callable[[Any, int, int], VecEnv]
    finite_model: Callable[[Any], Any] | None = None
    simulation: Callable[[Any, NDArray[np.int64]], Any] | None = None


class Pool(ABC):
    """N tasks, for scorers, training and measuring.

    A subclass holds arrays with one entry per task. It lists their names in :attr:`per_task`, and the functions that play the tasks in
    :attr:`makers`.
    """

    #: names of the arrays with one entry per task; one of them is ``rare``
    per_task: ClassVar[tuple[str, ...]]
    makers: ClassVar[Makers]
    #: which tasks belong to the rare mode, shape (N,), bool; only reports use it
    rare: NDArray[np.bool_]

    @property
    @abstractmethod
    def key(self) -> str:
        """A text that identifies the tasks: two pools of the same tasks have the same key, also after pickling."""

    @abstractmethod
    def task_keys(self) -> list[bytes]:
        """One key per task. Equal tasks have equal keys, also if they belong to different pools of the same kind."""

    def label(self, task: int) -> str:
        """The name of a task, for pictures and reports.

        :param task: index into this pool
        """
        return f"task {task}"

    @property
    def scorers(self) -> Sequence[str]:
        """Names of the scorers that the pool can serve, the strongest first; ``scorer="auto"`` takes the first."""
        known = (("exact", self.makers.finite_model), ("survival", self.makers.simulation))
        return (*(name for name, maker in known if maker is not None), "episodes", "frequency", "splitting")

    def __len__(self) -> int:
        return len(self.rare)

    def subset(self, indices: ArrayLike) -> Self:
        """A pool that holds some of the tasks, in the given order.

        :param indices: positions in this pool, or a boolean mask over it
        :return: the smaller pool
        :raises ValueError: if no task is selected, or an index is out of range
        """
        chosen = select(len(self), indices)
        pool = copy.copy(self)
        for name in self.per_task:
            setattr(pool, name, getattr(self, name)[chosen])
        return pool

    def joined(self, other: Self) -> Self:
        """A pool that holds the tasks of this one, and then those of another of the same kind.

        :param other: a pool of the same kind; what is not stored per task, such as a family's settings, is taken from this pool
        :return: the larger pool
        :raises TypeError: if the other pool is of another kind
        """
        if type(other) is not type(self):
            raise TypeError(f"other must be a {type(self).__name__}, got {other!r}; use a pool of the same kind")
        pool = copy.copy(self)
        for name in self.per_task:
            setattr(pool, name, np.concatenate([getattr(self, name), getattr(other, name)]))
        return pool

    def make_env(self, render_mode: str | None = None) -> gym.Env[Any, Any]:
        """Make one environment that plays these tasks.

        :param render_mode: ``"human"``, ``"rgb_array"`` or ``None``
        :return: the environment
        """
        return self.makers.env(self, render_mode)

    def make_vec_env(self, n_envs: int, seed: int = 0) -> VecEnv:
        """Make a vectorised environment that plays these tasks.

        :param n_envs: number of environments
        :param seed: seed of the first environment; environment i (from 0) has the seed ``seed + i``
        :return: the vectorised environment
        """
        return self.makers.vec_env(self, n_envs, seed)

    def finite_model(self) -> Any:
        """The tasks as finite Markov decision processes, for exact scores.

        :return: see ``sb3_forecast.scorers.protocols.FiniteModel``
        :raises ValueError: if the tasks have no finite model
        """
        if self.makers.finite_model is None:
            raise ValueError(f"exact scores need a pool with a finite model, got {self!r}; use scorer={self.scorers[0]!r}")
        return self.makers.finite_model(self)

    def simulation(self, tasks: NDArray[np.int64]) -> Any:
        """Parallel episodes, one of each given task, in which it is known which actions fail. Survival scores need them.

        :param tasks: indices into the pool, shape (episodes,), repeats allowed
        :return: see ``sb3_forecast.scorers.protocols.Simulation``
        :raises ValueError: if it is not known which actions fail
        """
        if self.makers.simulation is None:
            raise ValueError(
                f"survival scores need a pool that knows which actions fail, got {self!r}; use scorer={self.scorers[0]!r}"
            )
        return self.makers.simulation(self, tasks)


def check_pool(n_tasks: int, seed: int, rare_fraction: float | None = None) -> None:
    """Check the arguments that all pools have.

    :param n_tasks: number of tasks
    :param seed: seed of the pool
    :param rare_fraction: probability that a task belongs to the rare mode; ``None`` if the pool has no such argument
    :raises TypeError: if an argument is no number
    :raises ValueError: if an argument is out of range
    """
    whole("n_tasks", n_tasks, low=1, use="the number of tasks that the pool is to hold")
    whole("seed", seed, low=0, use="a whole number such as 0")
    if rare_fraction is not None:
        real("rare_fraction", rare_fraction, low=0.0, high=1.0, use="the probability of a rare task")
