"""
On a cluster
============

Every task of a large deployment, scored on all processors of a machine or of a Ray cluster. A run that was stopped goes on.
"""

# %%
# It needs ``pip install 'sb3-forecast[cluster]'``.

import tempfile

from stable_baselines3 import PPO

import sb3_forecast as sf
import sb3_forecast_envs as sfe

train = sfe.TaskPool("ThinIce-8x8", n_tasks=2_000, seed=100)
agent = PPO("MlpPolicy", sfe.GridVecEnv(train, n_envs=64), n_steps=32, batch_size=256, seed=0, device="cpu").learn(50_000)

# %%
# One Parquet row per task goes into the folder; what comes back is a sketch of all scores, exact in its tail.

folder = tempfile.mkdtemp()
sketch = sf.cluster.score(agent, sfe.TaskStream("ThinIce-8x8", 20_000, seed=101), folder, progress_bar=False)
print("mean failure:", sketch.mean_failure)
print("tasks above 1 in 100:", sketch.worse_than(0.01))
print(sf.report_of_sketch(sketch, eval_size=200).verdict())

import ray

ray.shutdown()
