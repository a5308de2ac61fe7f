"""Fine-tune an agent so that its failures can be forecast, and compare with what else one could do.

A base agent is trained with PPO on a MiniGrid family with a rare failure mode. Then, each from that checkpoint and with the
same number of further steps: PPO, a failure-cost reward penalty, PPO-Lagrangian, a supervised penalty (mean failure
probability) bare and equipped with the same scores, pool and drawn tasks as ours, and ForecastPPO. Everything reported is
measured on held-out tasks. A run that was stopped goes on where it was when started again with the same output folder.

    python examples/train_gridworld.py --seeds 5 --output runs/gridworld
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch as th
import tyro
from gridworld_methods import DEFAULT_METHODS, METHODS, PPO_SETTINGS
from gridworld_report import write_report
from rich.console import Console
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import VecMonitor
from study_tools import Budget, claim_folder, save_atomically, write_json

import sb3_forecast as sf
import sb3_forecast_envs as sfe


@dataclass(frozen=True)
class Arguments:
    """Command line of the gridworld study."""

    seeds: int = 1
    """Number of seeds; pool, training and held-out tasks all differ per seed."""
    first_seed: int = 1
    """The first of them."""
    family: str = "ThinIce-8x8"
    """Task family, '<Name>-<S>x<S>'; 'module:<Name>-<S>x<S>' for one that the module registers, such as register_family:Moat-7x7."""
    rare_fraction: float = 0.002
    """Mass of the rare mode."""
    methods: tuple[str, ...] = field(default=DEFAULT_METHODS)
    """Which methods to compare; those that are told nothing but costs are ppo, ppo_lagrangian_10, cvar_ppo and forecast_episodes."""
    total_timesteps: int = 1_500_000
    """Environment steps of the base agent."""
    fine_tune_timesteps: int = 100 * 8192
    """Further steps of every method, those of a scorer that plays episodes included."""
    count_scoring: bool = True
    """Whether the steps of scoring and probing use up fine_tune_timesteps; if not, all methods get the same updates."""
    pool_size: int = 50_000
    """Training tasks, whose scores the forecast objective caches."""
    held_out_size: int = 12_000
    """Fresh tasks for the report."""
    eval_size: int = 200
    """Evaluation set size m of a held-out split."""
    deploy_size: int = 3800
    """Deployment set size n of a held-out split."""
    k: int = 10
    """Top scores used by the forecast."""
    splits: int = 400
    """Held-out splits."""
    n_envs: int = 128
    """Environments stepped together."""
    output: Path = Path("runs/gridworld")
    """Where checkpoints, TensorBoard logs, report.json and the figures go."""
    jobs: int = 1
    """Seeds run side by side, each in a process with one thread."""
    progress_bar: bool = True
    """Show SB3's progress bar (only with one job)."""

    def check(self) -> None:
        """Reject arguments before any work starts."""
        sfe.make_family(self.family, self.rare_fraction)
        unknown = [method for method in self.methods if method not in METHODS]
        if unknown:
            raise ValueError(f"methods={unknown} are unknown; choose from {list(METHODS)}")
        for name in ("seeds", "pool_size", "held_out_size", "splits", "n_envs", "jobs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} does nothing; use {name} >= 1")
        if self.eval_size + self.deploy_size > self.held_out_size:
            raise ValueError(
                f"eval_size + deploy_size = {self.eval_size + self.deploy_size} exceeds held_out_size={self.held_out_size}; raise held_out_size"
            )


class Curves(BaseCallback):
    """Scores a small pool of its own now and then, for the figure of the training; nothing is chosen by it."""

    def __init__(self, scorer: sf.ExactScorer, every: int = 10) -> None:
        super().__init__()
        self.scorer, self.every = scorer, every
        self.points: dict[str, list[tuple[int, float]]] = {}
        self.rollouts = 0

    def _on_step(self) -> bool:
        return True

    def measure(self) -> None:
        """Add a point to every curve."""
        outcomes = self.scorer.outcomes(self.model)
        for name, value in {
            "worst failure probability": outcomes.failure.max(),
            "mean failure probability": outcomes.failure.mean(),
            "success": outcomes.success.mean(),
        }.items():
            self.points.setdefault(name, []).append((self.model.num_timesteps, float(value)))

    def _on_rollout_start(self) -> None:
        if self.rollouts % self.every == 0:
            self.measure()
        self.rollouts += 1


def run_seed(args: Arguments, seed: int, progress_bar: bool) -> int:
    """Train and evaluate every method for one seed; finished parts are kept and not repeated.

    :param args: the command line
    :param seed: the seed
    :param progress_bar: show SB3's progress bar
    :return: the seed
    """
    folder = args.output / f"seed{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    pool = sfe.TaskPool(args.family, args.pool_size, seed, args.rare_fraction)
    held_out = sfe.TaskPool(args.family, args.held_out_size, 1_000_000 + seed, args.rare_fraction)
    held_out_scorer = sf.ExactScorer(held_out)
    curve_scorer = sf.ExactScorer(
        sfe.TaskPool(args.family, min(4000, args.held_out_size), 2_000_000 + seed, args.rare_fraction)
    )

    def evaluate(model: Any, seconds: float, curves: dict[str, Any]) -> dict[str, Any]:
        report = sf.evaluate_forecast(
            model, held_out, args.eval_size, args.splits, seed, args.deploy_size, args.k, "jones", held_out_scorer
        )
        blue = sf.evaluate_forecast(
            model, held_out, args.eval_size, args.splits, seed, args.deploy_size, args.k, "blue", held_out_scorer
        )
        return {**report.to_dict(), "error_blue": asdict(blue.error), "seconds": seconds, "curves": curves}

    base = folder / "base.zip"
    if not base.exists():
        start = time.perf_counter()
        env = VecMonitor(sfe.GridVecEnv(pool, args.n_envs, seed=10_000 * seed))
        model = PPO("MlpPolicy", env, seed=seed, device="cpu", **PPO_SETTINGS)
        model.set_logger(configure(str(folder / "base"), ["tensorboard"]))
        model.learn(args.total_timesteps, progress_bar=progress_bar)
        write_json(folder / "base.json", evaluate(model, time.perf_counter() - start, {}))
        save_atomically(model, base)
    for method in args.methods:
        result = folder / f"{method}.json"
        if result.exists():
            continue
        start = time.perf_counter()
        model = METHODS[method](base, pool, args.n_envs, seed)
        model.set_logger(configure(str(folder / method), ["tensorboard"]))
        curves = Curves(curve_scorer)
        budget = Budget(args.fine_tune_timesteps, args.count_scoring)
        model.learn(args.fine_tune_timesteps, callback=[curves, budget], progress_bar=progress_bar)
        curves.measure()
        save_atomically(model, folder / f"{method}.zip")
        write_json(
            result,
            {**evaluate(model, time.perf_counter() - start, curves.points), "steps": model.num_timesteps + budget.played},
        )
    return seed


def run_seed_alone(args: Arguments, seed: int) -> int:
    """:func:`run_seed` in a process of its own, with one thread."""
    th.set_num_threads(1)
    return run_seed(args, seed, progress_bar=False)


#: settings that results in one folder must share
SAME = (
    "family", "rare_fraction", "total_timesteps", "fine_tune_timesteps", "pool_size", "held_out_size", "eval_size", "deploy_size", "k",
    "splits", "n_envs", "count_scoring",
)  # fmt: skip


def main(args: Arguments) -> None:
    """Run the study and write the report."""
    # where a user's own family may be registered
    sys.path.append(os.getcwd())
    args.check()
    console = Console()
    seeds = list(range(args.first_seed, args.first_seed + args.seeds))
    settings = {**asdict(args), "output": str(args.output)}
    claim_folder(args.output, settings, SAME)
    if args.jobs == 1:
        for seed in seeds:
            console.rule(f"seed {seed}")
            run_seed(args, seed, args.progress_bar)
    else:
        with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as executor:
            for done in as_completed([executor.submit(run_seed_alone, args, seed) for seed in seeds]):
                console.print(f"seed {done.result()} is done")
    command = "python " + " ".join(shlex.quote(word) for word in sys.argv)
    write_report(args.output, seeds, list(args.methods), settings, command, console)
    console.print(f"\nReport, figures and checkpoints are in [bold]{args.output}[/bold].")


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
