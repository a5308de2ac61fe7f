"""What all pools of tasks share."""

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

from sb3_forecast_envs.sampling import select

#: pool of an environment that is made without one
DEFAULT_TASKS, DEFAULT_SEED = 4000, 0


@dataclass(frozen=True)
class Makers:
    """What plays and enumerates the tasks of a kind of pool.

    Each kind names its own in its ``__init__.py``. So an environment may know its pool, and the pool need not import the environment.

    :param env: (pool, render_mode) -> one environment
    :param vec_env: (pool, n_envs, seed) -> environments side by side
    :param finite_model: pool -> the tasks as finite Markov decision processes; ``None`` if they have no finite model
    :param simulation: (pool, tasks) -> one episode of each given task, with the failing actions known; ``None`` if they are not known
    """

    env: Callable[[Any, str | None], gym.Env[Any, Any]]
    vec_env: Callable[[Any, int, int], VecEnv]
    finite_model: Callable[[Any], Any] | None = None
    simulation: Callable[[Any, NDArray[np.int64]], Any] | None = None


class Pool(ABC):
    """N tasks: what scorers, training and measuring work on.

    A subclass holds arrays with one entry per task, names them in :attr:`per_task`, and says in :attr:`makers` what plays them.
    """

    #: names of the arrays with one entry per task; one of them is ``rare``
    per_task: ClassVar[tuple[str, ...]]
    makers: ClassVar[Makers]
    #: which tasks belong to the rare mode, shape (N,); for reports only
    rare: NDArray[np.bool_]

    @property
    @abstractmethod
    def key(self) -> str:
        """What tells these tasks from others: equal for the same tasks, also after pickling."""

    @abstractmethod
    def task_keys(self) -> list[bytes]:
        """One key per task: equal for tasks that are the same, also of another pool of the kind."""

    @property
    def scorers(self) -> Sequence[str]:
        """Scorers that the tasks can serve, strongest first; ``scorer="auto"`` takes the first."""
        known = (("exact", self.makers.finite_model), ("survival", self.makers.simulation))
        return (*(name for name, maker in known if maker is not None), "episodes", "frequency")

    def __len__(self) -> int:
        return len(self.rare)

    def subset(self, indices: ArrayLike) -> Self:
        """A pool of some of the tasks, in the given order.

        :param indices: positions in this pool, or a boolean mask over it
        :return: the smaller pool
        :raises ValueError: if nothing is selected, or an index is out of range
        """
        chosen = select(len(self), indices)
        pool = copy.copy(self)
        for name in self.per_task:
            setattr(pool, name, getattr(self, name)[chosen])
        return pool

    def make_env(self, render_mode: str | None = None) -> gym.Env[Any, Any]:
        """One environment that plays these tasks.

        :param render_mode: ``"human"``, ``"rgb_array"`` or ``None``
        """
        return self.makers.env(self, render_mode)

    def make_vec_env(self, n_envs: int, seed: int = 0) -> VecEnv:
        """Environments side by side that play these tasks.

        :param n_envs: how many
        :param seed: seed of the first; the i-th has ``seed + i``
        """
        return self.makers.vec_env(self, n_envs, seed)

    def finite_model(self) -> Any:
        """The tasks as finite Markov decision processes, for exact scores.

        :raises ValueError: if they have no finite model
        """
        if self.makers.finite_model is None:
            raise ValueError(f"{self!r} must have a finite model for exact scores, got none; use scorer={self.scorers[0]!r}")
        return self.makers.finite_model(self)

    def simulation(self, tasks: NDArray[np.int64]) -> Any:
        """One episode of each given task, with the failing actions known, for survival scores.

        :param tasks: indices into the pool, repeats allowed
        :raises ValueError: if the failing actions are not known
        """
        if self.makers.simulation is None:
            raise ValueError(
                f"{self!r} must tell which actions fail for survival scores, got none; use scorer={self.scorers[0]!r}"
            )
        return self.makers.simulation(self, tasks)


def check_pool(n_tasks: int, seed: int, rare_fraction: float | None = None) -> None:
    """Check the arguments that pools share.

    :param n_tasks: number of tasks
    :param seed: seed of the pool
    :param rare_fraction: mass of the rare mode
    :raises ValueError: if one is out of range
    """
    if n_tasks < 1:
        raise ValueError(f"n_tasks must be at least 1, got {n_tasks}; use the number of tasks that the pool should hold")
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}; use another number")
    if rare_fraction is not None and not 0.0 <= rare_fraction <= 1.0:
        raise ValueError(f"rare_fraction must be in [0, 1], got {rare_fraction}; use the share of tasks in the rare mode")
