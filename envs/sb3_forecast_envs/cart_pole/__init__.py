"""Cart-poles: each task has its own physics, and in the rare mode there is a strong wind."""

from sb3_forecast_envs.cart_pole.env import CartPoleTaskEnv, CartPoleVecEnv
from sb3_forecast_envs.cart_pole.pool import CartPoleTasks
from sb3_forecast_envs.cart_pole.simulation import CartPoleSimulation
from sb3_forecast_envs.pool import Makers

CartPoleTasks.makers = Makers(env=CartPoleTaskEnv, vec_env=CartPoleVecEnv, simulation=CartPoleSimulation)
