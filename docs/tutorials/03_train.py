"""
Train until the forecast holds
==============================

The same training twice: with PPO, and with ``ForecastPPO`` in its place.
"""

# %%
# 20,000 tasks, of which 1 in 500 hides an unfamiliar hazard.

from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecMonitor

import sb3_forecast as sf
import sb3_forecast_envs as sfe

tasks = sfe.TaskPool("ThinIce-8x8", n_tasks=20_000, seed=100)
env = VecMonitor(sfe.GridVecEnv(tasks, n_envs=128))
settings = {"n_steps": 64, "batch_size": 512, "n_epochs": 4, "learning_rate": 1e-3, "seed": 100, "device": "cpu"}

ppo = PPO("MlpPolicy", env, **settings).learn(500_000)

# %%
# One word changes. A fifth of the tasks is kept from every gradient, and training that does harm on them is taken back.
# ``ForecastPPO.from_ppo("ppo.zip", env)`` goes on from a saved PPO instead.

model = sf.ForecastPPO("MlpPolicy", env, **settings).learn(500_000)

# %%
# Both, on fresh tasks that the training has not seen:

fresh = sfe.TaskPool("ThinIce-8x8", n_tasks=8_000, seed=101)
reports = {}
for name, agent in (("PPO", ppo), ("ForecastPPO", model)):
    reports[name] = sf.evaluate_forecast(agent, fresh, 200, deploy_size=3_800, n_splits=200, exclude=tasks)
    found = reports[name]
    print(name)
    print("  95% limit holds in", f"{found.limit_holds:.0%}", "of the splits")
    print("  worst task:", f"p = {found.worst_failure:.1e}", "- success:", f"{found.success:.3f}")

# %%
# Read the limit beside success: an agent that never moves has no failures.

from sb3_forecast.measuring.plots import tail_comparison

figure = tail_comparison(reports, "tails.png")
path = reports["ForecastPPO"].to_html("report.html", "PPO and ForecastPPO", before=reports["PPO"])
