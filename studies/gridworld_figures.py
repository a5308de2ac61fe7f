"""Figures of the gridworld study: tails before and after, training, worst tasks before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import sb3_forecast as sf
import sb3_forecast_envs as sfe
from sb3_forecast.measuring.plots import tail_comparison, training_curves
from sb3_forecast.scorers.actor import Actor
from studies.gridworld_methods import LABELS
from studies.tools import load_as_ppo


def draw_figures(
    output: Path,
    folder: Path,
    held_out: sfe.TaskPool,
    settings: Any,
    seed: int,
    curves: Mapping[str, Mapping[str, Sequence[Sequence[float]]]],
) -> None:
    """Draw the figures of one seed.

    :param output: where to
    :param folder: the seed's checkpoints
    :param held_out: its held-out tasks
    :param settings: the study's options
    :param seed: the seed
    :param curves: what was watched during training, by method
    """
    shown = [name for name in ("ppo", "forecast") if name in settings.methods] or list(settings.methods[-1:])
    models = {LABELS[name]: load_as_ppo(folder / f"{name}.zip") for name in shown}
    scorer = sf.ExactScorer(held_out)
    sizes = (settings.eval_size, settings.splits, seed, settings.deploy_size, settings.k)
    reports = {title: sf.evaluate_forecast(model, held_out, *sizes, scorer=scorer) for title, model in models.items()}
    tail_comparison(reports, output / "forecast.png")
    film = sf.record_side_by_side(models, held_out, 2, output / "side_by_side.gif", scorer, seed)
    last = list(reports.values())[-1]
    last.to_html(
        output / "report.html",
        f"{settings.family}, seed {seed}: {' and '.join(models)}",
        before=next(iter(reports.values())) if len(reports) > 1 else None,
        recording=film,
        settings={
            "command": f"python examples/train_gridworld.py --methods {' '.join(settings.methods)} --first-seed {seed}",
            **settings.kept(),
        },
    )
    by_quantity: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for method in settings.methods:
        for quantity, points in curves.get(method, {}).items():
            by_quantity.setdefault(quantity, {})[LABELS[method]] = [(step, value) for step, value in points]
    training_curves(by_quantity, output / "training.png")
    rows = [
        (f"{title}: the tasks that it fails most", np.argsort(-reports[title].scores)[:6].tolist(), _agent(model))
        for title, model in models.items()
    ]
    sfe.draw_tasks(held_out, rows, output / "worst_tasks.png")


def _agent(model: Any) -> Any:
    actor = Actor(model, 3)
    return lambda observations: actor.log_probabilities(observations).exp().detach().numpy()
