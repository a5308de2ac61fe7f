"""The study of continuous actions: agents of two simulators that tell nothing but a cost, fine-tuned in several ways.

Pushed poles (``studies/pushed_poles.py``), and a pendulum in MuJoCo that stands on a slope in the rare mode. Failures are counted on fresh
tasks, usual ones and rare ones apart, because a rare mode of one task in a hundred would not be seen among few.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from rich.console import Console
from stable_baselines3 import PPO
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import VecEnv, VecMonitor

import sb3_forecast as sf
import sb3_forecast_envs as sfe
from sb3_forecast.scorers.learned.scorer import EpisodeScorer
from studies.cost_only import check_methods, checkpoint, cvar, kept_settings, lagrangian, tuned
from studies.cost_only_report import report_counts
from studies.pushed_poles import PushedPoleTasks
from studies.records import Record
from studies.runner import Run, Study
from studies.statistics import Column
from studies.tools import Budget, save_model

#: decisions of a pendulum's episode
HORIZON = 100


class SeesGravity(gym.ObservationWrapper[NDArray[np.float64], Any, NDArray[np.float64]]):
    """Adds gravity, along the slope and downwards, to what the agent of the pendulum observes.

    :param env: the pendulum
    """

    def __init__(self, env: gym.Env[NDArray[np.float64], Any]) -> None:
        super().__init__(env)
        assert env.observation_space.shape is not None
        self.observation_space = spaces.Box(-np.inf, np.inf, (env.observation_space.shape[0] + 2,), np.float64)

    def observation(self, observation: NDArray[np.float64]) -> NDArray[np.float64]:
        """What the agent sees."""
        gravity: Any = self.env.get_wrapper_attr("model").opt.gravity
        return np.append(observation, [gravity[0], (gravity[2] + 9.81) / 2.0])


def make_pendulum() -> gym.Env[Any, Any]:
    """MuJoCo's pendulum on a cart, for 100 decisions."""
    return SeesGravity(gym.make("InvertedPendulum-v5", max_episode_steps=HORIZON))


def pendulum_tasks(n_tasks: int, seed: int, rare_fraction: float) -> sfe.ContextTasks:
    """Pendulums with a gravity of their own; in the rare mode the ground slopes by 6 to 9 degrees.

    :param n_tasks: number of tasks
    :param seed: seed of the pool
    :param rare_fraction: mass of the rare mode
    """
    return sfe.ContextTasks(
        make_pendulum,
        n_tasks,
        {"model.opt.gravity[2]": sfe.Normal(-9.81, 0.5), "model.opt.gravity[0]": sfe.Normal(0.0, 0.1)},
        sfe.ended_early,
        seed,
        rare={"model.opt.gravity[0]": sfe.Uniform(1.0, 1.6)},
        rare_fraction=rare_fraction,
        identity=f"InvertedPendulum-v5, {HORIZON} steps, sees gravity",
    )


@dataclass(frozen=True)
class Simulator:
    """What is trained in, and how.

    :param tasks: (number, seed, rare fraction) -> pool
    :param rare_fraction: mass of the rare mode
    :param n_envs: environments stepped together
    :param ppo: settings of PPO, for checkpoint and methods alike; the checkpoint's learning rate falls from 1e-3
    :param base_steps: environment steps of the checkpoint
    :param steps: further environment steps of every method
    :param pool_size: training tasks
    :param held_out: fresh usual and fresh rare tasks for the report
    :param scorer: options of the learned scorer
    :param forecast: options of ForecastPPO
    """

    tasks: Callable[[int, int, float], Any]
    rare_fraction: float
    n_envs: int
    ppo: dict[str, Any]
    base_steps: int
    steps: int
    pool_size: int
    held_out: tuple[int, int]
    scorer: dict[str, Any]
    forecast: dict[str, Any]


#: of PPO, for both
_PPO: dict[str, Any] = {"batch_size": 512, "n_epochs": 8, "learning_rate": 3e-4, "gamma": 0.99}
#: of ForecastPPO, for both
_FORECAST: dict[str, Any] = {"p_floor": 1e-6, "full_every": 20, "n_candidates": "risky"}

SIMULATORS = {
    "poles": Simulator(
        tasks=PushedPoleTasks, rare_fraction=0.003, n_envs=128, ppo={"n_steps": 64, **_PPO}, base_steps=600_000, steps=300 * 8192,
        pool_size=8000, held_out=(8000, 2000), scorer={"delay": 3, "probes": 100, "n_envs": 32},
        forecast={"drawn_share": 0.5, **_FORECAST},
    ),
    "pendulum": Simulator(
        tasks=pendulum_tasks, rare_fraction=0.01, n_envs=32, ppo={"n_steps": 256, **_PPO}, base_steps=300_000, steps=800_000,
        pool_size=2000, held_out=(700, 300), scorer={"delay": 3, "probes": 20, "n_envs": 32},
        forecast={**_FORECAST, "full_every": 40},
    ),
}  # fmt: skip

#: what failing costs, where a method has a penalty: about what an episode earns
PENALTY = 10.0

Make = Callable[["Simulator", Path, Any, VecEnv, int], PPO]


def _ppo(simulator: Simulator, base: Path, pool: Any, env: VecEnv, seed: int) -> PPO:
    return tuned(base, env, seed, simulator.ppo, forecast_coef=0.0)


def _lagrangian(simulator: Simulator, base: Path, pool: Any, env: VecEnv, seed: int) -> PPO:
    return lagrangian(base, env, seed, simulator.ppo)


def _cvar(simulator: Simulator, base: Path, pool: Any, env: VecEnv, seed: int) -> PPO:
    return cvar(base, env, seed, simulator.ppo)


def _penalty(simulator: Simulator, base: Path, pool: Any, env: VecEnv, seed: int) -> PPO:
    return tuned(base, sf.CostPenalty(env, PENALTY), seed, simulator.ppo, forecast_coef=0.0)


def _forecast(simulator: Simulator, base: Path, pool: Any, env: VecEnv, seed: int) -> PPO:
    scorer = sf.EpisodeScorer(pool, seed=seed, **simulator.scorer)
    return tuned(base, env, seed, simulator.ppo, scorer=scorer, **simulator.forecast)


def _forecast_penalty(simulator: Simulator, base: Path, pool: Any, env: VecEnv, seed: int) -> PPO:
    return _forecast(simulator, base, pool, sf.CostPenalty(env, PENALTY), seed)


def _forecast_rollouts(simulator: Simulator, base: Path, pool: Any, env: VecEnv, seed: int) -> PPO:
    scorer = sf.RolloutScorer(pool, seed=seed)
    return tuned(base, env, seed, simulator.ppo, scorer=scorer, p_floor=_FORECAST["p_floor"], drawn_share=0.5)


#: methods that play tasks again which failed in training
REPLAYED = ("replay", "replay_bare")

METHODS: dict[str, Make] = {
    "ppo": _ppo,
    "ppo_lagrangian": _lagrangian,
    "cvar_ppo": _cvar,
    "penalty": _penalty,
    "replay": _penalty,
    "replay_bare": _ppo,
    "forecast": _forecast,
    "forecast_penalty": _forecast_penalty,
    "forecast_rollouts": _forecast_rollouts,
}

#: methods of this project
OURS = ("replay", "replay_bare", "forecast", "forecast_penalty", "forecast_rollouts")

LABELS = {
    "base": "checkpoint",
    "ppo": "PPO goes on",
    "ppo_lagrangian": "PPO-Lagrangian",
    "cvar_ppo": "CVaR-PPO",
    "penalty": "PPO, reward - 10 cost",
    "replay": "PPO, reward - 10 cost, FailureReplay",
    "replay_bare": "PPO and FailureReplay",
    "forecast": "ForecastPPO, learned survival",
    "forecast_penalty": "ForecastPPO, reward - 10 cost",
    "forecast_rollouts": "ForecastPPO, RolloutScorer",
}

#: what is measured, by short name
COLUMNS = {
    "failures": Column("mean failure probability", ("mean_failure",), "{:.1e}"),
    "usual": Column("of usual tasks", ("usual_failure",), "{:.1e}"),
    "rare": Column("of rare tasks", ("rare_mean_failure",), "{:.3f}"),
    "often": Column("rare tasks that fail at least every second time", ("rare_often",), "{:.1%}"),
    "success": Column("success", ("success",), "{:.4f}"),
    "rare_success": Column("rare success", ("rare_success",), "{:.3f}"),
    "updates": Column("updates", ("updates",), "{:.0f}"),
    "seconds": Column("seconds", ("seconds",), "{:.0f}"),
}


@dataclass(frozen=True)
class Settings:
    """Fine-tune an agent with continuous actions whose simulator tells nothing but a cost, and compare with what else one could do.

    From a checkpoint of PPO every method gets the same number of further environment steps, scoring, probing and looks at the validation
    included. Failures are counted on fresh tasks, with sampled actions. A run that was stopped goes on when it is started again with the same
    output folder.
    """

    simulator: Literal["poles", "pendulum"] = "poles"
    """Cart-poles that are pushed, or a pendulum in MuJoCo."""
    seeds: int = 1
    """Number of seeds; training and held-out tasks all differ per seed."""
    first_seed: int = 1
    """The first of them."""
    methods: tuple[str, ...] = tuple(METHODS)
    """Which methods to compare."""
    base_steps: int | None = None
    """Environment steps of the checkpoint; None for the simulator's number."""
    steps: int | None = None
    """Further environment steps of every method; None for the simulator's number."""
    pool_size: int | None = None
    """Training tasks; None for the simulator's number."""
    held_out: tuple[int, int] | None = None
    """Fresh usual and fresh rare tasks for the report; None for the simulator's numbers."""
    episodes: int = 2
    """Episodes of each fresh task."""
    output: Path = Path("runs/continuous")
    """Where checkpoints, TensorBoard logs, records, the table and the figure go."""
    jobs: int | Literal["ray"] = 1
    """Seeds run side by side, each in a process with one thread. `ray`: as tasks of the Ray cluster of RAY_ADDRESS, or of this machine."""
    progress_bar: bool = True
    """Show SB3's progress bar (only with one job)."""

    def check(self) -> None:
        """Reject settings that cannot be run, before any work starts."""
        check_methods(self.methods, METHODS)
        for name in ("seeds", "episodes", "base_steps", "steps", "pool_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}; use a positive number")
        if self.held_out is not None and min(self.held_out) < 1:
            raise ValueError(f"held_out must be two numbers of at least 1, got {self.held_out}; use for example 1000 200")
        self.used.tasks(1, 0, 0.0)

    @property
    def used(self) -> Simulator:
        """The simulator, with the sizes that are given."""
        names = ("base_steps", "steps", "pool_size", "held_out")
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return replace(SIMULATORS[self.simulator], **given)

    def kept(self) -> dict[str, Any]:
        """The settings that a result depends on."""
        return kept_settings(self)


def measure(simulator: Simulator, episodes: int, model: Any, seed: int) -> dict[str, Any]:
    """Count failures and successes on fresh tasks, usual and rare ones apart.

    :param simulator: where the agent acts
    :param episodes: episodes of each fresh task
    :param model: the agent
    :param seed: seed of the run; held-out tasks are those of seeds of their own
    """
    found: dict[str, Any] = {}
    for kind, size, first in zip(("usual", "rare"), simulator.held_out, (1_000_000, 2_000_000), strict=True):
        tasks = simulator.tasks(size, first + seed, float(kind == "rare"))
        counted = sf.FrequencyScorer(tasks, episodes, seed=seed, n_envs=64, deterministic=False).measure(model)
        assert counted.frequencies is not None
        found[kind] = counted.frequencies
        # MuJoCo's pendulum has no success of its own: all it has to do is not to fall
        known = counted.success is not None and not np.isnan(counted.success).all()
        found[f"{kind} success"] = counted.success.mean() if known else 1.0 - counted.frequencies.mean()
    mass = simulator.rare_fraction

    def of_all(usual: float, rare: float) -> float:
        return float((1.0 - mass) * usual + mass * rare)

    return {
        "mean_failure": of_all(found["usual"].mean(), found["rare"].mean()),
        "usual_failure": float(found["usual"].mean()),
        "rare_mean_failure": float(found["rare"].mean()),
        "rare_often": float((found["rare"] >= 0.5).mean()),
        "success": of_all(found["usual success"], found["rare success"]),
        "rare_success": float(found["rare success"]),
    }


def run(job: Run) -> dict[str, Any]:
    """Train and measure one method.

    :param job: what to run
    """
    args: Settings = job.settings
    simulator = args.used
    show = args.progress_bar and args.jobs == 1
    pool = simulator.tasks(simulator.pool_size, job.seed, simulator.rare_fraction)
    base = job.folder / "base.zip"
    if job.method == "base":
        env = VecMonitor(pool.make_vec_env(simulator.n_envs, 10_000 * job.seed))
        model = checkpoint(env, job.seed, simulator.ppo, simulator.base_steps, job.folder / "base", show)
        found = measure(simulator, args.episodes, model, job.seed)
        save_model(model, base)
        return found
    env = VecMonitor(pool.make_vec_env(simulator.n_envs, 10_000 * job.seed + 5_000))
    model = METHODS[job.method](simulator, base, pool, env, job.seed)
    model.set_logger(configure(str(job.folder / job.method), ["tensorboard"]))
    budget = Budget(simulator.steps)
    replay = [sf.FailureReplay()] if job.method in REPLAYED else []
    model.learn(simulator.steps, callback=[budget, *replay], progress_bar=show)
    save_model(model, job.folder / f"{job.method}.zip")
    extra: dict[str, Any] = {
        "steps": model.num_timesteps + budget.played,
        "updates": model._n_updates // simulator.ppo["n_epochs"],
    }
    if isinstance(model, sf.ForecastPPO) and model.objective is not None:
        scorer = model.objective.scorer
        assert isinstance(scorer, (EpisodeScorer, sf.RolloutScorer))
        assert model.validation is not None
        extra |= {"calibration": scorer.trust.calibration, "foresight": scorer.trust.foresight}
        extra["times_harmed"] = model.validation.times_harmed
    return {**measure(simulator, args.episodes, model, job.seed), **extra}


def report(args: Settings, records: list[Record], console: Console) -> None:
    """Print the table; write table.md and the figure of all seeds.

    :param args: the options
    :param records: what was run
    :param console: where to print
    """
    labels = {method: LABELS[method] for method in ("base", *args.methods)}
    title = f"{args.simulator}, median of {args.seeds} seed(s); ranges in table.md"
    report_counts(records, labels, OURS, COLUMNS, "failures", args.output, title, console)


def methods(args: Settings) -> Sequence[str]:
    """The checkpoint first, then the methods that start from it."""
    return ("base", *args.methods)


STUDY = Study(
    "continuous", run, methods, report,
    ("studies/continuous.py", "studies/pushed_poles.py", "studies/cost_only.py", "studies/tools.py"),
)  # fmt: skip
