"""
Only a cost
===========

Your environment tells nothing but ``info["cost"]`` when something has gone wrong, and you have a budget of steps.
"""

# %%
# Cart-poles with a rare strong wind. The library is not told the physics here.

from stable_baselines3 import PPO

import sb3_forecast as sf
import sb3_forecast_envs as sfe

tasks = sfe.CartPoleTasks(n_tasks=2_000, seed=100, rare_fraction=0.02)
agent = PPO("MlpPolicy", tasks.make_vec_env(64), n_steps=64, batch_size=512, learning_rate=1e-3, seed=0, device="cpu")
agent.learn(300_000)

# %%
# Counting resolves nothing below one failure in the number of episodes:

fresh = sfe.CartPoleTasks(n_tasks=30, seed=101, rare_fraction=0.1)
counted = sf.FrequencyScorer(fresh, episodes=30, env=fresh.make_vec_env(64)).measure(agent)
print("tasks with a failure in 30 episodes:", int((counted.frequencies > 0).sum()), "of", len(fresh))

# %%
# Splitting keeps the states that came near to failing and goes on from there. It is unbiased, and gives intervals:

splitting = sf.SplittingScorer(fresh, particles=30, repetitions=3, seed=0)
found = splitting.estimate(agent)
print("states are kept by:", splitting.keeper.name, "- steps:", found.steps)
for task in found.probabilities.argsort()[::-1][:5]:
    low, high = found.intervals[task]
    print(f"task {task}: p = {found.probabilities[task]:.1e}, 90% interval {low:.1e} to {high:.1e}")

# %%
# To train with a cost only, pass ``scorer=sf.RolloutScorer(tasks)`` to ``ForecastPPO``, and many tasks: a critic learns from the training's own
# episodes which actions end in a failure, and takes no further steps. It says when it must not be trusted.
