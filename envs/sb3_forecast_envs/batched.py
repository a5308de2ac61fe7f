"""Environments on a pool of tasks that are stepped together, as one batch: what they share, whatever they simulate."""

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

from sb3_forecast_envs.outcomes import FAILURE, SUCCESS, TRUNCATED
from sb3_forecast_envs.pool import Pool
from sb3_forecast_envs.sampling import TaskSampler

PoolT = TypeVar("PoolT", bound=Pool)


class BatchedVecEnv(VecEnv, ABC, Generic[PoolT]):
    """An SB3 ``VecEnv`` whose environments play a pool's tasks, and draw them as single environments with the same seeds would.

    Each environment draws its tasks from its own generator, seeded ``seed + i`` as SB3 seeds a ``DummyVecEnv``. Every step's ``info`` has
    ``task`` and ``cost``; the last also ``is_success``. A subclass says how an episode starts, looks, and goes on.

    :param pool: the tasks
    :param n_envs: number of environments stepped together
    :param observation_space: of one environment
    :param n_actions: number of discrete actions
    :param seed: seed of the first environment
    :param render_mode: ``"rgb_array"`` or ``None``
    :raises ValueError: if ``n_envs < 1``
    """

    #: names of what a subclass knows of the running episodes, arrays over environments
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
        if n_envs < 1:
            raise ValueError(f"n_envs={n_envs} steps nothing; use n_envs >= 1")
        self.pool = pool
        # read by VecEnv.__init__ through get_attr
        self.render_mode = render_mode
        super().__init__(n_envs, observation_space, spaces.Discrete(n_actions))
        self.n_actions = n_actions
        self.sampler = TaskSampler(len(pool))
        self.tasks = np.zeros(n_envs, dtype=np.int64)
        self.steps = np.zeros(n_envs, dtype=np.int64)
        self._actions = np.zeros(n_envs, dtype=np.int64)
        self._generators = [seeding.np_random(seed + i)[0] for i in range(n_envs)]
        self._next_tasks = np.full(n_envs, -1, dtype=np.int64)
        # what a step reports while nothing happens; handed out as copies
        self._uneventful: list[dict[str, Any]] = [{} for _ in range(n_envs)]

    @abstractmethod
    def _start(self, envs: NDArray[np.int64]) -> None:
        """Put environments at the start of their tasks, ``self.tasks[envs]``, just drawn."""

    @abstractmethod
    def _observe(self, envs: NDArray[np.int64]) -> NDArray[Any]:
        """What some environments show."""

    @abstractmethod
    def _advance(self, actions: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.float32], NDArray[np.uint8]]:
        """Take a step everywhere, counting ``self.steps`` up: observations, rewards, and what it came to (``RUNNING``...)."""

    def _begin(self, envs: NDArray[np.int64], tasks: NDArray[np.int64]) -> None:
        """Start an episode in some environments, their tasks just drawn."""
        self.tasks[envs] = tasks
        self.steps[envs] = 0
        for env, task in zip(envs.tolist(), tasks.tolist(), strict=True):
            self._uneventful[env] = {"task": task, "cost": 0.0, "TimeLimit.truncated": False}
            self.reset_infos[env] = {"task": task}
        self._start(envs)

    def reset(self) -> NDArray[Any]:
        """Start an episode everywhere, using seeds and options set before, as SB3 vectorised environments do."""
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
        """Keep the actions for :meth:`step_wait`.

        :raises ValueError: if they are not one action number per environment
        """
        taken = np.asarray(actions, dtype=np.int64)
        if taken.shape != (self.num_envs,) or taken.min() < 0 or taken.max() >= self.n_actions:
            raise ValueError(
                f"actions={actions!r} are not {self.num_envs} numbers in [0, {self.n_actions - 1}], one per environment"
            )
        self._actions = taken

    def step_wait(self) -> VecEnvStepReturn:
        """Take the step; finished episodes are followed by the first observation of a new task."""
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
        """Start a share of the episodes on tasks drawn in proportion to weights; see :class:`TaskSampler`."""
        self.sampler.set_weights(weights, share)

    def get_state(self) -> dict[str, Any]:
        """Everything about the running episodes, for :meth:`set_state`."""
        shared = ("sampler", "tasks", "steps", "_generators", "_uneventful", "_next_tasks", "reset_infos")
        state = {name: copy.deepcopy(getattr(self, name)) for name in (*shared, *self.episode_state)}
        return {**state, "pool": self.pool.key}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on with the episodes of :meth:`get_state`.

        :param state: as returned there
        :raises ValueError: if it belongs to another pool or another number of environments
        """
        if state["pool"] != self.pool.key or len(state["tasks"]) != self.num_envs:
            raise ValueError(
                f"the state belongs to {len(state['tasks'])} environments on {state['pool']}, these are {self.num_envs} on {self.pool.key}; "
                "make them as for the run"
            )
        for name, value in state.items():
            if name != "pool":
                setattr(self, name, copy.deepcopy(value))

    def set_next_task(self, task: int | None, indices: VecEnvIndices = None) -> None:
        """The task of the next episode of some environments; ``None`` to draw it.

        :param task: index into the pool
        :param indices: which environments
        :raises ValueError: if the task is not in the pool
        """
        if task is not None and not 0 <= task < len(self.pool):
            raise ValueError(f"task={task} is not in the pool; use an index in [0, {len(self.pool) - 1}]")
        self._next_tasks[self._indices(indices)] = -1 if task is None else task

    def close(self) -> None:
        """Nothing to release."""

    def _indices(self, indices: VecEnvIndices) -> Sequence[int]:
        return list(self._get_indices(indices))

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Attribute of the batch, once per environment."""
        return [getattr(self, attr_name)] * len(self._indices(indices))

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of the whole batch.

        :raises ValueError: if only some environments are named: they share their attributes
        """
        if len(self._indices(indices)) != self.num_envs:
            raise ValueError(
                f"indices={indices} names some environments, but those of a batch share attributes; leave indices out"
            )
        setattr(self, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of the batch once; its result stands for every environment, but for ``action_masks`` and ``set_next_task``."""
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
        """Never: there are no single environments to wrap."""
        return [False] * len(self._indices(indices))
