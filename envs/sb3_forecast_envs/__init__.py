"""Pools of tasks with a rare mode: gridworlds, cart-poles, and the episodes of any Gymnasium environment."""

import gymnasium as gym

from sb3_forecast_envs.batched import BatchedVecEnv
from sb3_forecast_envs.cart_pole.env import CartPoleTaskEnv, CartPoleVecEnv
from sb3_forecast_envs.cart_pole.pool import CartPoleTasks
from sb3_forecast_envs.contexts import Choice, ContextTasks, Normal, Uniform, parse_context
from sb3_forecast_envs.cost_in_info import CostInInfo
from sb3_forecast_envs.gridworld.cells import (
    CLOSED_DOOR,
    CONTINUES,
    DECOY,
    EMPTY,
    FAILS,
    GOAL,
    GUST,
    KEY,
    LAVA,
    LOCKED_DOOR,
    OPEN_DOOR,
    SUCCEEDS,
    THIN_ICE,
    WALL,
    Cell,
)
from sb3_forecast_envs.gridworld.env import GridWorldEnv, build_grid, render_state
from sb3_forecast_envs.gridworld.families import Bridge, Decoy, ThinIce, Vault, Wind
from sb3_forecast_envs.gridworld.family import FAMILIES, FamilyOptions, Task, TaskFamily, make_family
from sb3_forecast_envs.gridworld.pictures import draw_tasks, failure_map
from sb3_forecast_envs.gridworld.pool import TaskPool, TaskStream
from sb3_forecast_envs.gridworld.vec_env import GridVecEnv
from sb3_forecast_envs.pool import Makers, Pool
from sb3_forecast_envs.registration import make_pool, register_family
from sb3_forecast_envs.seeded.env import PlayTasks
from sb3_forecast_envs.seeded.exploration import Step, ended_early, ended_without_reward
from sb3_forecast_envs.seeded.pool import SeededTasks

for _family in (ThinIce, Bridge, Decoy, Vault, Wind):
    for _size in (8, 12):
        register_family(_family(_size), replay=False)  # the tests replay these

gym.register("SB3Forecast/CartPole-v0", entry_point="sb3_forecast_envs.cart_pole.env:CartPoleTaskEnv")

__all__ = [
    "CLOSED_DOOR",
    "CONTINUES",
    "DECOY",
    "EMPTY",
    "FAILS",
    "FAMILIES",
    "GOAL",
    "GUST",
    "KEY",
    "LAVA",
    "LOCKED_DOOR",
    "OPEN_DOOR",
    "SUCCEEDS",
    "THIN_ICE",
    "WALL",
    "BatchedVecEnv",
    "Bridge",
    "CartPoleTaskEnv",
    "CartPoleTasks",
    "CartPoleVecEnv",
    "Cell",
    "Choice",
    "ContextTasks",
    "CostInInfo",
    "Decoy",
    "FamilyOptions",
    "GridVecEnv",
    "GridWorldEnv",
    "Makers",
    "Normal",
    "PlayTasks",
    "Pool",
    "SeededTasks",
    "Step",
    "Task",
    "TaskFamily",
    "TaskPool",
    "TaskStream",
    "ThinIce",
    "Uniform",
    "Vault",
    "Wind",
    "build_grid",
    "draw_tasks",
    "ended_early",
    "ended_without_reward",
    "failure_map",
    "make_family",
    "make_pool",
    "parse_context",
    "register_family",
    "render_state",
]
