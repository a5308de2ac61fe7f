"""A family of tasks of one's own: one class, and everything works on it.

python examples/own_family.py
python examples/train_gridworld.py --family own_family:Moat-7x7 --no-unseen
"""

import os

import gymnasium as gym
import numpy as np
from stable_baselines3 import PPO

import sb3_forecast as sf
import sb3_forecast_envs as sfe


class Moat(sfe.TaskFamily):
    """Lava along one row with a single gap; in the rare mode the lava is thin ice."""

    name = "Moat"
    cells = (sfe.EMPTY, sfe.WALL, sfe.GOAL, sfe.LAVA, sfe.THIN_ICE)  # a layout holds positions in this tuple

    def draw_layout(self, rng, rare):
        layout = np.ones((self.size, self.size), dtype=np.uint8)  # walls
        layout[1:-1, 1:-1] = 0  # empty
        layout[-2, -2] = 2  # the goal
        row, gap = rng.integers(2, self.size - 2), rng.integers(1, self.size - 1)
        layout[row, 1:-1] = 4 if rare else 3
        layout[row, gap] = 0
        return sfe.Task(layout, start=(1, 1, 0), rare=rare)


MOAT = sfe.register_family(Moat(size=7))
STEPS = int(os.environ.get("OWN_FAMILY_STEPS", "50000"))  # fewer for a test of this script

if __name__ == "__main__":
    print("the agent sees", gym.make(MOAT).observation_space)
    tasks = sfe.TaskPool("Moat-7x7", n_tasks=2000, seed=0, rare_fraction=0.05)
    agent = PPO("MlpPolicy", sfe.GridVecEnv(tasks, n_envs=64), n_steps=32, batch_size=256, device="cpu").learn(STEPS)
    print(sf.evaluate_forecast(agent, tasks, eval_size=100, n_splits=100).summary())
