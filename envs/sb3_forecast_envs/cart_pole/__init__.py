"""Cart-poles with physics per task, and a strong wind in the rare mode."""

from sb3_forecast_envs.cart_pole.env import CartPoleTaskEnv, CartPoleVecEnv
from sb3_forecast_envs.cart_pole.pool import CartPoleTasks
from sb3_forecast_envs.cart_pole.simulation import CartPoleSimulation
from sb3_forecast_envs.pool import Makers

CartPoleTasks.makers = Makers(env=CartPoleTaskEnv, vec_env=CartPoleVecEnv, simulation=CartPoleSimulation)
