"""An environment of your own, of any algorithm, measured by counting: python examples/own_env.py (about a minute).

Task i is the episode that starts with the i-th reset seed. `failed` says what counts as a failure.
"""

import os

import gymnasium as gym
from stable_baselines3 import PPO

import sb3_forecast as sf
import sb3_forecast_envs as sfe

# fewer steps for a test of this script
STEPS = int(os.environ.get("OWN_ENV_STEPS", "30000"))


def fallen(step):
    """The pole has fallen: the episode ended before its time limit."""
    return step.terminated


if __name__ == "__main__":
    agent = PPO("MlpPolicy", gym.make("CartPole-v1"), device="cpu", seed=0).learn(STEPS)
    tasks = sfe.SeededTasks("CartPole-v1", n_tasks=150, failed=fallen, first_seed=1_000)
    report = sf.evaluate_forecast(agent, tasks, eval_size=50, deploy_size=100, scorer=sf.FrequencyScorer(tasks, episodes=10))
    print(report.summary())
