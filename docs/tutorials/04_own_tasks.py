"""
Your own tasks
==============

A family of gridworlds is a small class. Any Gymnasium environment is a pool of tasks, too.
"""

# %%
# Cells, and one function that draws a layout from a generator:

import numpy as np

import sb3_forecast as sf
import sb3_forecast_envs as sfe


class Ditch(sfe.TaskFamily):
    """Lava along one row with a single gap; in the rare mode the lava is thin ice."""

    name = "Ditch"
    cells = (sfe.EMPTY, sfe.WALL, sfe.GOAL, sfe.LAVA, sfe.THIN_ICE)  # a layout holds their positions in this tuple

    def draw_layout(self, rng, rare):
        layout = np.ones((self.size, self.size), dtype=np.uint8)  # walls
        layout[1:-1, 1:-1] = 0  # empty
        layout[-2, -2] = 2  # the goal
        row = rng.integers(2, self.size - 2)
        layout[row, 1:-1] = 4 if rare else 3
        layout[row, rng.integers(1, self.size - 1)] = 0
        return sfe.Task(layout, start=(1, 1, 0), rare=rare)


sfe.register_family(Ditch(size=7))
tasks = sfe.TaskPool("Ditch-7x7", n_tasks=2_000, seed=0, rare_fraction=0.02)
print(tasks, tasks.descriptors().names[:4])

# %%
# Everything works on it: exact scores, training, films.

from stable_baselines3 import PPO

agent = PPO("MlpPolicy", sfe.GridVecEnv(tasks, n_envs=64), n_steps=32, batch_size=256, seed=0, device="cpu").learn(60_000)
print(sf.evaluate_forecast(agent, tasks, eval_size=100, n_splits=100).verdict())

# %%
# An environment that exists, with physics that differ from task to task. ``failed`` says what a failure is.

poles = sfe.ContextTasks(
    "CartPole-v1",
    500,
    {"gravity": sfe.Normal(9.8, 0.5), "length": sfe.Uniform(0.4, 0.6)},
    failed=sfe.ended_early,
    rare={"gravity": sfe.Uniform(15.0, 18.0)},
    rare_fraction=0.02,
)
print(poles.label(0), "rare:", int(poles.rare.sum()))
