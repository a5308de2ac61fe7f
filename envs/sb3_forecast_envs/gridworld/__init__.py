"""Gridworlds: families of tasks, and three ways to use a task: MiniGrid environment, batched environment, finite model."""

from sb3_forecast_envs.gridworld.dynamics import GridModel, GridSimulation
from sb3_forecast_envs.gridworld.env import GridWorldEnv
from sb3_forecast_envs.gridworld.pool import TaskPool
from sb3_forecast_envs.gridworld.vec_env import GridVecEnv
from sb3_forecast_envs.pool import Makers

TaskPool.makers = Makers(
    env=lambda pool, render_mode: GridWorldEnv(pool.family, pool, render_mode=render_mode),
    vec_env=GridVecEnv,
    finite_model=GridModel,
    simulation=GridSimulation,
)
