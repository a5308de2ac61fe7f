"""What plain PPO makes of each family: does it solve the common tasks, and does the rare mode mislead the forecast?

    python benchmarks/families.py

Exact scores of fresh tasks, 400 splits of 200 and 3,800. Not a comparison of methods: this checks that the families pose the problem that
they are made for.
"""

from __future__ import annotations

import sys
from pathlib import Path

# the folder above holds the package `benchmarks`
sys.path[0] = str(Path(__file__).resolve().parent.parent)

import statistics
from dataclasses import dataclass

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table
from stable_baselines3 import PPO

import sb3_forecast as sf
import sb3_forecast_envs as sfe

SETTINGS = {"n_steps": 64, "batch_size": 512, "n_epochs": 4, "learning_rate": 1e-3, "ent_coef": 0.003, "device": "cpu"}


@dataclass(frozen=True)
class Arguments:
    """Command line."""

    families: tuple[str, ...] = ("ThinIce-8x8", "Bridge-8x8", "Decoy-8x8", "Vault-8x8", "Wind-8x8")
    """Families."""
    steps: int = 1_500_000
    """Steps of PPO."""
    vault_steps: int = 6_000_000
    """Steps of PPO on the vault, which takes longer to find out about the key."""
    held_out: int = 12_000
    """Fresh tasks."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """Seeds."""


def main(args: Arguments) -> None:
    """Train, evaluate, print medians."""
    table = Table(title=f"Plain PPO, medians of seeds {args.seeds}")
    for column in (
        "family",
        "success",
        "... rare",
        "mean failure, common",
        "... rare",
        "worst p",
        "forecast error",
        "too low in",
    ):
        table.add_column(column, justify="left" if column == "family" else "right")
    for family in args.families:
        rows = []
        for seed in args.seeds:
            pool = sfe.TaskPool(family, 20_000, seed=seed)
            model = PPO("MlpPolicy", sfe.GridVecEnv(pool, 128, seed=10_000 * seed), seed=seed, **SETTINGS)
            model.learn(args.vault_steps if "Vault" in family else args.steps)
            held_out = sfe.TaskPool(family, args.held_out, seed=1_000_000 + seed)
            outcomes = sf.ExactScorer(held_out).outcomes(model)
            report = sf.evaluate_forecast(model, held_out, 200, 400, seed, 3800, 10, "jones")
            common = float(outcomes.failure[~held_out.rare].mean())
            rows.append(
                (
                    report.success,
                    report.rare_success,
                    common,
                    report.rare_mean_failure,
                    report.worst_failure,
                    report.error.mean_abs,
                    report.under_predicted,
                )
            )
        success, rare_success, common, rare, worst, error, low = (statistics.median(column) for column in np.array(rows).T)
        table.add_row(
            family, f"{success:.3f}", f"{rare_success:.3f}", f"{common:.1e}", f"{rare:.1e}", f"{worst:.2g}", f"{error:.2f}", f"{low:.0%}"
        )  # fmt: skip
        print(family, rows, flush=True)
    Console(width=120).print(table)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
