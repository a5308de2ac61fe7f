"""Existing environments as pools of tasks. A task is an episode that starts with a given reset seed."""

from sb3_forecast_envs.pool import Makers
from sb3_forecast_envs.seeded.env import SeededEnv, make_vec_env
from sb3_forecast_envs.seeded.model import SeededModel
from sb3_forecast_envs.seeded.pool import SeededTasks

SeededTasks.makers = Makers(env=SeededEnv, vec_env=make_vec_env, finite_model=SeededModel)

__all__ = ["SeededEnv", "SeededModel", "SeededTasks"]
