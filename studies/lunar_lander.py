"""The LunarLander study: an agent of Gymnasium that lands nine times in ten, fine-tuned in several ways. Nobody knows more than what happened.

Does any of them do harm? Failures are counted: a landing on fresh reset seeds that ends without a reward is a crash.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from rich.console import Console
from stable_baselines3 import PPO
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import VecEnv, VecMonitor

import sb3_forecast as sf
import sb3_forecast_envs as sfe
from sb3_forecast.scorers.learned.scorer import EpisodeScorer
from studies.cost_only import check_methods, checkpoint, cvar, kept_settings, lagrangian, tuned
from studies.cost_only_report import report_counts
from studies.records import Record
from studies.runner import Run, Study
from studies.statistics import Column
from studies.tools import Budget, save_model

#: PPO for 16 environments; the checkpoint's learning rate falls from 1e-3 to 0
PPO_SETTINGS: dict[str, Any] = {
    "n_steps": 512,
    "batch_size": 256,
    "n_epochs": 6,
    "learning_rate": 3e-4,
    "gamma": 0.999,
    "gae_lambda": 0.98,
    "ent_coef": 0.01,
}

#: training tasks of ForecastPPO, of those of the others
SCORED = 400
#: the same with scores from the training's own episodes
PLAYED = 1000

Make = Callable[[Path, sfe.SeededTasks, VecEnv, int], PPO]


def make_lander() -> gym.Env[Any, Any]:
    """LunarLander as it is."""
    return gym.make("LunarLander-v3")


def landed(step: sfe.Step) -> bool:
    """The episode is over, and its last step gained something."""
    return step.terminated and step.reward > 0.0


def lander_tasks(n_tasks: int, first_seed: int) -> sfe.SeededTasks:
    """Reset seeds from ``first_seed`` on.

    :param n_tasks: number of tasks
    :param first_seed: reset seed of the first
    """
    return sfe.SeededTasks(
        make_lander, n_tasks, sfe.ended_without_reward, first_seed, succeeded=landed, identity="LunarLander-v3"
    )


def _ppo(base: Path, pool: sfe.SeededTasks, env: VecEnv, seed: int) -> PPO:
    return tuned(base, env, seed, PPO_SETTINGS, forecast_coef=0.0)


def _lagrangian(base: Path, pool: sfe.SeededTasks, env: VecEnv, seed: int) -> PPO:
    return lagrangian(base, env, seed, PPO_SETTINGS)


def _cvar(base: Path, pool: sfe.SeededTasks, env: VecEnv, seed: int) -> PPO:
    return cvar(base, env, seed, PPO_SETTINGS)


def _forecast(base: Path, pool: sfe.SeededTasks, env: VecEnv, seed: int) -> PPO:
    # a scoring plays every task once, so few of them: episodes are long
    few = pool.subset(np.arange(min(SCORED, len(pool))))
    scorer = sf.EpisodeScorer(few, probes=20, seed=seed, n_envs=16, max_share=0.5)
    playing = VecMonitor(few.make_vec_env(env.num_envs, 10_000 * seed + 5_000))
    return tuned(base, playing, seed, PPO_SETTINGS, scorer=scorer, full_every=20)


def _forecast_rollouts(base: Path, pool: sfe.SeededTasks, env: VecEnv, seed: int) -> PPO:
    # a look at the validation plays a fifth of the tasks, so not all of them
    some = pool.subset(np.arange(min(PLAYED, len(pool))))
    playing = VecMonitor(some.make_vec_env(env.num_envs, 10_000 * seed + 5_000))
    return tuned(base, playing, seed, PPO_SETTINGS, scorer=sf.RolloutScorer(some, seed=seed))


#: settings are those of the cart-poles; none was tuned here
METHODS: dict[str, Make] = {
    "ppo": _ppo,
    "ppo_lagrangian": _lagrangian,
    "cvar_ppo": _cvar,
    "replay": _ppo,
    "forecast": _forecast,
    "forecast_rollouts": _forecast_rollouts,
}

#: methods of this project
OURS = ("replay", "forecast", "forecast_rollouts")

LABELS = {
    "base": "checkpoint",
    "ppo": "PPO goes on",
    "ppo_lagrangian": "PPO-Lagrangian",
    "cvar_ppo": "CVaR-PPO",
    "replay": "PPO and FailureReplay",
    "forecast": "ForecastPPO, learned survival",
    "forecast_rollouts": "ForecastPPO, RolloutScorer",
}

#: what is measured, by short name
COLUMNS = {
    "crashes": Column("share of episodes that crash", ("mean_failure",), "{:.4f}"),
    "repeated": Column("seeds that crash at least every second time", ("often",), "{:.4f}"),
    "success": Column("landings", ("success",), "{:.4f}"),
    "updates": Column("updates", ("updates",), "{:.0f}"),
    "seconds": Column("seconds", ("seconds",), "{:.0f}"),
}


@dataclass(frozen=True)
class Settings:
    """Fine-tune a LunarLander agent, and compare with what else one could do.

    From a checkpoint of PPO that lands about nine times in ten every method gets the same number of further environment steps, scoring, probing
    and looks at the validation included. Crashes are counted on fresh reset seeds, with sampled actions. A run that was stopped goes on when it
    is started again with the same output folder.
    """

    seeds: int = 1
    """Number of seeds; training and held-out tasks all differ per seed."""
    first_seed: int = 1
    """The first of them."""
    methods: tuple[str, ...] = tuple(METHODS)
    """Which methods to compare."""
    total_timesteps: int = 1_200_000
    """Environment steps of the checkpoint."""
    fine_tune_timesteps: int = 500_000
    """Further environment steps of every method."""
    pool_size: int = 5000
    """Training tasks; ForecastPPO has the first 400 of them."""
    held_out_size: int = 1000
    """Fresh tasks for the report."""
    episodes: int = 2
    """Episodes of each of them."""
    n_envs: int = 16
    """Environments stepped together."""
    output: Path = Path("runs/lunar_lander")
    """Where checkpoints, TensorBoard logs, records, the table and the figure go."""
    jobs: int | Literal["ray"] = 1
    """Seeds run side by side, each in a process with one thread. `ray`: as tasks of the Ray cluster of RAY_ADDRESS, or of this machine."""
    progress_bar: bool = True
    """Show SB3's progress bar (only with one job)."""

    def check(self) -> None:
        """Reject settings that cannot be run, before any work starts."""
        check_methods(self.methods, METHODS)
        for name in ("seeds", "pool_size", "held_out_size", "episodes", "n_envs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}; use a positive number")
        lander_tasks(1, 0)

    def kept(self) -> dict[str, Any]:
        """The settings that a result depends on."""
        return kept_settings(self)


def measure(args: Settings, model: PPO, seed: int) -> dict[str, Any]:
    """Count crashes and landings on fresh tasks.

    :param args: the options
    :param model: the agent
    :param seed: seed of the run; held-out reset seeds are far from those of training
    """
    tasks = lander_tasks(args.held_out_size, 50_000_000 + 100_000 * seed)
    scorer = sf.FrequencyScorer(tasks, args.episodes, seed=seed, n_envs=32, deterministic=False)
    found = scorer.measure(model)
    return {
        "mean_failure": float(found.frequencies.mean()),
        "often": float((found.frequencies >= 0.5).mean()),
        "success": float(found.success.mean()),
    }


def run(job: Run) -> dict[str, Any]:
    """Train and measure one method.

    :param job: what to run
    """
    args: Settings = job.settings
    show = args.progress_bar and args.jobs == 1
    pool = lander_tasks(args.pool_size, 100_000 * job.seed)
    base = job.folder / "base.zip"
    if job.method == "base":
        env = VecMonitor(pool.make_vec_env(args.n_envs, 10_000 * job.seed))
        model = checkpoint(env, job.seed, PPO_SETTINGS, args.total_timesteps, job.folder / "base", show)
        found = measure(args, model, job.seed)
        save_model(model, base)
        return found
    env = VecMonitor(pool.make_vec_env(args.n_envs, 10_000 * job.seed + 5_000))
    model = METHODS[job.method](base, pool, env, job.seed)
    model.set_logger(configure(str(job.folder / job.method), ["tensorboard"]))
    budget = Budget(args.fine_tune_timesteps)
    replay = [sf.FailureReplay()] if job.method == "replay" else []
    model.learn(args.fine_tune_timesteps, callback=[budget, *replay], progress_bar=show)
    save_model(model, job.folder / f"{job.method}.zip")
    extra: dict[str, Any] = {
        "steps": model.num_timesteps + budget.played,
        "updates": model._n_updates // PPO_SETTINGS["n_epochs"],
    }
    if isinstance(model, sf.ForecastPPO) and model.validation is not None:
        extra["times_harmed"] = model.validation.times_harmed
    if isinstance(model, sf.ForecastPPO) and model.objective is not None:
        scorer = model.objective.scorer
        assert isinstance(scorer, (EpisodeScorer, sf.RolloutScorer))
        extra |= {"calibration": scorer.trust.calibration, "foresight": scorer.trust.foresight}
    return {**measure(args, model, job.seed), **extra}


def report(args: Settings, records: list[Record], console: Console) -> None:
    """Print the table; write table.md and the figure of all seeds.

    :param args: the options
    :param records: what was run
    :param console: where to print
    """
    labels = {method: LABELS[method] for method in ("base", *args.methods)}
    title = f"LunarLander, median of {args.seeds} seed(s); ranges in table.md"
    report_counts(records, labels, OURS, COLUMNS, "crashes", args.output, title, console)


def methods(args: Settings) -> Sequence[str]:
    """The checkpoint first, then the methods that start from it."""
    return ("base", *args.methods)


STUDY = Study("lunar_lander", run, methods, report, ("studies/lunar_lander.py", "studies/cost_only.py", "studies/tools.py"))
