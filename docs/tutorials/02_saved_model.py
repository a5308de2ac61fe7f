"""
A saved model
=============

You have a model of Stable-Baselines3 or sb3-contrib, and an environment.
"""

# %%
# We train a small one here. Its tasks are lava rooms; 1 in 500 hides thin ice, which looks almost harmless.

from stable_baselines3 import PPO

import sb3_forecast as sf
import sb3_forecast_envs as sfe

train = sfe.TaskPool("ThinIce-8x8", n_tasks=5_000, seed=100)
agent = PPO("MlpPolicy", sfe.GridVecEnv(train, n_envs=64), n_steps=64, batch_size=512, seed=0, device="cpu")
agent.learn(200_000)
agent.save("agent.zip")

# %%
# Measure it on tasks that it has not seen. ``exclude`` leaves out those that the training had, too.

held_out = sfe.TaskPool("ThinIce-8x8", n_tasks=4_000, seed=101)
report = sf.evaluate_forecast(agent, held_out, eval_size=200, deploy_size=1_000, n_splits=200, exclude=train)
print(report.summary())

# %%
# The first sentence says whether forecasts from 200 tasks held on the others. If they did not, something rare fails that 200 tasks miss.
#
# The command line does the same for a file: ``python -m sb3_forecast evaluate agent.zip --env-id SB3Forecast/ThinIce-8x8-v0 --held-out 3800
# --html report.html``. In Python, ``report.to_html("report.html")`` writes a file that you can send.

figure = report.plot("tail.png")

# %%
# The tasks that it fails most:

import numpy as np

print([held_out.label(int(task)) for task in np.argsort(-report.scores)[:3]])
