"""Find what the evaluation missed, train on it, look again: python examples/find_and_fix.py (about six minutes).

The agent has never seen a rare task. A random evaluation of 1,000 of 100,000 tasks holds about two of them. Active evaluation looks at all
100,000 and scores those 1,000 that are worth it. What fails joins the training pool.
"""

import os

import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecMonitor

import sb3_forecast as sf
import sb3_forecast_envs as sfe

FAMILY = os.environ.get("FIND_AND_FIX_FAMILY", "ThinIce-8x8")
SEED = int(os.environ.get("FIND_AND_FIX_SEED", "0"))
# fewer steps and tasks for a test of this script
STEPS = int(os.environ.get("FIND_AND_FIX_STEPS", "800000"))
DEPLOYED = int(os.environ.get("FIND_AND_FIX_TASKS", "100000"))
SETTINGS = {
    "n_steps": 64,
    "batch_size": 512,
    "n_epochs": 4,
    "learning_rate": 1e-3,
    "ent_coef": 0.003,
    "device": "cpu",
    "seed": SEED,
}


def environment(tasks):
    """The tasks, 128 at a time."""
    return VecMonitor(sfe.GridVecEnv(tasks, n_envs=128))


def worst_of_fresh(agent):
    """The truth: the worst of as many fresh tasks, and the mean."""
    fresh = sfe.TaskPool(FAMILY, DEPLOYED, seed=3_000_000 + SEED)
    p = sf.ExactScorer(fresh, cache_tasks=0).outcomes(agent).failure
    return f"of {len(p):,} fresh tasks the worst fails with probability {p.max():.2g}, the mean is {p.mean():.2g}"


if __name__ == "__main__":
    tasks = sfe.TaskPool(FAMILY, n_tasks=20_000, seed=SEED, rare_fraction=0.0)
    agent = PPO("MlpPolicy", environment(tasks), **SETTINGS).learn(2 * STEPS)
    print(f"PPO: {worst_of_fresh(agent)}")
    for number in (1, 2):
        deployment = sfe.TaskStream(FAMILY, DEPLOYED, seed=1_000_000 * number + SEED)
        report = sf.ActiveEvaluation("exact", deployment, budget=1000, seed=number).run(agent)
        print(report.summary())
        # everything that fails ten times as often as the mean; the pool then holds such tasks more often than the deployment does
        found = report.failing(10.0 * report.mean_failure.value)
        print(
            f"{len(found)} tasks join the training pool, {int(report.rare[np.isin(report.tasks, found)].sum())} of them of the rare mode"
        )
        if len(found):
            tasks = tasks.joined(deployment.subset(found))
        agent = sf.ForecastPPO.from_ppo(agent, environment(tasks)).learn(STEPS)
        print(f"ForecastPPO, {number}: {worst_of_fresh(agent)}")
