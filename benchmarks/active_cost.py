"""What active evaluation costs beside scoring everything: seconds and memory.

    python benchmarks/active_cost.py
    python benchmarks/active_cost.py --tasks 10000000 --folder

Each number of tasks runs in a process of its own. "All exact" is the time that exact scores of all tasks would take, with drawing, from blocks
of 8,192 tasks that are scored in the same process. Memory is the largest resident set; ``--folder`` keeps the descriptors in a file.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# it holds the package `benchmarks`
sys.path[0] = str(ROOT)

import json
import resource
import subprocess
import tempfile
import time
from dataclasses import dataclass

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

    tasks: tuple[int, ...] = (100_000, 1_000_000)
    """Numbers of tasks."""
    families: tuple[str, ...] = ("ThinIce-8x8", "Wind-8x8")
    """Task families."""
    budget: int = 1000
    """Tasks that are scored."""
    warm_up: int = 300_000
    """Steps that the agent is trained."""
    folder: bool = False
    """Keep the descriptors in a file."""


def measure(family: str, agent: str, tasks: str, budget: str, folder: str) -> None:
    """What a child process does; prints JSON."""
    model, stream = PPO.load(agent, device="cpu"), sfe.TaskStream(family, int(tasks), seed=1)
    blocks = [(0, BLOCK), (BLOCK, 2 * BLOCK)]
    # compiled before the clock runs
    stream.block(0, 200).descriptors()
    sf.ExactScorer(stream.block(0, 200), cache_tasks=0).score(model)
    start = time.perf_counter()
    pools = [stream.block(*block) for block in blocks]
    drawn = time.perf_counter()
    for pool in pools:
        sf.ExactScorer(pool, cache_tasks=0).score(model)
    scored = time.perf_counter()
    for pool in pools:
        pool.descriptors()
    share = int(tasks) / (len(blocks) * BLOCK)
    described = (time.perf_counter() - scored) * share
    drawing = (drawn - start) * share
    report = sf.ActiveEvaluation("exact", stream, int(budget), seed=1, folder=folder or None).run(model)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    result = {"drawing": drawing, "describing": described, "scoring": (scored - drawn) * share, "active": report.seconds_choosing,
              "chosen": report.seconds_scoring, "peak": peak}  # fmt: skip
    print(json.dumps(result))


def main(args: Arguments) -> None:
    """Train, measure, print."""
    settings = {"n_steps": 64, "batch_size": 1024, "n_epochs": 4, "learning_rate": 1e-3, "ent_coef": 0.01}
    table = Table(title=f"Active evaluation with {args.budget:,} scored tasks: seconds")
    columns = (
        "family",
        "tasks",
        "drawing all",
        "describing all",
        "choosing",
        "scoring the chosen",
        "all exact",
        "choosing / all exact",
        "peak MB",
    )
    for column in columns:
        table.add_column(column, justify="right")
    with tempfile.TemporaryDirectory() as name:
        for family in args.families:
            env = sfe.GridVecEnv(sfe.TaskPool(family, 20_000, seed=0), 128)
            model = PPO("MlpPolicy", env, seed=0, device="cpu", **settings).learn(args.warm_up)
            model.save(Path(name) / "agent.zip")
            for tasks in args.tasks:
                folder = Path(name) / f"{family}-{tasks}" if args.folder else ""
                command = [
                    sys.executable,
                    __file__,
                    "measure",
                    family,
                    str(Path(name) / "agent.zip"),
                    str(tasks),
                    str(args.budget),
                    str(folder),
                ]
                output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
                found = json.loads(output.splitlines()[-1])
                # what the run took besides scoring holds drawing and describing once
                choosing = found["active"] - found["drawing"] - found["describing"]
                everything = found["drawing"] + found["scoring"]
                numbers = (found["drawing"], found["describing"], choosing, found["chosen"], everything)
                table.add_row(
                    family, f"{tasks:,}", *(f"{number:.1f}" for number in numbers), f"{choosing / everything:.0%}", f"{found['peak']:,.0f}"
                )  # fmt: skip
    Console(width=150).print(table)


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        measure(*sys.argv[2:])
    else:
        main(tyro.cli(Arguments))
