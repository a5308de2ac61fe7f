"""The same tasks as the MiniGrid environment, stepped as a batch by one compiled loop: an SB3 ``VecEnv``."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import seeding
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn

from sb3_forecast_envs.compiled import F64, FORWARD, I64, U8, advance, expand, jit, look, look_batch, step_uniform, turn_of
from sb3_forecast_envs.pools import TaskPool
from sb3_forecast_envs.rules import Rules
from sb3_forecast_envs.sampling import TaskSampler, draw_stream


@jit
def _step(
    grids: U8, rows: I64, rules: Rules, channels: Any, onehot: bool, rewards_at_goal: F64, actions: I64,
    pos: I64, direction: I64, load: I64, streams: Any, steps: I64, observations: Any, rewards: Any, events: U8,
) -> None:  # fmt: skip
    """Advance every environment; ``events``: 0 running, 1 goal, 2 failure, 3 truncated only."""
    stride, moves, kinds, toggled, slips = rules.stride, rules.moves, rules.kinds, rules.toggled, rules.slip
    offsets, occluded = rules.offsets, rules.occluded
    view = np.empty((1, offsets.shape[1]), dtype=np.uint8)
    horizon = rewards_at_goal.shape[0] - 1
    for env in range(pos.shape[0]):
        row = rows[env]
        move = moves[actions[env]]
        turn = 0
        slip = slips[grids[row, pos[env]]]
        if slip > 0.0 and move == FORWARD:
            turn = turn_of(step_uniform(streams[env], steps[env]), slip)
        pos[env], direction[env], load[env], event = advance(
            grids, row, pos[env], direction[env], load[env], move, turn, stride, kinds, toggled
        )
        steps[env] += 1
        rewards[env] = rewards_at_goal[steps[env]] if event == 1 else 0.0
        events[env] = 3 if event == 0 and steps[env] >= horizon else event
        look(view, 0, grids, row, pos[env], direction[env], load[env], offsets, kinds, occluded)
        expand(observations, env, view, 0, channels, onehot)


@jit
def _observe(
    observations: Any,
    envs: I64,
    grids: U8,
    rows: I64,
    rules: Rules,
    channels: Any,
    onehot: bool,
    pos: I64,
    direction: I64,
    load: I64,
) -> None:
    """Observations of some environments."""
    offsets, kinds, occluded = rules.offsets, rules.kinds, rules.occluded
    view = np.empty((1, offsets.shape[1]), dtype=np.uint8)
    for b, env in enumerate(envs):
        look(view, 0, grids, rows[env], pos[env], direction[env], load[env], offsets, kinds, occluded)
        expand(observations, b, view, 0, channels, onehot)


class GridVecEnv(VecEnv):
    """Batched gridworld on a pool of tasks, equal step by step to the registered MiniGrid environment.

    Each environment draws its tasks from its own generator, seeded ``seed + i`` as SB3 seeds a ``DummyVecEnv``, so the
    tasks, too, are those that ``n_envs`` MiniGrid environments with these seeds would play.

    :param pool: the tasks
    :param n_envs: number of environments stepped together
    :param seed: seed of the first environment
    :param render_mode: ``"rgb_array"`` or ``None``
    :raises ValueError: if ``n_envs < 1``
    """

    def __init__(self, pool: TaskPool, n_envs: int, seed: int = 0, render_mode: str | None = None) -> None:
        if n_envs < 1:
            raise ValueError(f"n_envs={n_envs} steps nothing; use n_envs >= 1")
        family = pool.family
        self.pool = pool
        # read by VecEnv.__init__ through get_attr
        self.render_mode = render_mode
        super().__init__(n_envs, family.observation_space, spaces.Discrete(family.n_actions))
        self._grids = pool.padded_layouts()
        self._start_pos = pool.start_positions()
        self._onehot = family.observation == "onehot"
        self._goal_rewards = np.array([family.goal_reward(t) for t in range(family.horizon + 1)])
        self.sampler = TaskSampler(len(pool))
        self.tasks = np.zeros(n_envs, dtype=np.int64)
        self.pos = np.zeros(n_envs, dtype=np.int64)
        self.direction = np.zeros(n_envs, dtype=np.int64)
        self.load = np.zeros(n_envs, dtype=np.int64)
        self.steps = np.zeros(n_envs, dtype=np.int64)
        self._streams = np.zeros(n_envs, dtype=np.uint64)
        # environments whose layout can change play on a copy, the others on the pool's own
        self._played = self._grids[np.zeros(n_envs, dtype=np.int64)] if family.changeable else self._grids
        self._rows = np.arange(n_envs) if family.changeable else self.tasks
        self._actions = np.zeros(n_envs, dtype=np.int64)
        self._generators = [seeding.np_random(seed + i)[0] for i in range(n_envs)]
        self._next_tasks = np.full(n_envs, -1, dtype=np.int64)
        # what a step reports while nothing happens; handed out as copies
        self._uneventful: list[dict[str, Any]] = [{} for _ in range(n_envs)]

    def _begin(self, envs: NDArray[np.int64], tasks: NDArray[np.int64]) -> None:
        """Start an episode in some environments, their tasks just drawn."""
        family = self.pool.family
        self.tasks[envs] = tasks
        self.pos[envs] = self._start_pos[tasks]
        self.direction[envs] = self.pool.starts[tasks, 2]
        self.load[envs] = 0
        self.steps[envs] = 0
        if family.changeable:
            self._played[envs] = self._grids[tasks]
        for env, task in zip(envs.tolist(), tasks.tolist(), strict=True):
            if family.slippery:
                self._streams[env] = draw_stream(self._generators[env])
            self._uneventful[env] = {"task": task, "cost": 0.0, "TimeLimit.truncated": False}
            self.reset_infos[env] = {"task": task}

    def _observe(self, envs: NDArray[np.int64]) -> NDArray[Any]:
        family = self.pool.family
        out = np.empty((len(envs), family.view_size**2 * family.channels.shape[1]), dtype=family.channels.dtype)
        _observe(
            out, envs, self._played, self._rows, family.rules, family.channels, self._onehot, self.pos, self.direction, self.load
        )  # fmt: skip
        return out.reshape(len(envs), *family.observation_space.shape)

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
        n_actions = self.pool.family.n_actions
        if taken.shape != (self.num_envs,) or taken.min() < 0 or taken.max() >= n_actions:
            raise ValueError(
                f"actions={actions!r} are not {self.num_envs} numbers in [0, {n_actions - 1}], one per environment"
            )
        self._actions = taken

    def step_wait(self) -> VecEnvStepReturn:
        """Take the step; finished episodes are followed by the first observation of a new task."""
        family = self.pool.family
        n = self.num_envs
        flat = np.empty((n, family.view_size**2 * family.channels.shape[1]), dtype=family.channels.dtype)
        rewards = np.empty(n, dtype=np.float32)
        events = np.empty(n, dtype=np.uint8)
        _step(
            self._played, self._rows, family.rules, family.channels, self._onehot, self._goal_rewards, self._actions,
            self.pos, self.direction, self.load, self._streams, self.steps, flat, rewards, events,
        )  # fmt: skip
        observations = flat.reshape(n, *family.observation_space.shape)
        infos = list(map(dict.copy, self._uneventful))
        ended = np.flatnonzero(events)
        if len(ended):
            for env in ended.tolist():
                event = int(events[env])
                infos[env].update(
                    {
                        "cost": float(event == 2),
                        "is_success": event == 1,
                        "TimeLimit.truncated": event == 3,
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
        kept = (
            "sampler",
            "tasks",
            "pos",
            "direction",
            "load",
            "steps",
            "_streams",
            "_generators",
            "_uneventful",
            "_next_tasks",
            "reset_infos",
        )
        state = {name: copy.deepcopy(getattr(self, name)) for name in kept}
        # where layouts do not change, they are the pool's own
        return {**state, "_played": self._played.copy() if self.pool.family.changeable else None, "pool": self.pool.key}

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
            if name not in ("pool", "_played"):
                setattr(self, name, copy.deepcopy(value))
        if self.pool.family.changeable:
            self._played = state["_played"].copy()
        else:
            self._rows = self.tasks

    def set_next_task(self, task: int | None, indices: VecEnvIndices = None) -> None:
        """The task of the next episode of some environments; ``None`` to draw it.

        :param task: index into the pool
        :param indices: which environments
        :raises ValueError: if the task is not in the pool
        """
        if task is not None and not 0 <= task < len(self.pool):
            raise ValueError(f"task={task} is not in the pool; use an index in [0, {len(self.pool) - 1}]")
        self._next_tasks[self._indices(indices)] = -1 if task is None else task

    def action_masks(self) -> NDArray[np.bool_]:
        """Actions that do something, shape (environments, actions); ``env_method("action_masks")`` gives each its row."""
        family = self.pool.family
        views = np.empty((self.num_envs, family.view_size**2), dtype=np.uint8)
        look_batch(views, self._played, self._rows, self.pos, self.direction, self.load, family.rules)
        return family.action_masks(views)

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
                f"indices={indices} names some environments, but a GridVecEnv's environments share attributes; leave indices out"
            )
        setattr(self, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of the batch once; its result stands for every environment, but for ``action_masks`` and ``set_next_task``."""
        if method_name == "action_masks":
            return [self.action_masks()[env] for env in self._indices(indices)]
        if method_name == "set_next_task":
            self.set_next_task(method_args[0], indices)
            return [None] * len(self._indices(indices))
        return [getattr(self, method_name)(*method_args, **method_kwargs)] * len(self._indices(indices))

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """Never: there are no single environments to wrap."""
        return [False] * len(self._indices(indices))

    def get_images(self) -> Sequence[NDArray[np.uint8] | None]:
        """One picture per environment, drawn by MiniGrid."""
        from sb3_forecast_envs.gridworld import render_state

        family = self.pool.family
        margin, stride = family.margin, family.stride
        inside = slice(margin, margin + family.size)
        images = []
        for env, row in enumerate(self._rows):
            layout = self._played[row].reshape(stride, stride)[inside, inside]
            y, x = divmod(int(self.pos[env]), stride)
            task = replace(self.pool[int(self.tasks[env])], layout=layout)
            images.append(render_state(family, task, (x - margin, y - margin), int(self.direction[env])))
        return images
