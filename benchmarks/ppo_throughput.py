"""SB3's PPO, learning included, on the batched environment and on a DummyVecEnv of the same tasks in MiniGrid, with the same network.

    python benchmarks/ppo_throughput.py

Both learn with the same rollout length per update (8,192 steps), minibatches and epochs; the competitor is also timed with the eight
environments that people use on a small machine, and the better of its two rates counts.
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
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

import sb3_forecast_envs as sfe
from benchmarks.memory import PeakMemory

STEPS_PER_UPDATE = 8192
SETTINGS = {"batch_size": 2048, "n_epochs": 4, "learning_rate": 1e-3, "device": "cpu", "seed": 0}


@dataclass(frozen=True)
class Arguments:
    """Command line."""

    updates: int = 20
    """Updates of the batched environment in a round."""
    slow_updates: int = 2
    """Updates of the MiniGrid environments in a round."""
    rounds: int = 5
    """Rounds."""


def rates(env: VecEnv, updates: int, rounds: int) -> tuple[float, float]:
    """Median steps per second of ``learn``, and peak memory in MB."""
    with PeakMemory() as memory:
        model = PPO("MlpPolicy", env, n_steps=STEPS_PER_UPDATE // env.num_envs, **SETTINGS).learn(STEPS_PER_UPDATE)
        found = []
        for _ in range(rounds):
            began = time.perf_counter()
            model.learn(updates * STEPS_PER_UPDATE)
            found.append(updates * STEPS_PER_UPDATE / (time.perf_counter() - began))
    return statistics.median(found), memory.megabytes


def main(args: Arguments) -> None:
    """Measure and print."""
    pool = sfe.TaskPool("ThinIce-8x8", 4000, seed=0)
    table = Table(title="SB3 PPO, 64x64 network, learning included")
    for column in ("environments", "steps per second", "times faster", "peak MB"):
        table.add_column(column, justify="left" if column == "environments" else "right")
    slow = {}
    for n in (8, 128):
        env = DummyVecEnv([lambda: sfe.GridWorldEnv(pool.family, pool)] * n)
        slow[n], megabytes = rates(env, args.slow_updates, args.rounds)
        table.add_row(f"DummyVecEnv, {n} MiniGrid", f"{slow[n]:,.0f}", "", f"{megabytes:.0f}")
    for n in (128, 1024):
        fast, megabytes = rates(sfe.GridVecEnv(pool, n), args.updates, args.rounds)
        table.add_row(f"GridVecEnv, {n}", f"{fast:,.0f}", f"{fast / max(slow.values()):.1f}", f"{megabytes:.0f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
