"""The gridworld study: a PPO agent, fine-tuned in several ways from the same checkpoint with the same further steps.

Everything reported is measured on held-out tasks, by exact scores.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console
from rich.table import Table
from stable_baselines3 import PPO
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import VecMonitor

import sb3_forecast as sf
import sb3_forecast_envs as sfe
from sb3_forecast.files import write_text
from studies.gridworld_figures import draw_figures
from studies.gridworld_methods import DEFAULT_METHODS, LABELS, METHODS, PPO_SETTINGS, REPLAYED
from studies.records import Record
from studies.runner import Run, Study
from studies.statistics import Column
from studies.tables import markdown_of
from studies.tools import Budget, Curves, check_sizes, save_model

#: what is measured, by short name
COLUMNS = {
    "limit": Column("95% limit holds", ("limit_holds",), "{:.0%}"),
    "interval": Column("90% interval holds", ("interval_holds",), "{:.0%}"),
    "within": Column("within 10x", ("within_10x",), "{:.0%}"),
    "error": Column("forecast error, psi", ("error", "mean_abs"), "{:.3f}"),
    "scales": Column("... / scale", ("error_in_scale", "mean_abs"), "{:.1f}"),
    "signed": Column("signed", ("error", "signed"), "{:+.3f}"),
    "under": Column("too low in", ("under_predicted",), "{:.0%}"),
    "worst": Column("worst p", ("worst_failure",), "{:.1e}"),
    "mean": Column("mean p", ("mean_failure",), "{:.1e}"),
    "rare_mean": Column("rare mean p", ("rare_mean_failure",), "{:.1e}"),
    "success": Column("success", ("success",), "{:.4f}"),
    "rare_success": Column("rare success", ("rare_success",), "{:.3f}"),
    "seconds": Column("seconds", ("seconds",), "{:.0f}"),
}


@dataclass(frozen=True)
class Settings:
    """Fine-tune an agent so that its failures can be forecast, and compare with what else one could do.

    A base agent is trained with PPO on a MiniGrid family with a rare failure mode. From that checkpoint every method gets the same further
    steps. Everything reported is measured on held-out tasks. A run that was stopped goes on when it is started again with the same output
    folder.
    """

    seeds: int = 1
    """Number of seeds; pool, training and held-out tasks all differ per seed."""
    first_seed: int = 1
    """The first of them."""
    family: str = "ThinIce-8x8"
    """Task family, '<Name>-<S>x<S>'; 'module:<Name>-<S>x<S>' for one that the module registers, such as own_family:Moat-7x7."""
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
    unseen: bool = True
    """Whether these are distinct and share nothing with training; if not, they are drawn like the training tasks, and some occur there too."""
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
    """Where checkpoints, TensorBoard logs, records, the table and the figures go."""
    jobs: int | Literal["ray"] = 1
    """Seeds run side by side, each in a process with one thread. `ray`: as tasks of the Ray cluster of RAY_ADDRESS, or of this machine."""
    progress_bar: bool = True
    """Show SB3's progress bar (only with one job)."""

    def check(self) -> None:
        """Reject settings that cannot be run, before any work starts."""
        sfe.make_family(self.family, self.rare_fraction)
        unknown = [method for method in self.methods if method not in METHODS]
        if unknown:
            raise ValueError(f"methods must be some of {list(METHODS)}, got {unknown}; use one of those")
        check_sizes(self, ("seeds", "pool_size", "held_out_size", "splits", "n_envs"))

    def kept(self) -> dict[str, Any]:
        """The settings that a result depends on."""
        left_out = ("seeds", "first_seed", "methods", "output", "jobs", "progress_bar")
        return {name: value for name, value in asdict(self).items() if name not in left_out}


def run(job: Run) -> dict[str, Any]:
    """Train and measure one method.

    :param job: what to run
    """
    args: Settings = job.settings
    show = args.progress_bar and args.jobs == 1
    pool = sfe.TaskPool(args.family, args.pool_size, job.seed, args.rare_fraction)
    base = job.folder / "base.zip"
    if job.method == "base":
        env = VecMonitor(sfe.GridVecEnv(pool, args.n_envs, seed=10_000 * job.seed))
        model = PPO("MlpPolicy", env, seed=job.seed, device="cpu", **PPO_SETTINGS)
        model.set_logger(configure(str(job.folder / "base"), ["tensorboard"]))
        model.learn(args.total_timesteps, progress_bar=show)
        found = measure(args, model, job.seed)
        save_model(model, base)
        return found
    model = METHODS[job.method](base, pool, args.n_envs, job.seed)
    model.set_logger(configure(str(job.folder / job.method), ["tensorboard"]))
    watched = sfe.TaskPool(args.family, min(4000, args.held_out_size), 2_000_000 + job.seed, args.rare_fraction)
    curves = Curves(sf.ExactScorer(watched))
    budget = Budget(args.fine_tune_timesteps, args.count_scoring)
    replay = [sf.FailureReplay()] if job.method in REPLAYED else []
    model.learn(args.fine_tune_timesteps, callback=[curves, budget, *replay], progress_bar=show)
    curves.measure()
    save_model(model, job.folder / f"{job.method}.zip")
    validation = model.validation if isinstance(model, sf.ForecastPPO) else None
    return {
        **measure(args, model, job.seed),
        "curves": curves.points,
        "steps": model.num_timesteps + budget.played,
        "times_harmed": None if validation is None else validation.times_harmed,
    }


def held_out(args: Settings, seed: int) -> sfe.TaskPool:
    """The tasks that a seed's methods are measured on.

    :param args: the options
    :param seed: the seed
    :raises ValueError: if the family has too few tasks that training does not hold
    """
    if not args.unseen:
        return sfe.TaskPool(args.family, args.held_out_size, 1_000_000 + seed, args.rare_fraction)
    seen = set(sfe.TaskPool(args.family, args.pool_size, seed, args.rare_fraction).task_keys())
    stream = sfe.TaskStream(args.family, 10 * args.held_out_size, 1_000_000 + seed, args.rare_fraction)
    chosen: list[int] = []
    for begin in range(0, len(stream), args.held_out_size):
        for i, key in enumerate(stream.block(begin, begin + args.held_out_size).task_keys()):
            if key not in seen and len(chosen) < args.held_out_size:
                seen.add(key)
                chosen.append(begin + i)
        if len(chosen) == args.held_out_size:
            drawn = sfe.TaskPool(args.family, chosen[-1] + 1, 1_000_000 + seed, args.rare_fraction)
            return drawn.subset(np.array(chosen))
    raise ValueError(
        f"family must have {args.held_out_size} tasks that training does not hold, got {len(chosen)} of {args.family} in {len(stream)} draws; "
        "use a smaller held_out_size or pool_size, or --no-unseen"
    )


def measure(args: Settings, model: PPO, seed: int) -> dict[str, Any]:
    """Everything that is reported of a model.

    :param args: the options
    :param model: the agent
    :param seed: the seed
    """
    tasks = held_out(args, seed)
    scorer = sf.ExactScorer(tasks)
    sizes = (args.eval_size, args.splits, seed, args.deploy_size, args.k)
    blue = sf.evaluate_forecast(model, tasks, *sizes, method="blue", scorer=scorer)
    jones = sf.evaluate_forecast(model, tasks, *sizes, method="jones", scorer=scorer)
    return {**jones.to_dict(), "error_blue": blue.to_dict()["error"], "within_10x_blue": blue.within_10x}


def report(args: Settings, records: list[Record], console: Console) -> None:
    """Print the table; write table.md and the figures.

    :param args: the options
    :param records: what was run
    :param console: where to print
    """
    labels = {method: LABELS[method] for method in ("base", *args.methods)}
    table = Table(
        title=f"Held-out: {args.splits} splits {args.eval_size}/{args.deploy_size} of {args.held_out_size} tasks; medians"
    )
    table.add_column("", no_wrap=True)
    for label in labels.values():
        table.add_column(label, justify="right", min_width=7)
    for column in COLUMNS.values():
        middles = [sorted(column.values([r for r in records if r.method == method]))[args.seeds // 2] for method in labels]
        table.add_row(column.title, *(column.form.format(value) for value in middles))
    # seven methods side by side need this much; a narrower terminal wraps
    (console if console.width >= 112 else Console(width=112)).print(table)
    write_text(args.output / "table.md", markdown_of(records, labels, list(COLUMNS.values())))
    seed = args.first_seed
    curves = {r.method: r.result["curves"] for r in records if r.seed == seed and "curves" in r.result}
    draw_figures(args.output, args.output / f"seed{seed}", held_out(args, seed), args, seed, curves)


def methods(args: Settings) -> Sequence[str]:
    """The checkpoint first, then the methods that start from it."""
    return ("base", *args.methods)


STUDY = Study("gridworld", run, methods, report, ("studies/gridworld.py", "studies/gridworld_methods.py", "studies/tools.py"))


def where_users_register() -> None:
    """Let families be found that a user registers in the current folder."""
    sys.path.append(str(Path.cwd()))
