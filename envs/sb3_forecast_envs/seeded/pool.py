"""Existing environments as pools: task i is the episode that starts with the i-th reset seed."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
from minigrid.minigrid_env import MiniGridEnv
from minigrid.wrappers import ImgObsWrapper
from numpy.typing import ArrayLike

from sb3_forecast.files import cache_folder
from sb3_forecast_envs.pool import Pool, check_pool
from sb3_forecast_envs.seeded.exploration import Failed, ended_without_reward, observer, reported_cost


class MakeFromId:
    """Makes an environment from its id; a class, so that pools can be pickled."""

    def __init__(self, id_: str) -> None:
        self.id = id_

    def __call__(self, render_mode: str | None = None) -> gym.Env[Any, Any]:
        env = gym.make(self.id, render_mode=render_mode)
        return ImgObsWrapper(env) if isinstance(env.unwrapped, MiniGridEnv) else env


class SeededTasks(Pool):
    """N episodes of a Gymnasium environment as a pool of tasks, told apart by their reset seeds.

    For MiniGrid environments whose dynamics are deterministic the tasks have a finite model, found by exploring real steps: failure
    scores are exact. For training, ``make_vec_env(tasks.make_env, n_envs)`` gives environments that play these tasks.

    :param env: environment id, or a function that makes the environment as the agent sees it, wrappers included. A MiniGrid id is wrapped in
        ``ImgObsWrapper``, since agents cannot read the mission's text
    :param n_tasks: number of tasks
    :param failed: what counts as failure, a function of a :class:`Step`; ``None``: a positive ``info["cost"]``, or, in a MiniGrid environment,
        an end without reward
    :param first_seed: reset seed of task 0; pools whose ranges of seeds do not overlap share no task
    :param timeout_fails: whether an episode that runs into its time limit has failed
    :param rare: marks tasks of a rare mode, shape (n_tasks,), for reports only; ``None`` for no such mark
    :param max_states: most states of one task's finite model
    :param cache_dir: where explored models are kept; ``None`` for ``~/.cache/sb3_forecast``
    :param progress_bar: show the progress of exploring
    :raises ValueError: if an argument is out of range or the environment cannot be made
    """

    per_task = ("seeds", "rare")

    def __init__(
        self,
        env: str | Callable[[], gym.Env[Any, Any]],
        n_tasks: int,
        failed: Failed | None = None,
        first_seed: int = 0,
        timeout_fails: bool = False,
        rare: ArrayLike | None = None,
        max_states: int = 200_000,
        cache_dir: str | pathlib.Path | None = None,
        progress_bar: bool = False,
    ) -> None:
        check_pool(n_tasks, 0)
        if first_seed < 0:
            raise ValueError(f"first_seed must be at least 0, got {first_seed}; use another number")
        if max_states < 1:
            raise ValueError(f"max_states={max_states} allows no state; use max_states >= 1")
        if not isinstance(env, str) and not callable(env):
            raise ValueError(
                f"env={env!r} is neither an id nor a function; pass an id, or a function without arguments that makes the environment"
            )
        self.make = MakeFromId(env) if isinstance(env, str) else env
        sample = self.make()
        self.is_minigrid = isinstance(sample.unwrapped, MiniGridEnv)
        if self.is_minigrid:
            observer(sample)
        self.name = sample.spec.id if sample.spec else type(sample.unwrapped).__name__
        self.failed = failed or (ended_without_reward if self.is_minigrid else reported_cost)
        self.timeout_fails = timeout_fails
        self.seeds = first_seed + np.arange(n_tasks, dtype=np.int64)
        self.rare = np.zeros(n_tasks, dtype=np.bool_) if rare is None else np.asarray(rare, dtype=np.bool_)
        if self.rare.shape != (n_tasks,):
            raise ValueError(f"rare of shape {self.rare.shape} must mark {n_tasks} tasks; pass one boolean per task")
        self.max_states = max_states
        self.cache_dir = cache_folder() if cache_dir is None else pathlib.Path(cache_dir)
        self.progress_bar = progress_bar

    @property
    def scorers(self) -> Sequence[str]:
        """Scorers that the tasks can serve, strongest first: exact ones in MiniGrid environments only."""
        return super().scorers if self.is_minigrid else ("episodes", "frequency")

    def __getstate__(self) -> dict[str, Any]:
        # functions written on the spot, too, come back from the worker of a SubprocVecEnv
        return {**vars(self), "make": cloudpickle.dumps(self.make), "failed": cloudpickle.dumps(self.failed)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update({**state, "make": cloudpickle.loads(state["make"]), "failed": cloudpickle.loads(state["failed"])})

    def __repr__(self) -> str:
        return f"SeededTasks({self.name!r}, n_tasks={len(self)}, seeds {self.seeds[0]} to {self.seeds[-1]})"

    def task_keys(self) -> list[bytes]:
        """Environment and reset seed of each task."""
        return [f"{self.name} {seed}".encode() for seed in self.seeds]

    @property
    def key(self) -> str:
        """What tells these tasks from others: environment, seeds and what counts as failure."""
        failing = type(self.failed).__name__
        if isinstance(self.failed, FunctionType):
            # functions written on the spot share a name, but not a line
            failing = f"{self.failed.__qualname__}:{self.failed.__code__.co_firstlineno}"
        late = ", timeouts fail" if self.timeout_fails else ""
        return f"{self.name}: {len(self)} seeds {self.seeds[0]} to {self.seeds[-1]}, sum {int(self.seeds.sum())}, failed={failing}{late}"
