"""How little can a task of a family fail at all? By dynamic programming over its states.

    python benchmarks/reachable.py --family Wind-8x8

For each task the best policy is found that knows its layout and sees its whole state: the one that least often fails or runs out of time. No
agent that finishes its tasks can fail less than this in a task, whatever it was trained with. (An agent that never moves may: it runs out of
time.) Seeds are those of the held-out tasks of a study with seed 1, so they are drawn as its tasks are.
"""

from __future__ import annotations

import sys
from pathlib import Path

# the folder above holds the package `benchmarks`
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from dataclasses import dataclass

import numpy as np
import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import sb3_forecast_envs as sfe

F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Arguments:
    """Command line."""

    family: str = "Wind-8x8"
    """Family of tasks."""
    tasks: int = 12_000
    """Number of tasks."""
    rare_fraction: float = 0.002
    """Mass of the rare mode."""
    seed: int = 1_000_001
    """Seed of the tasks."""
    block: int = 2000
    """Tasks that are solved together."""


def least_failure(pool: sfe.TaskPool) -> tuple[F64, F64]:
    """The least probability of failing or running out of time, and the probability of failing of the policy that attains it.

    :param pool: the tasks
    :return: two arrays of shape (tasks,), float64
    """
    model = pool.finite_model()
    first, successors, _, chances = model.tables(np.arange(len(pool)))
    n_states = int(first[-1])
    base = np.repeat(first[:-1], np.diff(first))
    # success and failure become two more states
    to = np.where(successors >= 0, successors + base[:, None], n_states - 1 - successors)
    chance = np.ones(to.shape) if not len(chances) else chances
    by_action = (n_states, model.n_actions, -1)
    to, chance = to.reshape(by_action), chance.reshape(by_action)
    bad, failing = np.ones(n_states + 2), np.zeros(n_states + 2)
    for value in (bad, failing):
        value[n_states], value[n_states + 1] = 0.0, 1.0
    rows = np.arange(n_states)
    for _ in range(model.horizon):
        expected = (chance * bad[to]).sum(axis=2)
        best = expected.argmin(axis=1)
        bad[:n_states] = expected[rows, best]
        failing[:n_states] = (chance * failing[to]).sum(axis=2)[rows, best]
    return bad[first[:-1]], failing[first[:-1]]


def main(args: Arguments) -> None:
    """Solve the tasks, and print how many cannot be done safely."""
    pool = sfe.TaskPool(args.family, args.tasks, args.seed, args.rare_fraction)
    parts = [
        least_failure(pool.subset(np.arange(i, min(i + args.block, args.tasks)))) for i in range(0, args.tasks, args.block)
    ]
    bad, failing = (np.concatenate(column) for column in zip(*parts, strict=True))
    table = Table(title=f"{args.tasks:,} tasks of {args.family}: the least that is possible, task by task")
    for column in ("", "worst", "tenth worst", "mean", "above 1e-2", "above 1e-3", "above 1e-6", "above 1e-9"):
        table.add_column(column, justify="right")
    for name, values in (("fails or runs out of time", bad), ("fails", failing)):
        ordered = np.sort(values)[::-1]
        counts = [f"{int((values > level).sum()):,}" for level in (1e-2, 1e-3, 1e-6, 1e-9)]
        table.add_row(name, f"{ordered[0]:.1e}", f"{ordered[9]:.1e}", f"{values.mean():.1e}", *counts)
    Console(width=120).print(table)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
