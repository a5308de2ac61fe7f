"""The environment that plays the tasks of a :class:`SeededTasks` pool."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import seeding
from numpy.typing import NDArray
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from sb3_forecast_envs.sampling import TaskSampler
from sb3_forecast_envs.seeded.exploration import Failed, Step
from sb3_forecast_envs.seeded.pool import MakeFromId, SeededTasks, Wrapper


def make_vec_env(tasks: SeededTasks, n_envs: int, seed: int = 0) -> VecEnv:
    """Make a vectorised environment in this process.

    :param tasks: the pool
    :param n_envs: number of environments
    :param seed: seed of the first environment; environment i (from 0) has the seed ``seed + i``
    :return: an SB3 ``DummyVecEnv``
    """
    env = DummyVecEnv([lambda: SeededEnv(tasks)] * n_envs)
    env.seed(seed)
    return env


class SeededEnv(gym.Wrapper[Any, Any, Any, Any]):
    """Play the tasks of a pool: ``reset(options={"task": i})`` starts task i, other resets draw a task.

    The seed of the task decides how an episode starts. Later random events of the environment are different in each episode. The ``info`` of
    every step has ``task`` and ``cost`` (1.0 if the step failed, else 0.0). The ``info`` of the last step also has ``is_success``, if it is
    known: by the pool's ``succeeded``, or by the environment's own report. A failed last step is never a success.

    :param tasks: the pool
    :param render_mode: see :meth:`SeededTasks.make_env`; ignored if the pool was made from a function
    :param monitor: whether to put SB3's ``Monitor`` inside, which reports lengths and returns of episodes
    """

    def __init__(self, tasks: SeededTasks, render_mode: str | None = None, monitor: bool = False) -> None:
        made = tasks.make(render_mode) if isinstance(tasks.make, MakeFromId) else tasks.make()
        super().__init__(Monitor(made) if monitor else made)
        self.pool = tasks
        self.task = 0
        self.sampler = TaskSampler(len(tasks))
        self._generator = seeding.np_random(None)[0]
        self._prepare = tasks.preparer(self.env)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode.

        :param seed: seed of the generator that draws tasks
        :param options: ``{"task": i}`` to start task i of the pool
        :return: observation, and an ``info`` with ``task``
        :raises ValueError: if the task is not in the pool
        """
        if seed is not None:
            self._generator = seeding.np_random(seed)[0]
        self.task = self.sampler.start(self._generator, options or {})
        prepared = self._prepare(self.task)
        observation, info = self.env.reset(seed=int(self.pool.seeds[self.task]), options=prepared or None)
        self.env.unwrapped.np_random = np.random.default_rng(self._generator.integers(2**63))
        return observation, {**info, "task": self.task}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take one step.

        :param action: an action of the environment
        :return: observation, reward, terminated, truncated, and an ``info`` as the class describes it
        """
        observation, reward, terminated, truncated, info = self.env.step(action)
        step = Step(self.env, float(reward), bool(terminated), bool(truncated), info)
        late = truncated and not terminated and self.pool.timeout_fails
        failed = self.pool.failed(step) or late
        info = {**info, "task": self.task, "cost": float(failed)}
        if terminated or truncated:
            reached = info.get("is_success") if self.pool.succeeded is None else self.pool.succeeded(step)
            if reached is not None:
                info["is_success"] = bool(reached and not failed)
        return observation, float(reward), terminated, truncated, info

    def set_next_task(self, task: int | None) -> None:
        """Choose the task of the next reset.

        :param task: index into the pool; ``None`` to draw it
        :raises ValueError: if the task is not in the pool
        """
        self.sampler.set_next(task)

    def set_task_weights(self, weights: NDArray[np.float64] | None, share: float = 1.0) -> None:
        """Start a share of the episodes on tasks that are drawn in proportion to weights; see :meth:`TaskSampler.set_weights`."""
        self.sampler.set_weights(weights, share)


class PlayTasks(SeededEnv):
    """A wrapper that turns an environment into one that plays tasks, for tools that make the environment themselves, as RL Zoo does.

    In a file of hyperparameters of RL Zoo::

        CartPole-v1:
          env_wrapper:
            - sb3_forecast_envs.PlayTasks:
                n_tasks: 2000
                failed: sb3_forecast_envs:ended_early

    :param env: an environment with an id. It is closed, and made again by its id, so other wrappers must be named here
    :param n_tasks: number of tasks
    :param failed: ``module:function`` of a :class:`Step`, or the function; see :class:`SeededTasks`
    :param first_seed: reset seed of task 0
    :param timeout_fails: whether an episode that reaches its time limit has failed
    :param wrappers: ``module:class`` of wrappers around the environment, or the classes, the innermost first
    :raises ValueError: if the environment has no id, a name cannot be imported, or as :class:`SeededTasks`
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        n_tasks: int = 2000,
        failed: str | Failed | None = None,
        first_seed: int = 0,
        timeout_fails: bool = False,
        wrappers: Sequence[str | Wrapper] = (),
    ) -> None:
        if env.spec is None:
            raise ValueError(
                f"env must have an id of Gymnasium, got {env}; make it with gymnasium.make, or use SeededTasks(make_env, ...)"
            )
        if env.spec.additional_wrappers:
            names = [wrapper.name for wrapper in env.spec.additional_wrappers]
            raise ValueError(f"env must have no wrappers, which are made anew, got {names}; name them in wrappers")
        mode, spec = env.render_mode, copy.deepcopy(env.spec)
        spec.kwargs.pop("render_mode", None)
        make = MakeFromId(spec.id, [_named("wrappers", wrapper) for wrapper in wrappers], spec.to_json())
        env.close()
        tasks = SeededTasks(
            make, n_tasks, None if failed is None else _named("failed", failed), first_seed, timeout_fails=timeout_fails
        )
        super().__init__(tasks, mode, monitor=True)


def _named(name: str, given: str | Callable[..., Any]) -> Callable[..., Any]:
    """A function, or what ``module:function`` names."""
    if not isinstance(given, str):
        return given
    where, _, what = given.partition(":")
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(where), what)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{name} must name a function or class, got {given!r} ({error}); use module:function") from error
    return found
