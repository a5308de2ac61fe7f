"""
Find what was missed
====================

A random sample misses rare kinds of failing task. If you can look at the deployment, active evaluation chooses which tasks to score.
"""

# %%
# It needs scikit-learn: ``pip install 'sb3-forecast[active]'``.

from stable_baselines3 import PPO

import sb3_forecast as sf
import sb3_forecast_envs as sfe

train = sfe.TaskPool("ThinIce-8x8", n_tasks=5_000, seed=100)
agent = PPO("MlpPolicy", sfe.GridVecEnv(train, n_envs=64), n_steps=64, batch_size=512, seed=0, device="cpu").learn(200_000)

# %%
# 20,000 tasks, 600 scores:

deployment = sfe.TaskStream("ThinIce-8x8", 20_000, seed=101)
report = sf.ActiveEvaluation("exact", deployment, budget=600).run(agent)
print(report.summary())

# %%
# The estimates are unbiased, because each task was chosen with a known probability. The rules name the kinds that fail; nothing told the
# library what they are.

worst = report.worst
print(f"worst task: {worst.task}, p = {worst.failure:.2f}")
print("rare tasks among the scored:", int(report.rare.sum()))
