"""How often does partial re-scoring overlook one of the pool's worst tasks?

    python benchmarks/missed_top.py

ForecastPPO fine-tunes an agent; a second scorer looks at the whole pool after every update. On these true scores every rule of the kind
"score the whole pool every F updates, and in between only the C tasks with the largest cached scores" is replayed, and the worst ten tasks
that the rule did not look at are counted, in the updates between full scorings. The other rule, "in turn", scores an F-th of the pool after
every update, and the 600 tasks that the line loss looks at. Seeds are not those of the study.
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
    every: tuple[int, ...] = (2, 4, 5, 10, 20)
    """Full scorings: one in so many updates."""
    candidates: tuple[int, ...] = (450, 1000, 2000, 4000)
    """Tasks scored in between."""
    in_turn: tuple[int, ...] = (5, 10, 20, 40)
    """Parts of the pool that take turns."""
    seeds: tuple[int, ...] = (101, 102, 103)
    """Seeds."""


class Watch(BaseCallback):
    """Keeps the true scores of the pool after every update."""

    def __init__(self, scorer: sf.ExactScorer) -> None:
        super().__init__()
        self.scorer = scorer
        self.scores: list[np.ndarray] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        self.scores.append(self.scorer.score(self.model).numpy())


def replay(scores: list[np.ndarray], every: int, n_candidates: int, floor: float) -> np.ndarray:
    """Of the worst ten tasks with p above a floor, how many the rule overlooks, in every partial update."""
    missed = []
    lowest = -np.log(-np.log(floor))
    for update, truth in enumerate(scores):
        if update % every == 0:
            cached = truth.copy()
            continue
        candidates = np.argpartition(-cached, n_candidates)[:n_candidates]
        worst = np.argpartition(-truth, 10)[:10]
        missed.append(int((~np.isin(worst, candidates) & (truth[worst] > lowest)).sum()))
        cached[candidates] = truth[candidates]
    return np.array(missed)


def in_turn(scores: list[np.ndarray], every: int, reach: int, floor: float, seed: int) -> np.ndarray:
    """As :func:`replay`, for a pool that is scored in turn, with the tasks that :class:`sf.TailLineLoss` needs."""
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(scores[0]))
    missed = []
    lowest = -np.log(-np.log(floor))
    cached = scores[0].copy()
    for update, truth in enumerate(scores[1:], 1):
        part = order[update % every :: every]
        cached[part] = truth[part]
        ranked = np.argsort(-cached)
        drawn = np.exp(generator.uniform(np.log(300.0), np.log(reach + 1.0), 300)).astype(np.int64)
        looked_at = np.concatenate([part, ranked[:300], ranked[drawn[drawn < reach]]])
        worst = np.argpartition(-truth, 10)[:10]
        missed.append(int((~np.isin(worst, looked_at) & (truth[worst] > lowest)).sum()))
        cached[looked_at] = truth[looked_at]
    return np.array(missed)


def main(args: Arguments) -> None:
    """Fine-tune, replay, print."""
    histories = []
    for seed in args.seeds:
        pool = sfe.TaskPool("ThinIce-8x8", args.pool, seed=seed)
        env = VecMonitor(sfe.GridVecEnv(pool, 128, seed=10_000 * seed))
        base = PPO("MlpPolicy", env, seed=seed, device="cpu", **SETTINGS).learn(args.warm_up)
        model = sf.ForecastPPO.from_ppo(base, env)
        watch = Watch(sf.ExactScorer(pool))
        model.learn(args.updates * 8192, callback=watch)
        histories.append(watch.scores)
        print(
            f"seed {seed}: the loss touched {len(model.objective.touched)} tasks, reach {model.objective.n_candidates}",
            flush=True,
        )
    table = Table(title=f"Worst ten of {args.pool:,} tasks: overlooked per partial update, seeds {args.seeds}")
    for column in (
        "full every",
        "candidates",
        "overlooked",
        "updates with any",
        "overlooked with p > 1e-6",
        "updates with any",
        "with p > 1e-4",
    ):
        table.add_column(column, justify="right")
    for every in args.every:
        for n_candidates in args.candidates:
            row = []
            for floor in (1e-300, 1e-6, 1e-4):
                missed = np.concatenate([replay(scores, every, n_candidates, floor) for scores in histories])
                row += [f"{missed.mean():.2f}", f"{(missed > 0).mean():.0%}"]
            table.add_row(str(every), str(n_candidates), *row[:5])
    for every in args.in_turn:
        row = []
        for floor in (1e-300, 1e-6, 1e-4):
            missed = np.concatenate([in_turn(h, every, 2000, floor, s) for h, s in zip(histories, args.seeds, strict=True)])
            row += [f"{missed.mean():.2f}", f"{(missed > 0).mean():.0%}"]
        table.add_row(f"in turn, {every}", "600 needed", *row[:5])
    Console(width=130).print(table)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
