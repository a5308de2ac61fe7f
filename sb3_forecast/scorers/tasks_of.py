"""The tasks that an environment plays: how a pool reaches the training."""

from __future__ import annotations

import gymnasium as gym
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

from sb3_forecast.scorers.protocols import PlaysTasks, Pool


def tasks_of(env: VecEnv | None) -> Pool:
    """The pool of tasks that an environment plays.

    :param env: vectorised environment, wrapped or not
    :return: the pool
    :raises ValueError: if the environment plays no pool of tasks
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
        # its environments live in other processes: asking them by name is the only way
        found = inner.get_attr("pool")[0]
    if not isinstance(found, Pool):
        raise ValueError(
            f"env must play a pool of tasks, got {type(inner).__name__} without one; use SeededTasks(make_env, n_tasks, failed).make_vec_env(n) "
            "for an environment of yours, GridVecEnv(pool, n_envs) for a gridworld, or forecast_coef=0"
        )
    return found
