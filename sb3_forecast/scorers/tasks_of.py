"""Finds the pool of tasks that an environment plays, so that the training can use it."""

from __future__ import annotations

import gymnasium as gym
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

from sb3_forecast.scorers.protocols import PlaysTasks, Pool


def tasks_of(env: VecEnv | None) -> Pool:
    """The pool of tasks that an environment plays.

    :param env: vectorised environment, with or without wrappers
    :return: the pool
    :raises ValueError: if ``env`` is ``None``, or does not play a pool of tasks
    """
    if env is None:
        raise ValueError("env must play a pool of tasks, got None; pass an environment, or call set_env first")
    inner = env.unwrapped
    found: object = None
    if isinstance(inner, PlaysTasks):
        found = inner.pool
    elif isinstance(inner, DummyVecEnv):
        layer: gym.Env = inner.envs[0]
        while not isinstance(layer, PlaysTasks) and isinstance(layer, gym.Wrapper):
            layer = layer.env
        found = layer.pool if isinstance(layer, PlaysTasks) else None
    elif isinstance(inner, SubprocVecEnv) and inner.has_attr("pool"):
        # the environments live in other processes, so an isinstance check of them is not possible
        found = inner.get_attr("pool")[0]
    if not isinstance(found, Pool):
        raise ValueError(
            f"env must play a pool of tasks, got {type(inner).__name__} without one; use SeededTasks(make_env, n_tasks, failed).make_vec_env(n) "
            "for your own environment, GridVecEnv(pool, n_envs) for a gridworld, or forecast_coef=0 to train without a forecast"
        )
    return found
