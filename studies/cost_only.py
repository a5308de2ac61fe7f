"""What the studies share whose methods are told nothing but a cost: how each goes on from a checkpoint, and checks of their options."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stable_baselines3 import PPO
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import VecEnv

import sb3_forecast as sf
from studies.tools import take_over

#: options that do not change what one run finds
_OF_THE_RUNNER = ("seeds", "first_seed", "methods", "output", "jobs", "progress_bar")


def checkpoint(env: VecEnv, seed: int, settings: dict[str, Any], steps: int, log: Path, progress_bar: bool) -> PPO:
    """Train the agent that every method starts from; its learning rate falls from 1e-3 to 0.

    :param env: environments
    :param seed: seed of the run
    :param settings: of PPO
    :param steps: environment steps
    :param log: folder of the TensorBoard log
    :param progress_bar: show SB3's progress bar
    """
    falling = {**settings, "learning_rate": lambda left: 1e-3 * left}
    model = PPO("MlpPolicy", env, seed=seed, device="cpu", **falling)
    model.set_logger(configure(str(log), ["tensorboard"]))
    return model.learn(steps, progress_bar=progress_bar)


def tuned(base: Path, env: VecEnv, seed: int, settings: dict[str, Any], **arguments: Any) -> PPO:
    """ForecastPPO from a checkpoint; with ``forecast_coef=0`` it is PPO.

    :param base: the checkpoint
    :param env: environments
    :param seed: seed of the run
    :param settings: of PPO, for all methods of the study alike
    """
    rate = settings["learning_rate"]
    return sf.ForecastPPO.from_ppo(base, env, device="cpu", seed=seed + 1, learning_rate=rate, **arguments)


def lagrangian(base: Path, env: VecEnv, seed: int, settings: dict[str, Any], rate: float = 30.0) -> PPO:
    """PPO-Lagrangian from a checkpoint, as :func:`tuned`.

    :param rate: learning rate of the multiplier
    """
    model = sf.PPOLagrangian("MlpPolicy", env, multiplier=10.0, multiplier_lr=rate, seed=seed + 1, device="cpu", **settings)
    # the cost critic starts fresh, everything else from the checkpoint
    take_over(model, base, whole=False)
    return model


def cvar(base: Path, env: VecEnv, seed: int, settings: dict[str, Any]) -> PPO:
    """CVaR-PPO from a checkpoint, as :func:`tuned`."""
    model = sf.CVaRPPO("MlpPolicy", env, alpha=0.05, weight=1.0, seed=seed + 1, device="cpu", **settings)
    take_over(model, base, whole=True)
    return model


def check_methods(chosen: Sequence[str], known: Collection[str]) -> None:
    """Refuse methods that a study does not have.

    :param chosen: what the user asks for
    :param known: what there is
    :raises ValueError: if one is unknown
    """
    unknown = [method for method in chosen if method not in known]
    if unknown:
        raise ValueError(f"methods must be some of {list(known)}, got {unknown}; use one of those")


def kept_settings(settings: Any) -> dict[str, Any]:
    """The options that a result depends on, as a record in JSON gives them back: a list where there is a tuple.

    :param settings: the options of a study, a dataclass
    """
    kept = {name: value for name, value in asdict(settings).items() if name not in _OF_THE_RUNNER}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in kept.items()}
