"""Memory and time of an optimizer step of ForecastTrainer, against the naive graph over the whole sub-pool.

    python benchmarks/lm_step.py --model smollm2      # needs `make smollm2`

Each way runs in a process of its own: a warm-up step, then rounds. A no-grad pass over the sub-pool is the unit of time; the plain step on the
primary rows is measured by itself and taken off. The naive way keeps one graph for all prompts, as one would first write it; the starting
model is a real one, with an adapter in its top ten layers.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# it holds the package `benchmarks`
sys.path[0] = str(ROOT)

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch as th
import tyro
from rich.console import Console
from rich.table import Table

import sb3_forecast as sf
from benchmarks.memory import PeakMemory
from sb3_forecast.lm import (
    ForecastPenalty,
    LMFailureScorer,
    PadOnTheRight,
    PasswordGame,
    ShardedScorer,
    load_player,
    primary_examples,
    training_rows,
    with_adapter,
)


@dataclass(frozen=True)
class Arguments:
    """Command line."""

    model: str = "smollm2"
    """'tiny', 'smollm2' or the id of a model of a hub."""
    pool: int = 400
    """Prompts scored per step."""
    batch_size: int = 16
    """Primary rows of a step."""
    rounds: int = 3
    """Rounds."""
    only: str = ""
    """Measure one way in this process and print it (used by the benchmark itself)."""


WAYS = ("two passes", "two passes, lower layers not cached", "naive graph, lower layers cached", "naive graph")


def measure(args: Arguments) -> dict[str, float]:
    """Median seconds of a step beyond the primary one and of a no-grad pass, and the peak memory of a step above the model."""
    model, tokenizer, _ = load_player(args.model, 0)
    model = with_adapter(model)
    game = PasswordGame(args.pool, 0)
    cached = args.only in ("two passes", "naive graph, lower layers cached")
    # the naive way knows no micro-batches
    max_tokens = 1024 if args.only.startswith("two") else 10**9
    scorer = LMFailureScorer(
        model, tokenizer, game.prompts, game.targets, max_tokens=max_tokens, cache_frozen="auto" if cached else False
    )
    objective = sf.ForecastObjective(ShardedScorer(scorer), sf.ForecastLoss(args.pool // 11, 10, 64, p_floor=1e-4))
    penalty = ForecastPenalty(objective)
    rows = PadOnTheRight(0)(training_rows(tokenizer, primary_examples(args.batch_size, 0)))

    def primary() -> None:
        model(**rows).loss.backward()

    def forecast() -> None:
        if args.only.startswith("two"):
            penalty.accumulate(model)
            return
        everything = scorer.rescore(model, np.arange(args.pool))
        loss, _ = objective.pool_loss(everything, np.random.default_rng(0))  # type: ignore[operator]  # a ForecastLoss
        loss.backward()

    def seconds(run: Callable[[], object]) -> float:
        began = time.perf_counter()
        run()
        model.zero_grad()
        return time.perf_counter() - began

    # nothing is kept of the first pass but what the scorer caches, which counts as the step's memory
    with PeakMemory() as memory:
        seconds(primary)
        seconds(forecast)
    times: dict[str, list[float]] = {"primary": [], "forecast": [], "pass": []}
    for _ in range(args.rounds):
        times["primary"].append(seconds(primary))
        times["forecast"].append(seconds(forecast))
        if args.only.startswith("two"):
            times["pass"].append(seconds(lambda: scorer.score(model)))
    found = {name: statistics.median(values) if values else float("nan") for name, values in times.items()}
    active = len(objective.active[0]) if args.only.startswith("two") else args.pool
    return {**found, "megabytes": memory.megabytes, "active": active}


def main(args: Arguments) -> None:
    """Measure every way and print the table."""
    if args.only:
        print(json.dumps(measure(args)))
        return
    table = Table(
        title=f"{args.model}: one step on {args.pool} prompts and {args.batch_size} primary rows, {th.get_num_threads()} threads"
    )
    for column in (
        "way",
        "seconds",
        "no-grad pass",
        "passes per step",
        "primary step",
        "prompts with a graph",
        "peak MB above the model",
    ):
        table.add_column(column, justify="left" if column == "way" else "right")
    for way in WAYS:
        command = [sys.executable, __file__, "--model", args.model, "--pool", str(args.pool), "--batch-size", str(args.batch_size),
                   "--rounds", str(args.rounds), "--only", way]  # fmt: skip
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            table.add_row(
                way, f"failed: {result.stderr.strip().splitlines()[-1:] or 'killed, out of memory'}", "", "", "", "", ""
            )
            continue
        found = json.loads(result.stdout.splitlines()[-1])
        table.add_row(
            way, f"{found['forecast']:.2f}", f"{found['pass']:.2f}", f"{found['forecast'] / found['pass']:.2f}", f"{found['primary']:.2f}",
            f"{found['active']}", f"{found['megabytes']:.0f}",
        )  # fmt: skip
        print(way, found, flush=True)
    Console(width=130).print(table)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
