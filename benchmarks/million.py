"""Exact scores of a million tasks on one machine: does it finish, does memory stay flat, does it survive a kill?

    python benchmarks/million.py

An agent is trained, then a child process scores the pool; it is killed (SIGKILL) on the way and started again. Memory is the child's resident
set, sampled at every tenth of the pool. At the end, forecasts from 400 evaluation sets are compared with the worst of the million.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# it holds the package `benchmarks`
sys.path[0] = str(ROOT)

import tempfile
import time
from dataclasses import dataclass

import numpy as np
import psutil
import tyro
from rich.console import Console
from rich.table import Table
from stable_baselines3 import PPO

import sb3_forecast as sf
import sb3_forecast_envs as sfe

BLOCK = 8192


@dataclass(frozen=True)
class Arguments:
    """Command line."""

    tasks: int = 1_000_000
    """Pool size."""
    family: str = "ThinIce-8x8"
    """Task family."""
    warm_up: int = 1_000_000
    """Steps that the agent is trained."""
    kill_at: float = 0.2
    """Share of the pool after which the first run is killed."""


def score(agent: str, family: str, tasks: str, folder: str) -> None:
    """What the child process does."""
    sf.score_large_pool(PPO.load(agent, device="cpu"), sfe.TaskStream(family, int(tasks), seed=1), folder, BLOCK)


def watch(command: list[str], folder: Path, tasks: int, kill_at: float | None) -> tuple[float, dict[int, float]]:
    """Run a child; returns its seconds and its resident MB at each tenth of the pool."""
    began = time.perf_counter()
    child = subprocess.Popen(command)
    process, resident = psutil.Process(child.pid), {}
    while child.poll() is None:
        done = BLOCK * len(list(folder.glob("tasks-*.npz")))
        try:
            tenth, now = 10 * done // tasks, process.memory_info().rss / 1e6
            resident[tenth] = max(now, resident.get(tenth, 0.0))
        except psutil.NoSuchProcess:
            break
        if kill_at is not None and done >= kill_at * tasks:
            child.kill()
        time.sleep(0.05)
    child.wait()
    return time.perf_counter() - began, resident


def main(args: Arguments) -> None:
    """Train, score with a kill in between, print."""
    settings = {"n_steps": 64, "batch_size": 1024, "n_epochs": 4, "learning_rate": 1e-3, "ent_coef": 0.01}
    env = sfe.GridVecEnv(sfe.TaskPool(args.family, 20_000, seed=0), 128)
    model = PPO("MlpPolicy", env, seed=0, device="cpu", **settings).learn(args.warm_up)
    with tempfile.TemporaryDirectory() as name:
        folder, agent = Path(name) / "scores", Path(name) / "agent.zip"
        folder.mkdir()
        model.save(agent)
        command = [sys.executable, __file__, "score", str(agent), args.family, str(args.tasks), str(folder)]
        first, _ = watch(command, folder, args.tasks, args.kill_at)
        kept = BLOCK * len(list(folder.glob("tasks-*.npz")))
        print(f"killed after {first:.0f} s with {kept:,} tasks done")
        second, resident = watch(command, folder, args.tasks, None)
        print(
            f"started again: the other {args.tasks - kept:,} tasks in {second:.0f} s, {(args.tasks - kept) / second:,.0f} tasks/s"
        )
        scores = sf.score_large_pool(model, sfe.TaskStream(args.family, args.tasks, seed=1), folder, BLOCK)
    table = Table(title="Resident memory of the scoring process")
    table.add_column("share of the pool done", justify="right")
    table.add_column("MB", justify="right")
    for tenth, megabytes in sorted(resident.items()):
        table.add_row(f"{tenth / 10:.0%}", f"{megabytes:.0f}")
    Console(width=60).print(table)
    rng = np.random.default_rng(0)
    forecasts = []
    for _ in range(400):
        tail = sf.GumbelTail.fit(scores.psi[rng.choice(args.tasks, 200, replace=False)], k=10)
        forecasts.append(tail.forecast(args.tasks))
    worst = scores.psi.max()
    below = np.mean(np.array(forecasts) < worst)
    print(
        f"success {scores.success.mean():.4f}, mean failure {scores.failure.mean():.2e}, {int(scores.rare.sum())} rare tasks"
    )
    print(f"worst score {worst:.2f}; forecasts from 200 tasks: median {np.median(forecasts):.2f}, too low in {below:.0%}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["score"]:
        score(*sys.argv[2:])
    else:
        main(tyro.cli(Arguments))
