"""Table, report.json and figures of train_gridworld.py, from the result files of its runs."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from gridworld_methods import LABELS
from rich.console import Console
from rich.table import Table
from stable_baselines3 import PPO
from study_tools import Columns, markdown_table, medians, read_json, write_json

import sb3_forecast as sf
import sb3_forecast_envs as sfe
from sb3_forecast.plots import tail_comparison, training_curves
from sb3_forecast.scorers.policies import Actor

#: column -> how to read it from a result, and how to print it
COLUMNS: Columns = {
    "forecast error": (("error", "mean_abs"), "{:.3f}"),
    "/ scale": (("error_in_scale", "mean_abs"), "{:.1f}"),
    "signed": (("error", "signed"), "{:+.3f}"),
    "under-predicted": (("under_predicted",), "{:.0%}"),
    "worst p": (("worst_failure",), "{:.1e}"),
    "rare mean p": (("rare_mean_failure",), "{:.1e}"),
    "success": (("success",), "{:.4f}"),
    "rare success": (("rare_success",), "{:.3f}"),
    "seconds": (("seconds",), "{:.0f}"),
}


def write_report(
    output: Path, seeds: list[int], methods: list[str], settings: dict[str, Any], command: str, console: Console
) -> None:
    """Print the table; write report.json, table.md and the figures.

    :param output: the study's folder
    :param seeds: seeds that were run
    :param methods: methods that were run
    :param settings: the study's settings
    :param command: the command line
    :param console: where to print
    """
    results = {name: [read_json(output / f"seed{seed}" / f"{name}.json") for seed in seeds] for name in ["base", *methods]}
    title = f"Held-out: {settings['splits']} splits {settings['eval_size']}/{settings['deploy_size']} of {settings['held_out_size']} tasks"
    table = Table(title=f"{title}; median of {len(seeds)} seed(s), ranges in table.md")
    table.add_column("", no_wrap=True)
    for name in results:
        table.add_column(LABELS[name], justify="right", min_width=7)
    middle = {name: medians(rows, COLUMNS) for name, rows in results.items()}
    for column, (_, form) in COLUMNS.items():
        table.add_row(column, *(form.format(values[column]) for values in middle.values()))
    # seven methods side by side need this much; a narrower terminal wraps
    (console if console.width >= 112 else Console(width=112)).print(table)
    labelled = {LABELS[name]: rows for name, rows in results.items()}
    (output / "table.md").write_text(markdown_table(labelled, COLUMNS), encoding="utf-8")
    versions = {package: version(package) for package in ("stable-baselines3", "gymnasium", "minigrid", "torch", "numpy")}
    write_json(
        output / "report.json",
        {
            "command": command,
            "settings": {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()},
            "versions": {"python": platform.python_version(), **versions},
            "medians": middle,
            "seeds": {str(seed): {name: rows[i] for name, rows in results.items()} for i, seed in enumerate(seeds)},
        },
    )
    _figures(output, seeds[0], methods, settings)


def _figures(output: Path, seed: int, methods: list[str], settings: dict[str, Any]) -> None:
    """Figures of one seed: tails before and after, training, worst tasks before and after."""
    folder = output / f"seed{seed}"
    held_out = sfe.TaskPool(settings["family"], settings["held_out_size"], 1_000_000 + seed, settings["rare_fraction"])
    scorer = sf.ExactScorer(held_out)
    shown = [name for name in ("ppo", "forecast") if name in methods] or methods[-1:]
    models = {LABELS[name]: PPO.load(folder / f"{name}.zip", device="cpu", custom_objects=_AS_PPO) for name in shown}
    reports = {
        title: sf.evaluate_forecast(
            model,
            held_out,
            settings["eval_size"],
            settings["splits"],
            seed,
            settings["deploy_size"],
            settings["k"],
            "jones",
            scorer,
        )
        for title, model in models.items()
    }
    tail_comparison(reports, output / "forecast.png")
    curves: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for name in methods:
        for quantity, points in read_json(folder / f"{name}.json")["curves"].items():
            curves.setdefault(quantity, {})[LABELS[name]] = [(step, value) for step, value in points]
    training_curves(curves, output / "training.png")
    rows = [
        (f"{title}: the tasks that it fails most", np.argsort(-reports[title].scores)[:6].tolist(), _agent(model))
        for title, model in models.items()
    ]
    sfe.draw_tasks(held_out, rows, output / "worst_tasks.png")


#: a checkpoint of any method is a PPO policy; its extra attributes are not needed to look at it
_AS_PPO: dict[str, Any] = {"forecast_state": None}


def _agent(model: PPO) -> Any:
    actor = Actor(model, 3)
    return lambda observations: actor.log_probabilities(observations).exp().detach().numpy()
