"""Foreign environments whose physics or options differ from task to task."""

from sb3_forecast_envs.contexts.distributions import Choice, Normal, Uniform, parse_context
from sb3_forecast_envs.contexts.pool import ContextTasks
from sb3_forecast_envs.pool import Makers
from sb3_forecast_envs.seeded.env import SeededEnv, make_vec_env

__all__ = ["Choice", "ContextTasks", "Normal", "Uniform", "parse_context"]

ContextTasks.makers = Makers(env=SeededEnv, vec_env=make_vec_env)
