"""Random-action steps per CPU-second with the observation produced, against MiniGrid and navix.

    python benchmarks/stepping.py

Competitors: the same tasks as a MiniGrid environment (``GridWorldEnv``, which is a ``MiniGridEnv``), MiniGrid's own LavaGapS7, and, if
``make .venv-navix/ready`` was run, navix 0.7.4's LavaGapS7 in a jitted ``lax.scan`` over 1024 environments on the CPU. Rates are medians of
rounds; CPU time is that of all threads of the process.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import gymnasium as gym
import minigrid  # noqa: F401  # registers its environments
import numpy as np
import tyro
from minigrid.wrappers import ImgObsWrapper
from rich.console import Console
from rich.table import Table

import sb3_forecast_envs as sfe
from benchmarks.memory import PeakMemory

NAVIX = ROOT / ".venv-navix" / "bin" / "python"


@dataclass(frozen=True)
class Arguments:
    """Command line."""

    n_envs: int = 1024
    """Environments stepped together."""
    steps: int = 200
    """Steps of all of them in a round."""
    single_steps: int = 5000
    """Steps of a single MiniGrid environment in a round."""
    rounds: int = 7
    """Rounds."""


def rate(play: Callable[[], int], rounds: int) -> tuple[float, float]:
    """Median steps per CPU-second and per second of wall time."""
    play()
    cpu, wall = [], []
    for _ in range(rounds):
        began, began_cpu = time.perf_counter(), time.process_time()
        steps = play()
        cpu.append(steps / (time.process_time() - began_cpu))
        wall.append(steps / (time.perf_counter() - began))
    return statistics.median(cpu), statistics.median(wall)


def single(env: gym.Env, steps: int) -> Callable[[], int]:
    """Play one Gymnasium environment at random."""
    env.reset(seed=0)
    actions = np.random.default_rng(0).integers(0, env.action_space.n, steps)

    def play() -> int:
        for action in actions:
            _, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset()
        return steps

    return play


def batch(vec: sfe.GridVecEnv, steps: int) -> Callable[[], int]:
    """Play a batched environment at random, through the whole VecEnv interface."""
    vec.reset()
    actions = np.random.default_rng(0).integers(0, vec.action_space.n, (steps, vec.num_envs))

    def play() -> int:
        for row in actions:
            vec.step(row)
        return steps * vec.num_envs

    return play


def main(args: Arguments) -> None:
    """Measure everything in one run and print the table."""
    table = Table(title=f"Random-action steps, {args.n_envs} environments")
    for column in ("environment", "observation", "per CPU-second", "per second", "x MiniGrid, same tasks", "peak MB"):
        table.add_column(column, justify="left" if column in ("environment", "observation") else "right")
    settings = [
        ("5x5 one-hot", sfe.ThinIce(8)),
        ("5x5 one-hot, occluded", sfe.ThinIce(8, see_through_walls=False)),
        ("7x7 image", sfe.ThinIce(7, view_size=7, observation="image")),
        ("7x7 image, occluded", sfe.ThinIce(7, view_size=7, observation="image", see_through_walls=False)),
        ("Bridge, 5x5 one-hot", sfe.Bridge(8)),
        ("Decoy, 5x5 one-hot", sfe.Decoy(8)),
        ("Vault, 5x5 one-hot, occluded", sfe.Vault(8)),
        ("Wind, 5x5 one-hot", sfe.Wind(8)),
    ]
    for name, family in settings:
        pool = sfe.TaskPool(family, 4000, seed=0)
        slow = rate(single(sfe.GridWorldEnv(family, pool), args.single_steps), args.rounds)
        with PeakMemory() as memory:
            fast = rate(batch(sfe.GridVecEnv(pool, args.n_envs), args.steps), args.rounds)
        table.add_row("MiniGrid (GridWorldEnv)", name, f"{slow[0]:,.0f}", f"{slow[1]:,.0f}", "1", "")
        table.add_row(
            "GridVecEnv", name, f"{fast[0]:,.0f}", f"{fast[1]:,.0f}", f"{fast[0] / slow[0]:.0f}", f"{memory.megabytes:.0f}"
        )
    lava_gap = rate(single(ImgObsWrapper(gym.make("MiniGrid-LavaGapS7-v0")), args.single_steps), args.rounds)
    table.add_row("MiniGrid LavaGapS7", "7x7 image, occluded", f"{lava_gap[0]:,.0f}", f"{lava_gap[1]:,.0f}", "", "")
    if NAVIX.exists():
        command = [str(NAVIX), str(ROOT / "benchmarks" / "navix_scan.py"), str(args.n_envs), str(args.steps), str(args.rounds)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        for kind, values in found.items():
            table.add_row("navix LavaGapS7, jitted scan", kind, f"{values['cpu']:,.0f}", f"{values['wall']:,.0f}", "", "")
    else:
        table.add_row("navix", "not installed: make .venv-navix/ready", "", "", "", "")
    Console(width=130).print(table)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
