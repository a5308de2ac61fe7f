"""The off-policy study: a SAC agent of the pushed poles, fine-tuned with a failure critic in its actor's optimizer, and without.

Everything but the algorithm is as in ``studies/continuous.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import VecEnv, VecMonitor

import sb3_forecast as sf
import sb3_forecast_envs as sfe
from sb3_forecast_envs.cart_pole import physics as cp
from studies.continuous import COLUMNS, PENALTY, SIMULATORS, measure
from studies.cost_only import check_methods, kept_settings
from studies.cost_only_report import report_counts
from studies.failure_critic import FailureCriticCallback, Ledger
from studies.records import Record
from studies.runner import Run, Study
from studies.tools import save_model

#: of SAC, for checkpoint and methods alike: an update of the networks for every eight steps
SAC_SETTINGS: dict[str, Any] = {
    "learning_starts": 2000,
    "train_freq": 1,
    "gradient_steps": 4,
    "batch_size": 256,
    "buffer_size": 400_000,
    "gamma": 0.99,
    "learning_rate": 3e-4,
    "policy_kwargs": {"net_arch": [64, 64]},
}
#: environments stepped together
N_ENVS = 32


def _forecast(pool: sfe.CartPoleTasks, ledger: Ledger, seed: int) -> list[BaseCallback]:
    firsts = cp.observe(pool.parameters[:, cp.START], pool.parameters, np.zeros(len(pool), dtype=np.int64))
    loss = sf.ForecastLoss(eval_size=200, k=10, n_partitions=128, p_floor=1e-6)
    return [FailureCriticCallback(ledger, np.asarray(firsts, dtype=np.float32), loss, seed=seed)]


def _replay(pool: sfe.CartPoleTasks, ledger: Ledger, seed: int) -> list[BaseCallback]:
    return [sf.FailureReplay()]


def _both(pool: sfe.CartPoleTasks, ledger: Ledger, seed: int) -> list[BaseCallback]:
    return [*_replay(pool, ledger, seed), *_forecast(pool, ledger, seed)]


#: callbacks of each method
METHODS: dict[str, Callable[[sfe.CartPoleTasks, Ledger, int], list[BaseCallback]]] = {
    "sac": lambda pool, ledger, seed: [],
    "penalty": lambda pool, ledger, seed: [],
    "replay": _replay,
    "forecast": _forecast,
    "forecast_replay": _both,
}

#: methods in which a failure costs
PENALISED = ("penalty", "replay", "forecast_replay")
#: methods of this project
OURS = ("replay", "forecast", "forecast_replay")

LABELS = {
    "base": "checkpoint",
    "sac": "SAC goes on",
    "penalty": "SAC, reward - 10 cost",
    "replay": "SAC, reward - 10 cost, FailureReplay",
    "forecast": "SAC and failure critic",
    "forecast_replay": "SAC, reward - 10 cost, FailureReplay, failure critic",
}


@dataclass(frozen=True)
class Settings:
    """Fine-tune a SAC agent of the pushed poles whose simulator tells nothing but a cost.

    From a checkpoint of SAC, with its replay buffer, every method gets the same number of further environment steps and of updates of the
    networks. Failures are counted on fresh tasks, with sampled actions. A run that was stopped goes on when it is started again with the same
    output folder.
    """

    seeds: int = 1
    """Number of seeds; training and held-out tasks all differ per seed."""
    first_seed: int = 1
    """The first of them."""
    methods: tuple[str, ...] = tuple(METHODS)
    """Which methods to compare."""
    base_steps: int = 200_000
    """Environment steps of the checkpoint."""
    steps: int = 200_000
    """Further environment steps of every method."""
    pool_size: int = 8000
    """Training tasks."""
    held_out: tuple[int, int] = (8000, 2000)
    """Fresh usual and fresh rare tasks for the report."""
    episodes: int = 2
    """Episodes of each fresh task."""
    output: Path = Path("runs/off_policy")
    """Where checkpoints, TensorBoard logs, records, the table and the figure go."""
    jobs: int | Literal["ray"] = 1
    """Seeds run side by side, each in a process with one thread. `ray`: as tasks of the Ray cluster of RAY_ADDRESS, or of this machine."""
    progress_bar: bool = True
    """Show SB3's progress bar (only with one job)."""

    def check(self) -> None:
        """Reject settings that cannot be run, before any work starts."""
        check_methods(self.methods, METHODS)
        for name in ("seeds", "base_steps", "steps", "pool_size", "episodes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}; use a positive number")
        if min(self.held_out) < 1:
            raise ValueError(f"held_out must be two numbers of at least 1, got {self.held_out}; use for example 1000 200")

    def kept(self) -> dict[str, Any]:
        """The settings that a result depends on."""
        return kept_settings(self)


def _env(pool: sfe.CartPoleTasks, seed: int, penalty: bool) -> VecEnv:
    env = VecMonitor(pool.make_vec_env(N_ENVS, seed))
    return sf.CostPenalty(env, PENALTY) if penalty else env


def run(job: Run) -> dict[str, Any]:
    """Train and measure one method.

    :param job: what to run
    """
    args: Settings = job.settings
    show = args.progress_bar and args.jobs == 1
    simulator = replace(SIMULATORS["poles"], held_out=args.held_out)
    pool = simulator.tasks(args.pool_size, job.seed, simulator.rare_fraction)
    base, buffer, written = (job.folder / name for name in ("base.zip", "buffer.pkl", "ledger.npz"))
    penalised = job.method in PENALISED
    callbacks: list[BaseCallback] = []
    if job.method == "base":
        env = _env(pool, 10_000 * job.seed, penalised)
        model = SAC("MlpPolicy", env, seed=job.seed, device="cpu", **SAC_SETTINGS)
        steps, begin = args.base_steps, 0
        ledger = Ledger.empty(SAC_SETTINGS["buffer_size"], N_ENVS)
    else:
        env = _env(pool, 10_000 * job.seed + 5_000, penalised)
        model = SAC.load(base, env=env, device="cpu")
        model.set_random_seed(job.seed + 1)
        model.load_replay_buffer(buffer)
        ledger = Ledger(**np.load(written))
        assert model.replay_buffer is not None
        if penalised:
            # the checkpoint's steps cost as much as those to come
            model.replay_buffer.rewards -= PENALTY * ledger.costs
        steps, begin = args.steps, model._n_updates
        callbacks = METHODS[job.method](pool, ledger, job.seed)
    model.set_logger(configure(str(job.folder / job.method), ["tensorboard"]))
    model.learn(steps, callback=[ledger, *callbacks], progress_bar=show)
    found = measure(simulator, args.episodes, model, job.seed)
    if job.method == "base":
        model.save_replay_buffer(buffer)
        np.savez(written, tasks=ledger.tasks, costs=ledger.costs)
    save_model(model, job.folder / f"{job.method}.zip")
    return {**found, "steps": model.num_timesteps, "updates": model._n_updates - begin}


def report(args: Settings, records: list[Record], console: Console) -> None:
    """Print the table; write table.md and the figure of all seeds.

    :param args: the options
    :param records: what was run
    :param console: where to print
    """
    labels = {method: LABELS[method] for method in ("base", *args.methods)}
    title = f"SAC on pushed poles, median of {args.seeds} seed(s); ranges in table.md"
    report_counts(records, labels, OURS, COLUMNS, "failures", args.output, title, console)


def methods(args: Settings) -> Sequence[str]:
    """The checkpoint first, then the methods that start from it."""
    return ("base", *args.methods)


STUDY = Study(
    "off_policy", run, methods, report,
    ("studies/off_policy.py", "studies/failure_critic.py", "studies/continuous.py", "studies/pushed_poles.py", "studies/tools.py"),
)  # fmt: skip
