"""Exact and survival scores of a pool against the plain ways of computing them, on the same core(s) in one run.

    python benchmarks/scoring.py

The agent is trained first, since an untrained one's episodes are not typical. Times are medians of rounds in which the methods take turns. The
plain recursion (``competitors.py``) gets its tables for nothing; ours is timed both with and without enumerating the states.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# it holds the package `benchmarks`
sys.path[0] = str(ROOT)

import cProfile
import pstats
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th
import tyro
from rich.console import Console
from rich.table import Table
from stable_baselines3 import PPO

import sb3_forecast as sf
import sb3_forecast_envs as sfe
from benchmarks.competitors import PlainTables, recursion, survival

PLAIN, KEPT, BLOCKS = "plain batched torch recursion", "exact, states enumerated before", "exact, enumerated in blocks"


@dataclass(frozen=True)
class Arguments:
    """Command line."""

    tasks: int = 10_000
    """Tasks that are scored exactly."""
    survival_tasks: int = 4_000
    """Tasks that are scored by one episode each."""
    warm_up: int = 1_000_000
    """Steps that the agent is trained."""
    rounds: int = 5
    """Rounds."""


def compare(methods: dict[str, Callable[[], Any]], rounds: int) -> dict[str, tuple[float, Any]]:
    """Median seconds and last result of methods that take turns."""
    results = {name: run() for name, run in methods.items()}
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(rounds):
        for name, run in methods.items():
            began = time.perf_counter()
            results[name] = run()
            seconds[name].append(time.perf_counter() - began)
    return {name: (statistics.median(seconds[name]), results[name]) for name in methods}


def exact_methods(pool: sfe.TaskPool, model: PPO, only: str | None = None) -> dict[str, Callable[[], Any]]:
    """The ways of scoring exactly; what is prepared beforehand is prepared only if it is needed."""
    methods: dict[str, Callable[[], Any]] = {}
    if only in (None, PLAIN):
        tables = PlainTables(pool)
        methods[PLAIN] = lambda: recursion(pool, model, tables)
    if only in (None, KEPT):
        kept = sf.ExactScorer(pool)
        methods[KEPT] = lambda: kept.outcomes(model).failure
    if only in (None, BLOCKS):
        methods[BLOCKS] = lambda: sf.ExactScorer(pool, cache_tasks=0).outcomes(model).failure
    return methods


def peak_memory(method: str, model_path: Path, tasks: int) -> float:
    """Peak memory of one scoring in a fresh process, whose kernels and network have been warmed up on a few tasks."""
    code = (
        f"import sys; sys.path[0] = {str(ROOT)!r}\n"
        "from stable_baselines3 import PPO\n"
        "import sb3_forecast_envs as sfe\n"
        "from benchmarks.memory import PeakMemory\n"
        "from benchmarks.scoring import exact_methods\n"
        f"model = PPO.load({str(model_path)!r}, device='cpu')\n"
        f"exact_methods(sfe.TaskPool('ThinIce-8x8', 64, seed=1), model, {method!r})[{method!r}]()\n"
        f"pool = sfe.TaskPool('ThinIce-8x8', {tasks}, seed=0)\n"
        "with PeakMemory() as memory:\n"
        f"    exact_methods(pool, model, {method!r})[{method!r}]()\n"
        "print(memory.megabytes)\n"
    )
    return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


def main(args: Arguments) -> None:
    """Train, compare, print."""
    pool = sfe.TaskPool("ThinIce-8x8", args.tasks, seed=0)
    settings = {"n_steps": 64, "batch_size": 1024, "n_epochs": 4, "learning_rate": 1e-3, "ent_coef": 0.01}
    model = PPO("MlpPolicy", sfe.GridVecEnv(pool, 128), seed=0, device="cpu", **settings).learn(args.warm_up)
    methods = exact_methods(pool, model)
    exact = compare(methods, args.rounds)
    slow, reference = exact[PLAIN]
    counted = reference > 1e-12
    states = 4 * (pool.family.size - 2) ** 2 * args.tasks
    table = Table(title=f"Exact scores of {args.tasks} tasks, 64x64 policy, {os.cpu_count()} cores")
    for column in ("method", "seconds", "times faster", "peak MB", "bytes x states x tasks", "largest relative error of p"):
        table.add_column(column, justify="left" if column == "method" else "right")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "agent.zip"
        model.save(path)
        for name, (seconds, failure) in exact.items():
            memory = peak_memory(name, path, args.tasks)
            error = float(np.max(np.abs(failure[counted] / reference[counted] - 1.0)))
            row = (f"{seconds:.3f}", f"{slow / seconds:.1f}", f"{memory:.0f}", f"{memory * 1e6 / states:.1f}", f"{error:.0e}")
            table.add_row(name, *row)
    Console(width=130).print(table)
    print("(the errors are those of the float32 network, whose last digits depend on what is in its batch)")

    th.set_num_threads(1)
    some = pool.subset(range(args.survival_tasks))
    tables, scorer, generator = PlainTables(some), sf.SurvivalScorer(some), np.random.default_rng(0)
    sampled = compare(
        {
            "plain numpy loop, tables made once": lambda: survival(some, model, tables, generator),
            "plain numpy loop": lambda: survival(some, model, PlainTables(some), generator),
            "survival": lambda: scorer.log_survival(model),
        },
        args.rounds,
    )
    table = Table(title=f"Survival scores of {args.survival_tasks} tasks, one episode each, one core")
    for column in ("method", "seconds", "of survival's"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for name, (seconds, _) in sampled.items():
        table.add_row(name, f"{seconds:.3f}", f"{seconds / sampled['survival'][0]:.1f}")
    Console(width=130).print(table)
    print_profile("exact, states enumerated before", methods[KEPT])
    print_profile("survival", lambda: scorer.log_survival(model))


def print_profile(what: str, run: Callable[[], Any]) -> None:
    """Where the time goes: the five functions that hold most of it."""
    profile = cProfile.Profile()
    profile.runcall(run)
    stats = pstats.Stats(profile)
    rows = sorted(((v[2], k) for k, v in stats.stats.items()), reverse=True)[:6]  # type: ignore[attr-defined]  # missing in the stub
    total = stats.total_tt  # type: ignore[attr-defined]  # missing in the stub
    print(f"{what}: {total:.3f} s under the profiler")
    for seconds, (file, line, name) in rows:
        print(f"  {seconds / total:5.0%}  {name} ({Path(file).name}:{line})")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
