"""Task families with a rare failure mode, as MiniGrid environments, batched environments and finite models."""

from sb3_forecast_envs.cells import EMPTY, GOAL, LAVA, THIN_ICE, WALL, Cell
from sb3_forecast_envs.families import ThinIce
from sb3_forecast_envs.gridworld import GridWorldEnv, build_grid, render_state
from sb3_forecast_envs.pictures import draw_tasks, failure_map
from sb3_forecast_envs.registration import register_family
from sb3_forecast_envs.tasks import FAMILIES, Task, TaskFamily, TaskPool, make_family
from sb3_forecast_envs.vec_env import GridVecEnv

for _size in (8, 12):
    register_family(ThinIce(_size))

__all__ = [
    "EMPTY",
    "FAMILIES",
    "GOAL",
    "LAVA",
    "THIN_ICE",
    "WALL",
    "Cell",
    "GridVecEnv",
    "GridWorldEnv",
    "Task",
    "TaskFamily",
    "TaskPool",
    "ThinIce",
    "build_grid",
    "draw_tasks",
    "failure_map",
    "make_family",
    "register_family",
    "render_state",
]
