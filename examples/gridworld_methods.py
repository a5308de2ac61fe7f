"""The methods that train_gridworld.py compares, with the settings that were chosen for each on other seeds (100 to 102)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecEnv

import sb3_forecast as sf

#: PPO for 128 environments; the same for the base agent and every method
PPO_SETTINGS: dict[str, Any] = {
    "n_steps": 64,
    "batch_size": 512,
    "n_epochs": 4,
    "learning_rate": 1e-3,
    "ent_coef": 0.003,
}


def _forecast(**arguments: Any) -> Callable[[Path, VecEnv, int], PPO]:
    def make(base: Path, env: VecEnv, seed: int) -> PPO:
        return sf.ForecastPPO.from_ppo(base, env, device="cpu", seed=seed, **arguments)

    return make


def _ppo(base: Path, env: VecEnv, seed: int) -> PPO:
    return sf.ForecastPPO.from_ppo(base, env, device="cpu", seed=seed, forecast_coef=0.0)


def _penalty(base: Path, env: VecEnv, seed: int) -> PPO:
    return _ppo(base, sf.CostPenalty(env, penalty=3.0), seed)


def _lagrangian(base: Path, env: VecEnv, seed: int) -> PPO:
    model = sf.PPOLagrangian("MlpPolicy", env, multiplier=1.0, multiplier_lr=0.05, seed=seed, device="cpu", **PPO_SETTINGS)
    # the cost critic starts fresh, everything else from the checkpoint
    model.set_parameters(PPO.load(base, device="cpu").get_parameters(), exact_match=False, device="cpu")
    return model


METHODS: dict[str, Callable[[Path, VecEnv, int], PPO]] = {
    "ppo": _ppo,
    "cost_penalty": _penalty,
    "ppo_lagrangian": _lagrangian,
    "mean_failure_bare": _forecast(forecast_loss=sf.MeanFailureLoss(worst=False), forecast_coef=1.0, drawn_share=0.0),
    "mean_failure_equipped": _forecast(forecast_loss=sf.MeanFailureLoss(worst=True, p_floor=1e-6), forecast_coef=1.0),
    "forecast": _forecast(eval_size=1000, forecast_coef=1.0, p_floor=1e-8),
}

LABELS = {
    "base": "checkpoint",
    "ppo": "PPO goes on",
    "cost_penalty": "PPO, reward - cost",
    "ppo_lagrangian": "PPO-Lagrangian",
    "mean_failure_bare": "mean failure, bare",
    "mean_failure_equipped": "mean failure, equipped",
    "forecast": "ForecastPPO",
}


def build(method: str, base: Path, env: VecEnv, seed: int) -> PPO:
    """A method's model, starting from the checkpoint.

    :param method: key of :data:`METHODS`
    :param base: path of the checkpoint
    :param env: training environment
    :param seed: seed of the fine-tuning
    :return: the model, ready to ``learn``
    """
    return METHODS[method](base, env, seed)
