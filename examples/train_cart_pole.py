"""Fine-tune a cart-pole agent whose simulator tells nothing but a cost, and compare with what else one could do.

Tasks are cart-poles with physics of their own; in the rare mode (3 in 1,000) a strong wind blows. A base agent is trained with PPO. Then,
each from that checkpoint and with the same number of further environment steps: PPO, PPO-Lagrangian, CVaR-PPO, and ForecastPPO by
learned survival, whose scoring and probing episodes count as steps. The pole falls some decisions after the mistake, so that costs come late.

Held-out tasks are scored by the true physics (unbiased survival scores, which no method sees); success is counted in one episode per task. A
run that was stopped goes on where it was when started again with the same output folder.

    python examples/train_cart_pole.py --seeds 3 --output runs/cart_pole
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table
from stable_baselines3 import PPO
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import VecEnv, VecMonitor
from study_tools import Budget, Columns, claim_folder, markdown_table, medians, read_json, save_atomically, write_json

import sb3_forecast as sf
import sb3_forecast_envs as sfe
from sb3_forecast.plots import tail_comparison

#: PPO for 128 environments; the base agent's learning rate falls from 1e-3 to 0
PPO_SETTINGS: dict[str, Any] = {
    "n_steps": 64,
    "batch_size": 512,
    "n_epochs": 8,
    "learning_rate": 3e-4,
    "gamma": 0.99,
}

Make = Callable[[Path, sfe.CartPoleTasks, VecEnv, int], PPO]


def _tuned(base: Path, env: VecEnv, seed: int, **arguments: Any) -> PPO:
    rate = PPO_SETTINGS["learning_rate"]
    return sf.ForecastPPO.from_ppo(base, env, device="cpu", seed=seed + 1, learning_rate=rate, **arguments)


def _ppo(base: Path, pool: sfe.CartPoleTasks, env: VecEnv, seed: int) -> PPO:
    return _tuned(base, env, seed, forecast_coef=0.0)


def _lagrangian(base: Path, pool: sfe.CartPoleTasks, env: VecEnv, seed: int) -> PPO:
    model = sf.PPOLagrangian(
        "MlpPolicy", env, multiplier=10.0, multiplier_lr=30.0, seed=seed + 1, device="cpu", **PPO_SETTINGS
    )
    # the cost critic starts fresh, everything else from the checkpoint
    model.set_parameters(PPO.load(base, device="cpu").get_parameters(), exact_match=False, device="cpu")
    return model


def _cvar(base: Path, pool: sfe.CartPoleTasks, env: VecEnv, seed: int) -> PPO:
    model = sf.CVaRPPO("MlpPolicy", env, alpha=0.05, weight=1.0, seed=seed + 1, device="cpu", **PPO_SETTINGS)
    model.set_parameters(PPO.load(base, device="cpu").get_parameters(), exact_match=True, device="cpu")
    return model


def _forecast(base: Path, pool: sfe.CartPoleTasks, env: VecEnv, seed: int) -> PPO:
    scorer = sf.EpisodeScorer(pool, delay=3, probes=200, seed=seed, n_envs=32)
    return _tuned(base, env, seed, scorer=scorer, eval_size=max(len(pool) // 20, 20), forecast_coef=1.0, full_every=20)


#: with the settings chosen on seeds 100 and 101, see docs/model_free.md
METHODS: dict[str, Make] = {"ppo": _ppo, "ppo_lagrangian": _lagrangian, "cvar_ppo": _cvar, "forecast": _forecast}

LABELS = {
    "base": "checkpoint",
    "ppo": "PPO goes on",
    "ppo_lagrangian": "PPO-Lagrangian",
    "cvar_ppo": "CVaR-PPO",
    "forecast": "ForecastPPO, learned survival",
}

COLUMNS: Columns = {
    "forecast error": (("error", "mean_abs"), "{:.2f}"),
    "under-predicted": (("under_predicted",), "{:.0%}"),
    "worst p": (("worst_failure",), "{:.1e}"),
    "mean p": (("mean_failure",), "{:.1e}"),
    "rare mean p": (("rare_mean_failure",), "{:.1e}"),
    "success": (("success",), "{:.4f}"),
    "rare success": (("rare_success",), "{:.3f}"),
    "seconds": (("seconds",), "{:.0f}"),
}


@dataclass(frozen=True)
class Arguments:
    """Command line of the cart-pole study."""

    seeds: int = 1
    """Number of seeds; pool, training and held-out tasks all differ per seed."""
    first_seed: int = 1
    """The first of them."""
    methods: tuple[str, ...] = field(default=tuple(METHODS))
    """Which methods to compare."""
    total_timesteps: int = 2_100_000
    """Environment steps of the base agent."""
    fine_tune_timesteps: int = 300 * 8192
    """Further environment steps of every method, those of scoring and probing included."""
    count_scoring: bool = True
    """Whether the steps of scoring and probing use up fine_tune_timesteps; if not, all methods get the same updates."""
    pool_size: int = 8000
    """Training tasks."""
    held_out_size: int = 8000
    """Fresh tasks for the report."""
    rare_fraction: float = 0.003
    """Mass of the rare mode."""
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
    output: Path = Path("runs/cart_pole")
    """Where checkpoints, TensorBoard logs, report.json and the figure go."""
    progress_bar: bool = True
    """Show SB3's progress bar."""

    def check(self) -> None:
        """Reject arguments before any work starts."""
        unknown = [method for method in self.methods if method not in METHODS]
        if unknown:
            raise ValueError(f"methods={unknown} are unknown; choose from {list(METHODS)}")
        for name in ("seeds", "pool_size", "held_out_size", "splits", "n_envs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} does nothing; use {name} >= 1")
        if self.eval_size + self.deploy_size > self.held_out_size:
            raise ValueError(
                f"eval_size + deploy_size = {self.eval_size + self.deploy_size} exceeds held_out_size={self.held_out_size}; raise held_out_size"
            )


def measure(args: Arguments, model: PPO, seed: int) -> sf.ForecastReport:
    """Held-out forecast error by the true physics, and success by counting.

    :param args: the command line
    :param model: the agent
    :param seed: seed of the run; held-out tasks are those of a seed of their own
    """
    tasks = sfe.CartPoleTasks(args.held_out_size, 1_000_000 + seed, args.rare_fraction)
    scorer = sf.SurvivalScorer(tasks, episodes=8, seed=seed)
    return sf.evaluate_forecast(model, tasks, args.eval_size, args.splits, seed, args.deploy_size, args.k, "jones", scorer)


def run_seed(args: Arguments, seed: int) -> None:
    """Train and measure every method for one seed; finished parts are kept and not repeated."""
    folder = args.output / f"seed{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    pool = sfe.CartPoleTasks(args.pool_size, seed, args.rare_fraction)
    base = folder / "base.zip"
    if not base.exists():
        start = time.perf_counter()
        env = VecMonitor(pool.make_vec_env(args.n_envs, 10_000 * seed))
        falling = {**PPO_SETTINGS, "learning_rate": lambda left: 1e-3 * left}
        model = PPO("MlpPolicy", env, seed=seed, device="cpu", **falling)
        model.set_logger(configure(str(folder / "base"), ["tensorboard"]))
        model.learn(args.total_timesteps, progress_bar=args.progress_bar)
        seconds = time.perf_counter() - start
        write_json(folder / "base.json", {**measure(args, model, seed).to_dict(), "seconds": seconds})
        save_atomically(model, base)
    for method in args.methods:
        result = folder / f"{method}.json"
        if result.exists():
            continue
        start = time.perf_counter()
        env = VecMonitor(pool.make_vec_env(args.n_envs, 10_000 * seed + 5_000))
        model = METHODS[method](base, pool, env, seed)
        model.set_logger(configure(str(folder / method), ["tensorboard"]))
        budget = Budget(args.fine_tune_timesteps, args.count_scoring)
        model.learn(args.fine_tune_timesteps, callback=budget, progress_bar=args.progress_bar)
        seconds = time.perf_counter() - start
        save_atomically(model, folder / f"{method}.zip")
        steps = model.num_timesteps + budget.played
        extra: dict[str, Any] = {"seconds": seconds, "steps": steps, "updates": model._n_updates // PPO_SETTINGS["n_epochs"]}
        if isinstance(model, sf.ForecastPPO) and model.objective is not None:
            scorer = model.objective.scorer
            assert isinstance(scorer, sf.EpisodeScorer)
            extra |= {"calibration": scorer.trust.calibration, "foresight": scorer.trust.foresight}
        write_json(result, {**measure(args, model, seed).to_dict(), **extra})


def write_report(args: Arguments, settings: dict[str, Any], command: str, console: Console) -> None:
    """Print the table; write table.md, report.json and the figure of the first seed's tails."""
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    results = {
        LABELS[name]: [read_json(args.output / f"seed{seed}" / f"{name}.json") for seed in seeds]
        for name in ("base", *args.methods)
    }
    table = Table(title=f"Held-out cart-poles, median of {args.seeds} seed(s); ranges in table.md")
    table.add_column("")
    for column in COLUMNS:
        table.add_column(column, justify="right")
    for name, rows in results.items():
        middle = medians(rows, COLUMNS)
        table.add_row(name, *(form.format(middle[column]) for column, (_, form) in COLUMNS.items()))
    # eight columns need this much; a narrower terminal wraps
    (console if console.width >= 140 else Console(width=140)).print(table)
    (args.output / "table.md").write_text(markdown_table(results, COLUMNS), encoding="utf-8")
    write_json(
        args.output / "report.json", {"command": command, "settings": settings, "seeds": list(seeds), "results": results}
    )
    folder = args.output / f"seed{args.first_seed}"
    shown = [name for name in ("ppo", "forecast") if name in args.methods] or args.methods[-1:]
    # a checkpoint of any method is a PPO policy; its extra attributes are not needed to look at it
    models = {
        LABELS[name]: PPO.load(folder / f"{name}.zip", device="cpu", custom_objects={"forecast_state": None}) for name in shown
    }
    tail_comparison(
        {name: measure(args, model, args.first_seed) for name, model in models.items()}, args.output / "forecast.png"
    )


def main(args: Arguments) -> None:
    """Run the study and write the report."""
    args.check()
    console = Console()
    settings = {**asdict(args), "output": str(args.output), "methods": list(args.methods)}
    changeable = ("seeds", "first_seed", "methods", "output", "progress_bar")
    claim_folder(args.output, settings, [name for name in settings if name not in changeable])
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        console.rule(f"seed {seed}")
        run_seed(args, seed)
    command = "python " + " ".join(shlex.quote(word) for word in sys.argv)
    write_report(args, settings, command, console)
    console.print(f"\nReport, figure and checkpoints are in [bold]{args.output}[/bold].")


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
