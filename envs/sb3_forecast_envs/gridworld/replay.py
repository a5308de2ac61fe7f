"""Plays a family's MiniGrid environment against its batched environment: scores of another game would be wrong without a word."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from sb3_forecast_envs.gridworld.env import GridWorldEnv
from sb3_forecast_envs.gridworld.family import TaskFamily
from sb3_forecast_envs.gridworld.pool import TaskPool
from sb3_forecast_envs.gridworld.vec_env import GridVecEnv

_ENVS, _STEPS, _TASKS, _SEED = 4, 100, 40, 0
#: how much likelier than a turn these actions are drawn, so that random episodes get somewhere
_WEIGHTS = {"forward": 2.0, "toggle": 2.0}


def check_same_game(family: TaskFamily) -> None:
    """Follow random episodes of both environments, step by step. Half of the tasks are rare.

    The batched environment and the exact scores read the family's rules from tables. MiniGrid runs the objects' own code. The two differ if
    an object does what no table can hold: a lever that opens a door elsewhere, a tile that remembers how often it was entered.

    :param family: the family
    :raises ValueError: at the first difference, with the step
    """
    mixed = copy.copy(family)
    if 0.0 < family.rare_fraction < 1.0:
        mixed.rare_fraction = 0.5
    pool = TaskPool(mixed, _TASKS, seed=_SEED)
    batched = GridVecEnv(pool, _ENVS, seed=_SEED)
    singles = [GridWorldEnv(mixed, pool) for _ in range(_ENVS)]
    seen: Any = batched.reset()
    for i, env in enumerate(singles):
        _compare(family, f"the first observation of task {env.task}", seen[i], env.reset(seed=_SEED + i)[0])
    weights = np.array([_WEIGHTS.get(name, 1.0) for name in family.actions])
    generator = np.random.default_rng(_SEED)
    for _ in range(_STEPS):
        actions = generator.choice(family.n_actions, _ENVS, p=weights / weights.sum())
        for i, env in enumerate(singles):
            # an object in front is what the two may disagree about
            if "toggle" in family.actions and env.grid.get(*env.front_pos) is not None and generator.random() < 0.5:
                actions[i] = family.actions.index("toggle")
        seen, rewards, dones, infos = batched.step(actions)
        for i, env in enumerate(singles):
            where = f"step {env.step_count + 1} ({family.actions[actions[i]]}) of task {env.task}"
            observation, reward, terminated, truncated, info = env.step(int(actions[i]))
            ended = terminated or truncated
            _compare(family, f"the end of the episode at {where}", dones[i], ended)
            _compare(family, f"the reward at {where}", rewards[i], np.float32(reward))
            _compare(family, f"the cost at {where}", infos[i]["cost"], info["cost"])
            if ended:
                _compare(family, f"the last observation at {where}", infos[i]["terminal_observation"], observation)
                observation, _ = env.reset()
            _compare(family, f"the observation after {where}", seen[i], observation)


def _compare(family: TaskFamily, what: str, batched: object, single: object) -> None:
    if not np.array_equal(np.asarray(batched), np.asarray(single)):
        raise ValueError(
            f"{family.id}: MiniGrid and the batched environment must play the same game, got a difference in {what}: an object must depend only "
            f"on its cell and on what the agent carries, and change only its own cell; use another object, or play "
            "your environment through SeededTasks"
        )
