"""What the forecast costs an agent that has learnt nothing: success of PPO and ForecastPPO after the same steps, on tasks that neither has seen.

    python benchmarks/from_scratch.py

ForecastPPO scores exactly, so it knows the dynamics; PPO does not.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# it holds the package `benchmarks`
sys.path[0] = str(ROOT)

import warnings
from dataclasses import dataclass

import tyro
from rich.console import Console
from rich.table import Table
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecMonitor

import sb3_forecast as sf
import sb3_forecast_envs as sfe


@dataclass(frozen=True)
class Arguments:
    """Command line."""

    family: str = "ThinIce-8x8"
    """Task family."""
    envs: tuple[int, ...] = (128, 64)
    """Numbers of environments stepped together; fewer mean more updates."""
    seeds: tuple[int, ...] = (100, 101)
    """Seeds of the agents; the tasks are the same."""
    timesteps: int = 500_000
    """Steps of each agent."""


def main(args: Arguments, console: Console) -> None:
    """Train and measure."""
    tasks = sfe.TaskPool(args.family, 20_000, 100)
    fresh = sfe.TaskPool(args.family, 8_000, 101)
    table = Table(title=f"{args.family}, {args.timesteps:,} steps from scratch")
    for name in ("environments", "seed", "agent", "95% limit holds", "worst p", "success", "rare success"):
        table.add_column(name, justify="right")
    for n_envs in args.envs:
        env = VecMonitor(sfe.GridVecEnv(tasks, n_envs))
        for seed in args.seeds:
            for algorithm in (PPO, sf.ForecastPPO):
                model = algorithm(
                    "MlpPolicy", env, n_steps=64, batch_size=512, n_epochs=4, learning_rate=1e-3, seed=seed, device="cpu"
                )
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # an agent from scratch makes the training say a lot
                    model.learn(args.timesteps)
                found = sf.evaluate_forecast(model, fresh, 200, 200, deploy_size=3_800, exclude=tasks)
                table.add_row(
                    f"{n_envs}", f"{seed}", algorithm.__name__, f"{found.limit_holds:.0%}", f"{found.worst_failure:.1e}",
                    f"{found.success:.3f}", f"{found.rare_success:.3f}",
                )  # fmt: skip
    console.print(table)


if __name__ == "__main__":
    main(tyro.cli(Arguments), Console(width=120))
