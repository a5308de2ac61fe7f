"""
A walker in MuJoCo
==================

You have an agent with continuous actions in MuJoCo. It falls rarely, so that counting says little.

It needs ``pip install 'sb3-forecast[mujoco]'``.
"""

# %%
# A pole on a cart, whose motor and gravity differ from task to task. An episode that ends early is a fall. Hopper, Walker2d or Ant are used in
# the same way; they only need longer training.

import gymnasium as gym
import numpy as np
from stable_baselines3 import PPO

import sb3_forecast as sf
import sb3_forecast_envs as sfe


def make():
    return gym.make("InvertedPendulum-v5", max_episode_steps=100)


physics = {"model.opt.gravity[2]": sfe.Normal(-9.81, 2.0), "model.actuator_gear*": sfe.Uniform(0.4, 1.6)}
train = sfe.ContextTasks(make, n_tasks=500, contexts=physics, failed=sfe.ended_early, seed=100, identity="pendulum, 100 steps")
agent = PPO(
    "MlpPolicy", train.make_vec_env(32), n_steps=64, batch_size=512, n_epochs=8, learning_rate=1e-3, seed=0, device="cpu"
)
agent.learn(120_000)

# %%
# Deployment has tasks that training did not have: another seed, and a motor that is three times too strong in one task of four.

fresh = sfe.ContextTasks(
    make, 12, physics, sfe.ended_early, seed=101, identity="pendulum, 100 steps",
    rare={"model.actuator_gear*": sfe.Uniform(2.5, 3.5)}, rare_fraction=0.25,
)  # fmt: skip
counted = sf.FrequencyScorer(fresh, episodes=10).failures(agent)
print("falls in 10 episodes:", counted.tolist())

# %%
# Splitting goes on from the states that came near to falling. MuJoCo's state is kept by copies; that is proved before it is used. The coordinate
# is the angle of the pole: here everybody knows it. Without ``coordinate``, a critic learns one.

scorer = sf.SplittingScorer(fresh, particles=20, repetitions=2, coordinate=lambda seen: np.abs(seen[:, 1]), seed=0)
found = scorer.estimate(agent)
print("states are kept by:", scorer.keeper.name, "- steps:", f"{found.steps:,}")
for task in found.probabilities.argsort()[::-1][:6]:
    low, high = found.intervals[task]
    kind = "strong motor" if fresh.rare[task] else "usual"
    print(f"task {task} ({kind}): p = {found.probabilities[task]:.1e}, 90% interval {low:.1e} to {high:.1e}")

# %%
# On the command line: ``python -m sb3_forecast evaluate model.zip --env-id Hopper-v5 --failed sb3_forecast_envs:ended_early --scorer
# splitting``.
#
# Against a rare mode that the agent has not learnt, begin with ``callback=sf.FailureReplay()``, or with ``ForecastPPO``, many tasks and
# ``scorer=sf.RolloutScorer(tasks)``. It works with any action space that on-policy algorithms have: see :doc:`/model_free` for what both
# gain.
