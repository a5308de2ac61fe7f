"""Splitting against exact scores and against counting: bias, intervals, and work for the same variance.

    python benchmarks/splitting.py
    python benchmarks/splitting.py --where cart_pole

On the gridworld the truth is exact: the stored agent of the tests, with its logits multiplied, so that its failures become rarer. On cart-poles
nobody knows the truth; there, splitting is compared with ``--episodes`` counted episodes of each task, and with survival scores.
"work" is the variance of counting times its steps, over that of splitting times its steps, the median over tasks: above 1, splitting is cheaper.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# it holds the package `benchmarks`
sys.path[0] = str(ROOT)

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch as th
import tyro
from rich.console import Console
from rich.table import Table
from stable_baselines3 import PPO

import sb3_forecast as sf
import sb3_forecast_envs as sfe
from sb3_forecast.statistics.scores import failure_probability

DECADES = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-8)


@dataclass(frozen=True)
class Arguments:
    """Command line."""

    where: Literal["thin_ice", "cart_pole"] = "thin_ice"
    """On exact scores, or on counted episodes."""
    tasks: int = 200
    """Number of tasks; the cart-poles use a tenth."""
    particles: int = 50
    """Paths of one splitting."""
    repetitions: int = 4
    """Splittings of each task."""
    episodes: int = 100_000
    """Counted episodes of each cart-pole."""
    seed: int = 1
    """Seed of tasks and splitting."""


def thin_ice(args: Arguments, console: Console) -> None:
    """Bias, intervals and work per decade of the exact probability."""
    pool = sfe.TaskPool("ThinIce-8x8", args.tasks, args.seed)
    rows: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
    for factor in (1.0, 1.5, 2.0):
        model = stored_agent(pool, factor)
        exact = failure_probability(sf.ExactScorer(pool).score(model).numpy())
        counted = sf.FrequencyScorer(pool, 5).measure(model)
        assert counted.steps is not None
        found = sf.SplittingScorer(pool, args.particles, args.repetitions, seed=args.seed).estimate(model)
        variance = found.estimates.var(axis=1, ddof=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            work = exact * (1.0 - exact) * counted.steps / 5 / (variance * found.task_steps / args.repetitions)
        hold = (found.intervals[:, 0] <= exact) & (exact <= found.intervals[:, 1])
        # where no path failed there is no interval, and it does not hold
        rows.append((exact, found.estimates.mean(axis=1) / exact, hold, work))
        console.print(f"logits x {factor}: {found.steps:,} steps, {found.pilot_steps:,} of them pilot")
    exact, ratio, hold, work = (np.concatenate(column) for column in zip(*rows, strict=True))
    table = Table(title=f"{args.particles} paths, {args.repetitions} repetitions, {args.tasks} tasks, three agents")
    for name in ("p", "tasks", "mean(estimate / p)", "90% intervals hold", "no path failed", "work"):
        table.add_column(name, justify="right")
    for high, low in pairwise(DECADES):
        here = (exact > low) & (exact <= high)
        if here.sum() >= 5:
            error = ratio[here].std() / np.sqrt(here.sum())
            table.add_row(
                f"{low:g} to {high:g}", f"{here.sum()}", f"{ratio[here].mean():.2f} +- {error:.2f}", f"{hold[here].mean():.0%}",
                f"{(ratio[here] == 0).mean():.0%}", f"{np.median(work[here]):.3g}",
            )  # fmt: skip
    console.print(table)


def stored_agent(pool: sfe.TaskPool, factor: float) -> PPO:
    """The agent of the tests, with its logits multiplied."""
    model = PPO("MlpPolicy", sfe.GridVecEnv(pool, 1), device="cpu")
    with np.load(ROOT / "tests" / "vectors" / "agent.npz", allow_pickle=False) as weights:
        model.policy.load_state_dict({name: th.from_numpy(weights[name]) for name in weights.files})
    with th.no_grad():
        model.policy.action_net.weight.mul_(factor)
        model.policy.action_net.bias.mul_(factor)
    return model


def cart_pole(args: Arguments, console: Console) -> None:
    """Splitting beside counting and survival scores, task by task."""
    train = sfe.CartPoleTasks(2000, args.seed, 0.05)
    model = PPO(
        "MlpPolicy", train.make_vec_env(64), n_steps=64, batch_size=512, learning_rate=1e-3, seed=args.seed, device="cpu"
    )
    model.learn(500_000)
    pool = sfe.CartPoleTasks(max(args.tasks // 10, 1), 1_000_000 + args.seed, 0.2)
    survival = failure_probability(sf.SurvivalScorer(pool, episodes=1000, seed=args.seed).score(model).numpy())
    counted = sf.FrequencyScorer(pool, args.episodes, env=pool.make_vec_env(4096), seed=args.seed).failures(model)
    found = sf.SplittingScorer(pool, 2 * args.particles, args.repetitions, seed=args.seed).estimate(model)
    table = Table(title=f"{found.steps:,} steps of splitting; {args.episodes:,} counted episodes of each task")
    for name in ("failures counted", "share", "splitting", "90% interval", "survival, 1,000 episodes"):
        table.add_column(name, justify="right")
    for i in np.argsort(-counted, kind="stable"):
        low, high = found.intervals[i]
        table.add_row(
            f"{counted[i]}", f"{counted[i] / args.episodes:.1e}", f"{found.probabilities[i]:.1e}", f"{low:.1e} to {high:.1e}",
            f"{survival[i]:.1e}",
        )  # fmt: skip
    console.print(table)


if __name__ == "__main__":
    options = tyro.cli(Arguments)
    shown = Console(width=140)
    (thin_ice if options.where == "thin_ice" else cart_pole)(options, shown)
