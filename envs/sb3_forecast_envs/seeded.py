"""Existing environments as pools: task i is the episode that starts with the i-th reset seed."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from types import FunctionType
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
from gymnasium.utils import seeding
from minigrid.minigrid_env import MiniGridEnv
from minigrid.wrappers import ImgObsWrapper
from numpy.typing import ArrayLike, NDArray
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from sb3_forecast_envs.minigrid_states import Failed, Step, ended_without_reward, observer, reported_cost
from sb3_forecast_envs.sampling import TaskSampler, select
from sb3_forecast_envs.seeded_model import SeededModel, default_cache


class SeededTasks:
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
        if n_tasks < 1:
            raise ValueError(f"n_tasks={n_tasks} makes an empty pool; use n_tasks >= 1")
        if first_seed < 0:
            raise ValueError(f"first_seed={first_seed} is negative; use first_seed >= 0")
        if max_states < 1:
            raise ValueError(f"max_states={max_states} allows no state; use max_states >= 1")
        if not isinstance(env, str) and not callable(env):
            raise ValueError(
                f"env={env!r} is neither an id nor a function; pass an id, or a function without arguments that makes the environment"
            )
        self.make = _Maker(env) if isinstance(env, str) else env
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
        self.cache_dir = default_cache() if cache_dir is None else pathlib.Path(cache_dir)
        self.progress_bar = progress_bar

    @property
    def scorers(self) -> tuple[str, ...]:
        """Scorers that these tasks can serve, strongest first."""
        return ("exact", "episodes", "frequency") if self.is_minigrid else ("episodes", "frequency")

    def __getstate__(self) -> dict[str, Any]:
        # functions written on the spot, too, come back from the worker of a SubprocVecEnv
        return {**vars(self), "make": cloudpickle.dumps(self.make), "failed": cloudpickle.dumps(self.failed)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update({**state, "make": cloudpickle.loads(state["make"]), "failed": cloudpickle.loads(state["failed"])})

    def __len__(self) -> int:
        return len(self.seeds)

    def __repr__(self) -> str:
        return f"SeededTasks({self.name!r}, n_tasks={len(self)}, seeds {self.seeds[0]} to {self.seeds[-1]})"

    @property
    def key(self) -> str:
        """What tells these tasks from others: environment, seeds and what counts as failure."""
        failing = type(self.failed).__name__
        if isinstance(self.failed, FunctionType):
            # functions written on the spot share a name, but not a line
            failing = f"{self.failed.__qualname__}:{self.failed.__code__.co_firstlineno}"
        late = ", timeouts fail" if self.timeout_fails else ""
        return f"{self.name}: {len(self)} seeds {self.seeds[0]} to {self.seeds[-1]}, sum {int(self.seeds.sum())}, failed={failing}{late}"

    def subset(self, indices: ArrayLike) -> SeededTasks:
        """A pool of some of the tasks, in the given order.

        :param indices: positions in this pool, or a boolean mask over it
        :return: the smaller pool
        :raises ValueError: if nothing is selected or an index is out of range
        """
        chosen = select(len(self), indices)
        pool = object.__new__(SeededTasks)
        vars(pool).update(vars(self))
        pool.seeds, pool.rare = self.seeds[chosen], self.rare[chosen]
        return pool

    def make_env(self, render_mode: str | None = None) -> SeededEnv:
        """An environment that plays these tasks.

        :param render_mode: how the environment draws, where it was given by its id; one that a function makes draws as the function says
        """
        return SeededEnv(self, render_mode)

    def make_vec_env(self, n_envs: int) -> VecEnv:
        """Environments side by side, in this process, that play these tasks.

        :param n_envs: how many
        """
        return DummyVecEnv([self.make_env] * n_envs)

    def finite_model(self) -> SeededModel:
        """The tasks as finite Markov decision processes, for exact scores; MiniGrid environments only.

        :raises ValueError: if the environment is no MiniGrid environment
        """
        if not self.is_minigrid:
            raise ValueError(
                f"{self.name} is no MiniGrid environment, so its states cannot be enumerated; use scorer='frequency'"
            )
        return SeededModel(self, self.max_states, self.cache_dir, self.progress_bar)


class _Maker:
    """Makes an environment from its id; a class, so that pools can be pickled."""

    def __init__(self, id_: str) -> None:
        self.id = id_

    def __call__(self, render_mode: str | None = None) -> gym.Env[Any, Any]:
        env = gym.make(self.id, render_mode=render_mode)
        return ImgObsWrapper(env) if isinstance(env.unwrapped, MiniGridEnv) else env


class SeededEnv(gym.Wrapper[Any, Any, Any, Any]):
    """Plays the tasks of a pool: ``reset(options={"task": i})`` starts task i, other resets draw one.

    The task's seed decides how an episode starts; what happens later, where the environment itself is random, is new each time. Every step's
    ``info`` has ``task`` and ``cost``; the last also ``is_success``: what the environment says, or else whether a last reward ended it.

    :param tasks: the pool
    :param render_mode: see :meth:`SeededTasks.make_env`
    """

    def __init__(self, tasks: SeededTasks, render_mode: str | None = None) -> None:
        super().__init__(tasks.make(render_mode) if isinstance(tasks.make, _Maker) else tasks.make())
        self.pool = tasks
        self.task = 0
        self.sampler = TaskSampler(len(tasks))
        self._generator = seeding.np_random(None)[0]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode.

        :param seed: seed of the generator that draws tasks
        :param options: ``{"task": i}`` for a given task
        :return: observation and info
        :raises ValueError: if the task is not in the pool
        """
        if seed is not None:
            self._generator = seeding.np_random(seed)[0]
        self.task = self.sampler.start(self._generator, options or {})
        observation, info = self.env.reset(seed=int(self.pool.seeds[self.task]))
        self.env.unwrapped.np_random = np.random.default_rng(self._generator.integers(2**63))
        return observation, {**info, "task": self.task}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take one step; see the class for what ``info`` holds."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        step = Step(self.env, float(reward), bool(terminated), bool(truncated), info)
        late = truncated and not terminated and self.pool.timeout_fails
        failed = self.pool.failed(step) or late
        info = {**info, "task": self.task, "cost": float(failed)}
        if terminated or truncated:
            reached = info.get("is_success", terminated and step.reward > 0)
            info["is_success"] = bool(reached and not failed)
        return observation, float(reward), terminated, truncated, info

    def set_next_task(self, task: int | None) -> None:
        """The task of the next reset; ``None`` to draw it."""
        self.sampler.set_next(task)

    def set_task_weights(self, weights: NDArray[np.float64] | None, share: float = 1.0) -> None:
        """Start a share of the episodes on tasks drawn in proportion to weights; see :class:`TaskSampler`."""
        self.sampler.set_weights(weights, share)
