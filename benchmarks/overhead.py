"""What the forecast machinery costs on top of an equal PPO update: scores, partitions, loss and injected gradient.

    python benchmarks/overhead.py

The competitor is ForecastPPO(forecast_coef=0), which is PPO to the bit, in the same process on the same environments; the two
take turns, and the median of the ratios of neighbouring rounds is reported,
beside each method's peak resident memory above that of the built environment.
"""

from __future__ import annotations

import sys
from pathlib import Path

# the folder above holds the package `benchmarks`
sys.path[0] = str(Path(__file__).resolve().parent.parent)

import statistics
import time
from dataclasses import dataclass

import tyro
from rich.console import Console
from rich.table import Table
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecMonitor

import sb3_forecast as sf
import sb3_forecast_envs as sfe
from benchmarks.memory import PeakMemory

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from studies.gridworld_methods import PPO_SETTINGS  # the study's own PPO is what the overhead is relative to


@dataclass(frozen=True)
class Arguments:
    """Command line."""

    pools: tuple[int, ...] = (4000, 20_000)
    """Pool sizes."""
    warm_up: int = 300_000
    """Steps of the agent before anything is timed: a new agent's episodes are not typical."""
    rounds: int = 15
    """Timed rounds of twenty updates for each method: one full scoring of the pool per round."""


def main(args: Arguments) -> None:
    """Time both methods in turns and print the ratios."""
    table = Table(title="Seconds per update of 8192 steps (median), and overhead of the forecast")
    for column in ("pool", "PPO", "ForecastPPO", "overhead", "tasks touched", "peak memory above PPO's, MB"):
        table.add_column(column, justify="right")
    for size in args.pools:
        pool = sfe.TaskPool("ThinIce-8x8", size, seed=0)
        base = PPO("MlpPolicy", VecMonitor(sfe.GridVecEnv(pool, 128, seed=0)), seed=0, device="cpu", **PPO_SETTINGS).learn(
            args.warm_up
        )
        models, memory = {}, {}
        for coef in (0.0, 1.0):
            with PeakMemory() as peak:
                models[coef] = sf.ForecastPPO.from_ppo(
                    base,
                    VecMonitor(sfe.GridVecEnv(pool, 128, seed=1)),
                    device="cpu",
                    seed=1,
                    forecast_coef=coef,
                ).learn(10 * 8192)
            memory[coef] = peak.megabytes
        seconds: dict[float, list[float]] = {0.0: [], 1.0: []}
        for _ in range(args.rounds):
            for coef, model in models.items():
                start = time.perf_counter()
                model.learn(20 * 8192, reset_num_timesteps=False)
                seconds[coef].append((time.perf_counter() - start) / 20)
        plain, ours = statistics.median(seconds[0.0]), statistics.median(seconds[1.0])
        ratios = [b / a for a, b in zip(seconds[0.0], seconds[1.0], strict=True)]
        objective = models[1.0].objective
        assert objective is not None
        table.add_row(
            f"{size}",
            f"{plain:.3f}",
            f"{ours:.3f}",
            f"{statistics.median(ratios) - 1:.0%} ({min(ratios) - 1:.0%} to {max(ratios) - 1:.0%})",
            str(len(objective.touched)),
            f"{memory[1.0] - memory[0.0]:.0f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
