"""What the study of active evaluation is run on: a deployment whose every task is scored, so that the truth is known."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecMonitor

import sb3_forecast as sf
import sb3_forecast_envs as sfe
from studies.gridworld_methods import PPO_SETTINGS
from studies.runner import Run
from studies.tools import save_model

#: families that are no gridworlds
CART_POLE, PASSWORD_GAME = "CartPole", "PasswordGame"


@dataclass(frozen=True)
class Truth:
    """The scores of a whole deployment.

    :param scores: shape (N,), float64
    :param seconds: that scoring took
    """

    scores: NDArray[np.float64]
    seconds: float


def deployment_of(family: str, n_tasks: int, rare_fraction: float, seed: int) -> Any:
    """The tasks, which share no seed with training.

    :param family: a gridworld's id, or one of the others
    :param n_tasks: number of tasks
    :param rare_fraction: mass of the rare mode
    :param seed: of the run
    """
    if family == CART_POLE:
        return sfe.CartPoleTasks(n_tasks, 1_000_000 + seed, rare_fraction)
    if family == PASSWORD_GAME:
        from sb3_forecast.lm import PasswordGame

        return PasswordGame(n_tasks, 1_000_000 + seed, rare_fraction)
    return sfe.TaskPool(family, n_tasks, 1_000_000 + seed, rare_fraction)


def describe(deployment: Any) -> sf.Descriptors:
    """Descriptors of all tasks.

    :param deployment: the tasks
    """
    if isinstance(deployment, (sfe.TaskPool, sfe.CartPoleTasks)):
        return deployment.descriptors()
    from sb3_forecast.lm import describe_prompts

    return describe_prompts(deployment.prompts)


def train_and_score(job: Run, deployment: Any) -> Truth:
    """Train the agent of a seed, and score the whole deployment with it.

    :param job: with the settings of the study
    :param deployment: the tasks
    """
    args = job.settings
    show = args.progress_bar and args.jobs == 1
    if args.family == PASSWORD_GAME:
        from sb3_forecast.lm import LMFailureScorer, load_player

        model, tokenizer, _ = load_player("tiny", job.seed, print if show else lambda text: None, 0)
        return _timed(LMFailureScorer(model, tokenizer, deployment.prompts, deployment.targets), model)
    if args.family == CART_POLE:
        from studies.cart_pole import PPO_SETTINGS as POLE_SETTINGS

        poles = sfe.CartPoleTasks(args.pool_size, job.seed, args.rare_fraction)
        env = VecMonitor(poles.make_vec_env(args.n_envs, 10_000 * job.seed))
        falling = {**POLE_SETTINGS, "learning_rate": lambda left: 1e-3 * left}
        agent = PPO("MlpPolicy", env, seed=job.seed, device="cpu", **falling)
        agent.learn(args.total_timesteps, progress_bar=show)
        save_model(agent, job.folder / "base.zip")
        return _timed(sf.SurvivalScorer(deployment, episodes=16, seed=job.seed), agent)
    pool = sfe.TaskPool(args.family, args.pool_size, job.seed, args.rare_fraction)
    env = VecMonitor(sfe.GridVecEnv(pool, args.n_envs, seed=10_000 * job.seed))
    agent = PPO("MlpPolicy", env, seed=job.seed, device="cpu", **PPO_SETTINGS)
    agent.learn(args.total_timesteps, progress_bar=show)
    save_model(agent, job.folder / "base.zip")
    return _timed(sf.ExactScorer(deployment, cache_tasks=0), agent)


def _timed(scorer: Any, model: Any) -> Truth:
    start = time.perf_counter()
    scores = scorer.score(model).numpy()
    return Truth(scores, time.perf_counter() - start)
