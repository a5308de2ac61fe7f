"""
Fine-tune until the forecast holds
==================================

Take a PPO agent, and go on with ``ForecastPPO``. The steps here are few, so that the page is built in a minute: do not expect the results of the
studies.
"""

# %%
# The agent that we start from.

from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecMonitor

import sb3_forecast as sf
import sb3_forecast_envs as sfe

tasks = sfe.TaskPool("ThinIce-8x8", n_tasks=8_000, seed=100)
env = VecMonitor(sfe.GridVecEnv(tasks, n_envs=64))
PPO("MlpPolicy", env, n_steps=64, batch_size=512, seed=0, device="cpu").learn(300_000).save("ppo.zip")

# %%
# One line changes: ``ForecastPPO.from_ppo`` in place of ``PPO.load``. A fifth of the tasks is kept from every gradient, and training that does
# harm on them is taken back.

model = sf.ForecastPPO.from_ppo("ppo.zip", env, device="cpu", seed=1)
model.learn(260_000)

# %%
# Before and after, on the same fresh tasks:

fresh = sfe.TaskPool("ThinIce-8x8", n_tasks=6_000, seed=101, exclude=tasks)
before = sf.evaluate_forecast(PPO.load("ppo.zip", device="cpu"), fresh, 200, deploy_size=2_000, n_splits=200)
after = sf.evaluate_forecast(model, fresh, 200, deploy_size=2_000, n_splits=200)
for name, report in (("before", before), ("after", after)):
    print(f"{name}: {report.verdict()} Worst p {report.worst_failure:.1e}, success {report.success:.3f}.")

# %%
# Read the error beside success: an agent that never moves has no error.

from sb3_forecast.measuring.plots import tail_comparison

figure = tail_comparison({"before": before, "after": after}, "tails.png")
path = after.to_html("report.html", "ThinIce, before and after", before=before)
