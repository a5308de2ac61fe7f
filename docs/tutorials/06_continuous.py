"""
Continuous actions
==================

You have an agent with continuous actions, as in MuJoCo. Failures can be counted, or found by splitting.
"""

# %%
# A pendulum whose motor and gravity differ from task to task. It fails if it turns too fast.

import numpy as np
from stable_baselines3 import PPO

import sb3_forecast as sf
import sb3_forecast_envs as sfe


def too_fast(step):
    return abs(step.env.unwrapped.state[1]) > 7.9


tasks = sfe.ContextTasks(
    "Pendulum-v1", 20, {"g": sfe.Uniform(8.0, 11.0)}, failed=too_fast, identity="pendulum that turns too fast"
)
agent = PPO("MlpPolicy", tasks.make_env(), n_steps=1024, batch_size=64, gamma=0.9, learning_rate=1e-3, seed=0, device="cpu")
agent.learn(40_000)

# %%
# How near is a state to failing? Here everybody knows: by its speed. Without ``coordinate``, a critic learns it from noisy episodes.

scorer = sf.SplittingScorer(tasks, particles=20, repetitions=2, coordinate=lambda seen: np.abs(seen[:, 2]), seed=0)
found = scorer.estimate(agent)
print("states are kept by:", scorer.keeper.name)
print("failure probabilities:", np.sort(found.probabilities)[::-1][:5].round(5))

# %%
# MuJoCo's environments are kept by copies, Box2D's by replaying actions. The scorer finds out which works, and proves it first: the same
# actions must give the same future. On the command line: ``python -m sb3_forecast evaluate model.zip --env-id Hopper-v5 --failed
# sb3_forecast_envs:ended_early --scorer splitting``.
