"""The methods that train_gridworld.py compares, with the settings that were chosen for each on seeds 100 and 101.

What was tried for each is listed in docs/gridworld.md. A method is a function of checkpoint, training tasks, number of environments
and seed; it returns a model that is ready to ``learn``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecEnv, VecMonitor

import sb3_forecast as sf
import sb3_forecast_envs as sfe
from studies.tools import take_over

#: PPO for 128 environments; the same for the base agent and every method
PPO_SETTINGS: dict[str, Any] = {
    "n_steps": 64,
    "batch_size": 512,
    "n_epochs": 4,
    "learning_rate": 1e-3,
    "ent_coef": 0.003,
}


Make = Callable[[Path, sfe.TaskPool, int, int], PPO]

#: without validation: all tasks of the pool are trained on, and the last policy is left behind
BARE: dict[str, Any] = {"validation_share": 0.0}
#: tasks of the bare supervised penalty: what one would simulate in every update without cached exact scores
BARE_TASKS = 4000
#: tasks that are kept back for a validation that plays them, at most
LOOKED_AT = 1600


def _env(pool: sfe.TaskPool, n_envs: int, seed: int) -> VecEnv:
    return VecMonitor(sfe.GridVecEnv(pool, n_envs, seed=10_000 * seed + 5_000))


def _tuned(**arguments: Any) -> Make:
    def make(base: Path, pool: sfe.TaskPool, n_envs: int, seed: int) -> PPO:
        return sf.ForecastPPO.from_ppo(base, _env(pool, n_envs, seed), device="cpu", seed=seed + 1, **arguments)

    return make


def _bare(base: Path, pool: sfe.TaskPool, n_envs: int, seed: int) -> PPO:
    tasks = pool.subset(range(min(BARE_TASKS, len(pool))))
    penalty = sf.MeanFailureLoss(n_tasks=BARE_TASKS, worst=False, weight=1e6)
    return _tuned(forecast_loss=penalty, scorer="survival", drawn_share=0.0, **BARE)(base, tasks, n_envs, seed)


def _penalty(base: Path, pool: sfe.TaskPool, n_envs: int, seed: int) -> PPO:
    env = sf.CostPenalty(_env(pool, n_envs, seed), penalty=3.0)
    return sf.ForecastPPO.from_ppo(base, env, device="cpu", seed=seed + 1, forecast_coef=0.0)


def _lagrangian(multiplier: float) -> Make:
    def make(base: Path, pool: sfe.TaskPool, n_envs: int, seed: int) -> PPO:
        env = _env(pool, n_envs, seed)
        model = sf.PPOLagrangian(
            "MlpPolicy", env, multiplier=multiplier, multiplier_lr=10.0, seed=seed + 1, device="cpu", **PPO_SETTINGS
        )
        # the cost critic starts fresh, everything else from the checkpoint
        take_over(model, base, whole=False)
        return model

    return make


def _forecast(base: Path, pool: sfe.TaskPool, n_envs: int, seed: int) -> PPO:
    # the defaults
    return _tuned()(base, pool, n_envs, seed)


def _cvar(base: Path, pool: sfe.TaskPool, n_envs: int, seed: int) -> PPO:
    env = _env(pool, n_envs, seed)
    model = sf.CVaRPPO(
        "MlpPolicy", env, alpha=0.02, weight=0.1, failure_penalty=1.0, seed=seed + 1, device="cpu", **PPO_SETTINGS
    )
    take_over(model, base, whole=True)
    return model


def _forecast_episodes(max_share: float) -> Make:
    """Ours, told nothing but the cost of each step; its scoring and probing are part of the budget of steps, see ``Budget``."""

    def make(base: Path, pool: sfe.TaskPool, n_envs: int, seed: int) -> PPO:
        # few environments side by side: each steps on until the last episode of a scoring has ended, and all steps count
        scorer = sf.EpisodeScorer(pool, probes=200, seed=seed, n_envs=32, max_share=max_share)
        return _tuned(scorer=scorer, p_floor=1e-6, full_every=20)(base, pool, n_envs, seed)

    return make


def _forecast_rollouts(probe_share: float) -> Make:
    """The same by the training's own episodes. Of the validation 1,600 tasks are enough, since each look plays them."""

    def make(base: Path, pool: sfe.TaskPool, n_envs: int, seed: int) -> PPO:
        scorer = sf.RolloutScorer(pool, seed=seed, probe_share=probe_share)
        share = min(0.2, LOOKED_AT / len(pool))
        return _tuned(scorer=scorer, p_floor=1e-6, validation_share=share)(base, pool, n_envs, seed)

    return make


METHODS: dict[str, Make] = {
    "ppo": _tuned(forecast_coef=0.0),
    "cost_penalty": _penalty,
    "ppo_lagrangian": _lagrangian(1.0),
    "mean_failure_bare": _bare,
    "mean_failure_equipped": _tuned(forecast_loss=sf.MeanFailureLoss(worst=True, p_floor=1e-10, weight=1e6), **BARE),
    "forecast": _forecast,
    "forecast_guarded": _tuned(forecast_kind="guarded", p_floor=1e-10, **BARE),
    "line_only": _tuned(**BARE),
    "drawn_only": _tuned(forecast_coef=1e-12, **BARE),
    "ppo_lagrangian_10": _lagrangian(10.0),
    "cvar_ppo": _cvar,
    "forecast_episodes": _forecast_episodes(1.0),
    "forecast_episodes_half": _forecast_episodes(0.5),
    "forecast_rollouts": _forecast_rollouts(0.0),
    "forecast_probes": _forecast_rollouts(0.2),
    "replay": _penalty,
}

#: methods that play tasks again which failed in training
REPLAYED = ("replay",)

#: methods of the comparison in which nobody is told more than the cost of a step
MODEL_FREE = (
    "ppo_lagrangian_10", "cvar_ppo", "forecast_episodes", "forecast_episodes_half", "forecast_rollouts", "forecast_probes", "replay",
)  # fmt: skip
#: parts of ForecastPPO by themselves, and the loss that was its default in 0.2
ABLATIONS = ("forecast_guarded", "line_only", "drawn_only")
#: what is compared by default: everybody knows the tasks' dynamics, or nobody looks at them
DEFAULT_METHODS = tuple(method for method in METHODS if method not in MODEL_FREE + ABLATIONS)

LABELS = {
    "base": "checkpoint",
    "ppo": "PPO goes on",
    "cost_penalty": "PPO, reward - cost",
    "ppo_lagrangian": "PPO-Lagrangian",
    "mean_failure_bare": "mean failure, bare",
    "mean_failure_equipped": "mean failure, equipped",
    "forecast": "ForecastPPO",
    "forecast_guarded": "ForecastPPO, guarded (0.2)",
    "line_only": "ForecastPPO, no validation",
    "drawn_only": "drawn tasks only",
    "ppo_lagrangian_10": "PPO-Lagrangian, from 10",
    "cvar_ppo": "CVaR-PPO",
    "forecast_episodes": "ForecastPPO, model-free",
    "forecast_episodes_half": "ForecastPPO, half of the steps for scoring",
    "forecast_rollouts": "ForecastPPO, RolloutScorer",
    "forecast_probes": "ForecastPPO, RolloutScorer with probes",
    "replay": "PPO, reward - cost, and FailureReplay",
}
