"""How often does partial re-scoring overlook one of the pool's worst tasks?

    python benchmarks/missed_top.py

ForecastPPO fine-tunes an agent with its defaults: the whole pool is scored every 20 updates, and in between only the tasks with the
largest cached scores. A second scorer looks at the whole pool after every update, and tells which of the ten truly worst tasks were not
looked at.
"""

from __future__ import annotations

import sys
from pathlib import Path

# the folder above holds the package `benchmarks`
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from dataclasses import dataclass

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecMonitor

import sb3_forecast as sf
import sb3_forecast_envs as sfe

SETTINGS = {"n_steps": 64, "batch_size": 512, "n_epochs": 4, "learning_rate": 1e-3, "ent_coef": 0.003}


@dataclass(frozen=True)
class Arguments:
    """Command line."""

    pool: int = 20_000
    """Training tasks."""
    warm_up: int = 1_000_000
    """Steps before the fine-tuning."""
    updates: int = 60
    """Updates of 8,192 steps that are watched."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """Seeds."""


class Watch(BaseCallback):
    """At the start of each rollout: the candidates that the coming refresh would score, against the truth."""

    def __init__(self, scorer: sf.ExactScorer) -> None:
        super().__init__()
        self.scorer = scorer
        self.missed: list[tuple[int, int]] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        objective = self.model.objective
        if objective is None or objective.scores is None or objective.n_refreshes % objective.full_every == 0:
            return
        worst = np.argsort(-self.scorer.score(self.model).numpy())[:10]
        age = objective.n_refreshes % objective.full_every
        self.missed.append((age, int(10 - np.isin(worst, objective.candidates).sum())))


def main(args: Arguments) -> None:
    """Fine-tune, watch, print."""
    table = Table(title=f"Worst ten of {args.pool:,} tasks that partial scoring did not look at")
    for column in (
        "seed",
        "candidates",
        "updates watched",
        "missed per update, mean",
        "updates without a miss",
        "largest",
        "by age 1-5, 6-10, 11-19",
    ):
        table.add_column(column, justify="right")
    for seed in args.seeds:
        pool = sfe.TaskPool("ThinIce-8x8", args.pool, seed=seed)
        env = VecMonitor(sfe.GridVecEnv(pool, 128, seed=10_000 * seed))
        base = PPO("MlpPolicy", env, seed=seed, device="cpu", **SETTINGS).learn(args.warm_up)
        model = sf.ForecastPPO.from_ppo(base, env, eval_size=args.pool // 20, forecast_coef=1.0, p_floor=1e-10)
        watch = Watch(sf.ExactScorer(pool))
        model.learn(args.updates * 8192, callback=watch)
        age, missed = np.array(watch.missed).T
        means = ", ".join(f"{missed[(age >= low) & (age <= high)].mean():.2f}" for low, high in ((1, 5), (6, 10), (11, 19)))
        none, candidates = f"{(missed == 0).mean():.0%}", model.objective.n_candidates
        row = (seed, candidates, len(missed), f"{missed.mean():.2f}", none, missed.max(), means)
        table.add_row(*map(str, row))
    Console(width=130).print(table)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
