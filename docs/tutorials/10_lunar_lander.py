"""
A lunar lander
==============

You have an agent for LunarLander, or another environment of Box2D, and a number of episodes that you can afford.

It needs ``pip install 'sb3-forecast[box2d]'``.
"""

# %%
# An agent that has learnt to hover, but not yet to land well. A landing that ends without a reward is a crash.

import gymnasium as gym
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

import sb3_forecast as sf
import sb3_forecast_envs as sfe

agent = PPO(
    "MlpPolicy",
    make_vec_env("LunarLander-v3", 16, seed=100),
    n_steps=256,
    batch_size=512,
    n_epochs=6,
    gamma=0.995,
    seed=100,
    device="cpu",
)
agent.learn(150_000)
agent.save("lander.zip")

# %%
# 200 episodes. The command decides how to use them: most play another start each, the others repeat starts whose failure probability is least
# known. The first lines say how many crashes to expect, with an interval.

from sb3_forecast.__main__ import main

main(
    [
        "evaluate", "lander.zip", "--env-id", "LunarLander-v3", "--failed", "sb3_forecast_envs:ended_without_reward",
        "--max-episodes", "200", "--deploy-size", "1e5", "--no-progress-bar",
    ]
)  # fmt: skip

# %%
# Does the wind matter? A task can have numbers of its own. One task in five has a storm here.


def windy():
    return gym.make("LunarLander-v3", enable_wind=True, turbulence_power=0.0)


tasks = sfe.ContextTasks(
    windy,
    n_tasks=150,
    contexts={"gravity": sfe.Normal(-10.0, 0.5), "wind_power": sfe.Uniform(0.0, 0.5)},
    failed=sfe.ended_without_reward,
    identity="lander in the wind",
    rare={"wind_power": sfe.Uniform(15.0, 20.0)},
    rare_fraction=0.2,
    seed=7,
)
crashed = sf.FrequencyScorer(tasks, episodes=1).failures(agent) > 0
for name, kind in (("usual", ~tasks.rare), ("storm", tasks.rare)):
    print(f"{name}: {crashed[kind].sum()} of {kind.sum()} crashed")

# %%
# The worst tasks as a film: ``--record worst.gif`` on the command line, or ``sf.record_worst(agent, tasks, path="worst.gif")``.
#
# Which kinds of start fail, by rules that one can read: ``--active``, or :doc:`07_find_what_was_missed`.
