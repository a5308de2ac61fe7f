"""Train, look how far the forecast can be trusted, fine-tune, look again: python examples/quickstart.py (about two minutes)."""

import os

from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecMonitor

import sb3_forecast as sf
import sb3_forecast_envs as sfe

# fewer steps for a test of this script
STEPS = int(os.environ.get("QUICKSTART_STEPS", "400000"))

if __name__ == "__main__":
    tasks = sfe.TaskPool("ThinIce-8x8", n_tasks=20_000, seed=0)  # lava rooms; 1 in 500 hides an unfamiliar hazard
    fresh = sfe.TaskPool("ThinIce-8x8", n_tasks=12_000, seed=1)  # tasks to measure on
    env = VecMonitor(sfe.GridVecEnv(tasks, n_envs=128))
    settings = {
        "n_steps": 64,
        "batch_size": 512,
        "n_epochs": 4,
        "learning_rate": 1e-3,
        "ent_coef": 0.003,
        "device": "cpu",
        "seed": 0,
    }

    agent = PPO("MlpPolicy", env, **settings)
    agent.learn(2 * STEPS, progress_bar=True)
    # from 200 tasks to 3,800; only tasks that the training has not seen
    print(sf.evaluate_forecast(agent, fresh, eval_size=200, deploy_size=3800, exclude=tasks).summary())

    agent = sf.ForecastPPO.from_ppo(agent, env)
    agent.learn(STEPS, progress_bar=True)
    print(sf.evaluate_forecast(agent, fresh, eval_size=200, deploy_size=3800, exclude=tasks).summary())
