"""The base class of environments that step a batch of episodes together, on the tasks of a pool."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Generic, TypeVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import seeding
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn

from sb3_forecast.checks import check_seed, whole
from sb3_forecast_envs.outcomes import FAILURE, SUCCESS, TRUNCATED
from sb3_forecast_envs.pool import Pool
from sb3_forecast_envs.sampling import TaskSampler

PoolT = TypeVar("PoolT", bound=Pool)


class BatchedVecEnv(VecEnv, ABC, Generic[PoolT]):
    """An SB3 ``VecEnv`` that plays the tasks of a pool. It draws the same tasks as single environments with the same seeds.

    Each environment draws its tasks with its own generator. Environment i (from 0) has the seed ``seed + i``, as in a ``DummyVecEnv`` of SB3.
    The ``info`` of every step has ``task`` and ``cost`` (1.0 on the failing step, else 0.0). The ``info`` of the last step also has
    ``is_success``. A subclass implements how an episode starts (:meth:`_start`), what it shows (:meth:`_observe`) and what a step does
    (:meth:`_advance`).

    :param pool: the tasks
    :param n_envs: number of environments stepped together
    :param observation_space: observation space of one environment
    :param n_actions: number of discrete actions
    :param seed: seed of the first environment
    :param render_mode: ``"rgb_array"`` or ``None``
    :raises ValueError: if ``n_envs < 1``
    """

    #: names of the arrays, one entry per environment, in which a subclass holds the state of the running episodes
    episode_state: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        pool: PoolT,
        n_envs: int,
        observation_space: spaces.Space[Any],
        n_actions: int,
        seed: int = 0,
        render_mode: str | None = None,
    ) -> None:
        whole("n_envs", n_envs, low=1, use="the number of environments to step together")
        check_seed(seed)
        self.pool = pool
        # set first, because VecEnv.__init__ reads it through get_attr
        self.render_mode = render_mode
        super().__init__(n_envs, observation_space, spaces.Discrete(n_actions))
        self.n_actions = n_actions
        self.sampler = TaskSampler(len(pool))
        self.tasks = np.zeros(n_envs, dtype=np.int64)
        self.steps = np.zeros(n_envs, dtype=np.int64)
        self._actions = np.zeros(n_envs, dtype=np.int64)
        self._generators = [seeding.np_random(seed + i)[0] for i in range(n_envs)]
        self._next_tasks = np.full(n_envs, -1, dtype=np.int64)
        # the info of a step on which no episode ends, made once; a step returns copies, which is faster than making them
        self._uneventful: list[dict[str, Any]] = [{} for _ in range(n_envs)]

    @abstractmethod
    def _start(self, envs: NDArray[np.int64]) -> None:
        """Start an episode in some environments.

        :param envs: indices of the environments; their tasks, just drawn, are ``self.tasks[envs]``
        """

    @abstractmethod
    def _observe(self, envs: NDArray[np.int64]) -> NDArray[Any]:
        """Observations of some environments.

        :param envs: indices of the environments
        :return: shape (len(envs), *observation)
        """

    @abstractmethod
    def _advance(self, actions: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.float32], NDArray[np.uint8]]:
        """Take one step in every environment, and add 1 to ``self.steps``.

        :param actions: one action per environment, shape (n_envs,), int64
        :return: observations, shape (n_envs, *observation); rewards, shape (n_envs,), float32; results, shape (n_envs,), uint8: constants of
            :mod:`sb3_forecast_envs.outcomes`
        """

    def _begin(self, envs: NDArray[np.int64], tasks: NDArray[np.int64]) -> None:
        """Start an episode on the given task in each of some environments."""
        self.tasks[envs] = tasks
        self.steps[envs] = 0
        for env, task in zip(envs.tolist(), tasks.tolist(), strict=True):
            self._uneventful[env] = {"task": task, "cost": 0.0, "TimeLimit.truncated": False}
            self.reset_infos[env] = {"task": task}
        self._start(envs)

    def reset(self) -> NDArray[Any]:
        """Start an episode in every environment. As in SB3, it uses the seeds and options that were set before."""
        for env, seed in enumerate(self._seeds):
            if seed is not None:
                self._generators[env] = seeding.np_random(seed)[0]
        started = []
        for generator, options, given in zip(self._generators, self._options, self._next_tasks.tolist(), strict=True):
            self.sampler.set_next(None if given < 0 else given)
            started.append(self.sampler.start(generator, options))
        self._next_tasks[:] = -1
        everywhere = np.arange(self.num_envs)
        self._begin(everywhere, np.array(started))
        self._reset_seeds()
        self._reset_options()
        return self._observe(everywhere)

    def step_async(self, actions: NDArray[np.int64]) -> None:
        """Store the actions for :meth:`step_wait`.

        :param actions: one action per environment, shape (n_envs,)
        :raises ValueError: if there is not one valid action per environment
        """
        taken = np.asarray(actions, dtype=np.int64)
        if taken.shape != (self.num_envs,) or taken.min() < 0 or taken.max() >= self.n_actions:
            raise ValueError(
                f"actions must be {self.num_envs} numbers in [0, {self.n_actions - 1}], got {actions!r}; use one action per environment"
            )
        self._actions = taken

    def step_wait(self) -> VecEnvStepReturn:
        """Take the step. Where an episode has ended, the observation is the first one of a new task."""
        observations, rewards, events = self._advance(self._actions)
        infos = list(map(dict.copy, self._uneventful))
        ended = np.flatnonzero(events)
        if len(ended):
            for env in ended.tolist():
                event = int(events[env])
                infos[env].update(
                    {
                        "cost": float(event == FAILURE),
                        "is_success": event == SUCCESS,
                        "TimeLimit.truncated": event == TRUNCATED,
                        "terminal_observation": observations[env].copy(),
                    }
                )
            drawn = self.sampler.pick(np.array([self._generators[env].random() for env in ended]))
            given = self._next_tasks[ended]
            self._begin(ended, np.where(given < 0, drawn, given))
            self._next_tasks[ended] = -1
            observations[ended] = self._observe(ended)
        return observations, rewards, events > 0, infos

    def set_task_weights(self, weights: NDArray[np.float64] | None, share: float = 1.0) -> None:
        """Start a share of the episodes on tasks that are drawn in proportion to weights; see :meth:`TaskSampler.set_weights`."""
        self.sampler.set_weights(weights, share)

    def get_state(self) -> dict[str, Any]:
        """The full state of the running episodes, for :meth:`set_state`."""
        shared = ("sampler", "tasks", "steps", "_generators", "_uneventful", "_next_tasks", "reset_infos")
        state = {name: copy.deepcopy(getattr(self, name)) for name in (*shared, *self.episode_state)}
        return {**state, "sampler": dict(vars(state["sampler"])), "pool": self.pool.key}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue the episodes of a saved state.

        :param state: as returned by :meth:`get_state`
        :raises ValueError: if it belongs to another pool or another number of environments
        """
        if state["pool"] != self.pool.key or len(state["tasks"]) != self.num_envs:
            raise ValueError(
                f"state must belong to {self.num_envs} environments on {self.pool.key}, got {len(state['tasks'])} environments on "
                f"{state['pool']}; use the same n_envs and pool as in the run that was saved"
            )
        for name, value in state.items():
            if name == "sampler":
                vars(self.sampler).update(copy.deepcopy(value))
            elif name != "pool":
                setattr(self, name, copy.deepcopy(value))

    def set_next_task(self, task: int | None, indices: VecEnvIndices = None) -> None:
        """Choose the task of the next episode in some environments.

        :param task: index into the pool; ``None`` to draw it
        :param indices: indices of the environments; ``None`` for all
        :raises ValueError: if the task is not in the pool
        """
        if task is not None and not 0 <= task < len(self.pool):
            raise ValueError(f"task must be in [0, {len(self.pool) - 1}], got {task}; use the index of a task of this pool")
        self._next_tasks[self._indices(indices)] = -1 if task is None else task

    def close(self) -> None:
        """Do nothing: there is nothing to release."""

    def _indices(self, indices: VecEnvIndices) -> Sequence[int]:
        return list(self._get_indices(indices))

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Get an attribute of the batch, repeated once per environment."""
        return [getattr(self, attr_name)] * len(self._indices(indices))

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of the whole batch.

        :raises ValueError: if ``indices`` names only some environments, because they share their attributes
        """
        if len(self._indices(indices)) != self.num_envs:
            raise ValueError(
                f"indices must name all {self.num_envs} environments, which share their attributes, got {indices}; leave indices out"
            )
        setattr(self, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of the batch once, and repeat its result once per environment.

        ``action_masks`` gives each environment its own row; ``set_next_task`` sets the task of the given environments only.
        """
        if method_name == "set_next_task":
            self.set_next_task(method_args[0], indices)
            return [None] * len(self._indices(indices))
        result = getattr(self, method_name)(*method_args, **method_kwargs)
        if method_name == "action_masks":
            return [result[env] for env in self._indices(indices)]
        return [result] * len(self._indices(indices))

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """False for each environment: there are no single environments to wrap."""
        return [False] * len(self._indices(indices))
