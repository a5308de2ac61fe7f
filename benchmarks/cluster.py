"""Scoring with Ray on this machine against `score_large_pool`, which needs no Ray: speed and memory.

    python benchmarks/cluster.py

The same tasks are scored by one process, and by one and by two workers of Ray, each in a fresh process and one after the other. "Busy" is the
time from the first finished block to the last: starting Ray and importing torch in each worker takes some seconds, whatever the number of tasks.
Memory is the largest resident set of one process that scores, in the first and in the second half of its work.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# it holds the package `benchmarks`
sys.path[0] = str(ROOT)

import os
import subprocess
import tempfile
import time
from dataclasses import dataclass

import psutil
import tyro
from rich.console import Console
from rich.table import Table
from stable_baselines3 import PPO

import sb3_forecast as sf
import sb3_forecast_envs as sfe

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"


@dataclass(frozen=True)
class Arguments:
    """Command line."""

    tasks: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    """Numbers of tasks."""
    family: str = "ThinIce-8x8"
    """Task family."""
    warm_up: int = 300_000
    """Steps that the agent is trained."""
    block_size: int = 8192
    """Tasks per file."""


@dataclass(frozen=True)
class Watched:
    """What a child process and its own children did.

    :param seconds: from its start to its end
    :param busy: from the first finished block to the last
    :param first: number of tasks that were done when ``busy`` began
    :param early: largest resident MB of a scoring process in the first half
    :param late: ... in the second half
    :param megabytes: size of the folder
    """

    seconds: float
    busy: float
    first: int
    early: float
    late: float
    megabytes: float


def score(way: str, agent: str, family: str, tasks: str, block_size: str, folder: str) -> None:
    """What a child process does."""
    model, stream = PPO.load(agent, device="cpu"), sfe.TaskStream(family, int(tasks), seed=1)
    if way == "0":
        sf.score_large_pool(model, stream, folder, int(block_size)).sketch().save(Path(folder) / "sketch.npz")
    else:
        sf.cluster.score(model, stream, folder, "exact", block_size=int(block_size), workers=int(way), progress_bar=False)


def scoring(process: psutil.Process) -> list[psutil.Process]:
    """The processes that score: Ray's workers, or the process itself."""
    workers = [
        child
        for child in process.children(recursive=True)
        if "BlockWorker" in child.name() or "BlockWorker" in " ".join(child.cmdline())
    ]
    return workers or [process]


def watch(way: int, agent: Path, args: Arguments, tasks: int) -> Watched:
    """Run a child and look at it twenty times a second."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        began = time.perf_counter()
        child = subprocess.Popen(
            [sys.executable, __file__, "score", str(way), str(agent), args.family, str(tasks), str(args.block_size), name]
        )
        process, memory, moments = psutil.Process(child.pid), [0.0, 0.0], []
        total = -(-tasks // args.block_size)
        while child.poll() is None:
            done = len(list(folder.glob("tasks-*")))
            if len(moments) < done:
                moments += [time.perf_counter()] * (done - len(moments))
            try:
                now = max(worker.memory_info().rss / 1e6 for worker in scoring(process))
                half = int(2 * done >= total)
                memory[half] = max(memory[half], now)
            except psutil.NoSuchProcess:
                pass
            time.sleep(0.05)
        if child.returncode:
            raise SystemExit(f"the child with {way} workers failed")
        first = sum(1 for moment in moments if moment == moments[0]) if moments else 0
        size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
        busy = moments[-1] - moments[0] if moments else 0.0
        return Watched(time.perf_counter() - began, busy, first * args.block_size, *memory, size)


def main(args: Arguments) -> None:
    """Train, score in three ways, print."""
    settings = {"n_steps": 64, "batch_size": 1024, "n_epochs": 4, "learning_rate": 1e-3, "ent_coef": 0.01}
    env = sfe.GridVecEnv(sfe.TaskPool(args.family, 20_000, seed=0), 128)
    model = PPO("MlpPolicy", env, seed=0, device="cpu", **settings).learn(args.warm_up)
    table = Table(title=f"Exact scores of {args.family}, {os.cpu_count()} cores")
    for column in ("tasks", "by", "seconds", "busy: tasks/s", "/ one process", "MB, first half", "second half", "MB on disk"):
        table.add_column(column, justify="right")
    with tempfile.TemporaryDirectory() as name:
        agent = Path(name) / "agent.zip"
        model.save(agent)
        for tasks in args.tasks:
            alone = 0.0
            for way in (0, 1, 2):
                found = watch(way, agent, args, tasks)
                speed = (tasks - found.first) / found.busy if found.busy > 0.5 else float("nan")
                alone = speed if way == 0 else alone
                label = "one process" if way == 0 else f"{way} worker{'s' * (way > 1)} of Ray"
                table.add_row(
                    f"{tasks:,}", label, f"{found.seconds:.0f}", f"{speed:,.0f}", f"{speed / alone:.2f}", f"{found.early:.0f}",
                    f"{found.late:.0f}", f"{found.megabytes:.1f}",
                )  # fmt: skip
    Console(width=130).print(table)


if __name__ == "__main__":
    if sys.argv[1:2] == ["score"]:
        score(*sys.argv[2:])
    else:
        main(tyro.cli(Arguments))
