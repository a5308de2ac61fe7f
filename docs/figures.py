"""Draws the figures of docs/statistics.md and docs/environments.md.

make figures
"""

import sys
import textwrap
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
# it holds the package `studies`
sys.path.insert(0, str(ROOT))

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from minigrid.core.grid import Grid

import sb3_forecast_envs as sfe
from sb3_forecast import GumbelTail
from sb3_forecast.statistics.figures import BLACK, BLUE, GREEN, ORANGE, PINK, SKY
from sb3_forecast.statistics.plots import return_level_plot, spacing_plot, stability_plot, tail_plot
from sb3_forecast.statistics.words import probability_in_words
from studies import continuous, cost_only_report, lunar_lander
from studies.gridworld_methods import LABELS
from studies.records import read_records


def families(path: Path) -> None:
    """A common and a rare task of every family, failing cells framed in red."""
    names = ["ThinIce", "Bridge", "Decoy", "Vault", "Wind"]
    figure = Figure(figsize=(11, 4.7), layout="constrained")
    axes = figure.subplots(2, len(names))
    for column, name in enumerate(names):
        for row, (mode, share) in enumerate((("common", 0.0), ("rare", 1.0))):
            pool = sfe.TaskPool(f"{name}-8x8", 6, seed=2, rare_fraction=share)
            task = pool[5]
            x, y, direction = task.start
            ax = axes[row, column]
            ax.imshow(sfe.render_state(pool.family, task, (x, y), direction, 48))
            ax.set_axis_off()
            ax.set_title(f"{name}, {mode}", fontsize=10)
    figure.savefig(path, dpi=90)


def cells(path: Path) -> None:
    """A legend: every cell as MiniGrid draws it, with its name and what it does."""
    shown = {
        "goal: success": sfe.GOAL,
        "lava: failure": sfe.LAVA,
        "thin ice: failure": sfe.THIN_ICE,
        "decoy: looks like a goal, failure": sfe.DECOY,
        "gust: pushes sideways": sfe.GUST,
        "closed door": sfe.CLOSED_DOOR,
        "locked door": sfe.LOCKED_DOOR,
        "key": sfe.KEY,
    }
    figure = Figure(figsize=(11, 1.9), layout="constrained")
    for ax, (name, cell) in zip(figure.subplots(1, len(shown)), shown.items(), strict=True):
        grid = Grid(3, 3)
        assert cell.make is not None
        grid.set(1, 1, cell.make())
        ax.imshow(grid.render(48, (0, 0), 0)[48:96, 48:96])
        ax.set_axis_off()
        ax.set_title("\n".join(textwrap.wrap(name, 16)), fontsize=9)
    figure.savefig(path, dpi=90)


#: one colour for each method, everywhere
COLOURS = {"ppo": BLACK, "ppo_lagrangian": PINK, "mean_failure_equipped": GREEN, "forecast": ORANGE}
FAMILIES = {
    "ThinIce": "families_thin_ice",
    "Decoy": "families_decoy",
    "Bridge": "families_bridge",
    "ThinIce 12x12": "families_thin_ice_12",
    "Wind": "families_wind",
}


def dots(ax: Axes, x: float, values: list[float], colour: str, label: str | None, half: float) -> None:
    """One dot for each seed, and a bar at the median."""
    ax.plot([x] * len(values), values, "o", ms=4, color=colour, alpha=0.55)
    ax.plot([x - half, x + half], [float(np.median(values))] * 2, "-", lw=3, color=colour, label=label)


def what_training_does(path: Path) -> None:
    """From the records: where the limit holds, the worst task and the success, per family and method; dots are seeds, bars medians."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    panels = figure.subplots(1, 3)
    for place, folder in enumerate(FAMILIES.values()):
        records = read_records(ROOT / "studies" / "records" / folder)
        start = {r.seed: r.result["success"] for r in records if r.method == "base"}
        for offset, (method, colour) in enumerate(COLOURS.items()):
            mine = [r.result | {"seed": r.seed} for r in records if r.method == method]
            values = (
                [entry["limit_holds"] for entry in mine],
                [entry["worst_failure"] for entry in mine],
                [entry["success"] - start[entry["seed"]] for entry in mine],
            )
            x = place + (offset - 1.5) * 0.17
            for ax, column in zip(panels, values, strict=True):
                dots(ax, x, column, colour, LABELS[method] if place == 0 else None, 0.06)
    for ax, title in zip(
        panels, ("95% limit holds", "worst task's failure probability", "success, minus checkpoint"), strict=True
    ):
        ax.set_title(title, fontsize=10)
        ax.set_xticks(range(len(FAMILIES)), FAMILIES, fontsize=8, rotation=20)
        ax.grid(alpha=0.2, axis="y")
    panels[0].axhline(0.95, color=BLUE, lw=1, ls="--")
    panels[1].set_yscale("log")
    marks = [1.0, 1e-3, 1e-6, 1e-9]
    panels[1].set_yticks(marks, ["1", *(probability_in_words(p) for p in marks[1:])], fontsize=8)
    panels[2].axhline(0.0, color=BLUE, lw=1, ls="--")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9)
    figure.savefig(path, dpi=110)


def decoy_training(path: Path) -> None:
    """From the records: what training does on Decoy, seed 1."""
    curves: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for record in read_records(ROOT / "studies" / "records" / "families_decoy"):
        if record.seed == 1 and record.method in COLOURS:
            for quantity, points in record.result["curves"].items():
                curves.setdefault(quantity, {})[record.method] = [(step, value) for step, value in points]
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    panels = figure.subplots(1, len(curves))
    for ax, (quantity, methods) in zip(panels, curves.items(), strict=True):
        for method, colour in COLOURS.items():
            steps, values = zip(*methods[method], strict=True)
            ax.plot(np.array(steps) / 1e3, values, lw=1.6, color=colour, label=LABELS[method])
        if quantity != "success":
            ax.set_yscale("log")
        ax.set_title(quantity, fontsize=10)
        ax.set_xlabel("environment steps (thousands)")
        ax.grid(alpha=0.2)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9)
    figure.savefig(path, dpi=110)


#: one colour for each method of the password game
PROMPT_COLOURS = {
    "start": ("starting model", BLUE),
    "primary": ("primary task only", BLACK),
    "refusal_sft": ("refusal SFT", PINK),
    "cvar": ("CVaR, worst 5%", SKY),
    "worst_prompt": ("worst prompt only", GREEN),
    "forecast": ("ForecastTrainer", ORANGE),
}


def prompts(folder: str, path: Path) -> None:
    """From the records: forecasts that are too low, worst leak and accuracy of the methods of the password game."""
    records = read_records(ROOT / "studies" / "records" / folder)
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    panels = figure.subplots(1, 3)
    shown = [method for method in PROMPT_COLOURS if any(r.method == method for r in records)]
    for place, method in enumerate(shown):
        name, colour = PROMPT_COLOURS[method]
        for ax, quantity in zip(panels, ("under_predicted", "worst_failure", "primary_accuracy"), strict=True):
            column = [r.result[quantity] for r in records if r.method == method]
            dots(ax, place, column, colour, name, 0.25)
    for ax, title in zip(
        panels,
        ("forecast too low, share of splits", "worst prompt's probability of a leak", "accuracy on the primary task"),
        strict=True,
    ):
        ax.set_title(title, fontsize=10)
        ax.set_xticks([])
        ax.grid(alpha=0.2, axis="y")
    panels[0].axhline(0.5, color=BLUE, lw=1, ls="--")
    panels[1].set_yscale("log")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(shown), fontsize=9)
    figure.savefig(path, dpi=110)


#: deployments of the study of active evaluation
DEPLOYMENTS = {
    "ThinIce": "active_thin_ice",
    "Decoy": "active_decoy",
    "Bridge": "active_bridge",
    "Wind": "active_wind",
    "Vault": "active_vault",
    "cart-poles": "active_cart_pole",
    "password game": "active_password_game",
}


def active(path: Path) -> None:
    """From the records: what active evaluation finds with 1,000 scores, beside a random sample."""
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    panels = figure.subplots(1, 2)
    for place, folder in enumerate(DEPLOYMENTS.values()):
        records = read_records(ROOT / "studies" / "records" / folder)
        for offset, (method, name, colour) in enumerate((("random_1000", "random", BLACK), ("active_1000", "active", ORANGE))):
            for ax, quantity in zip(panels, ("rare_factor", "worst_within"), strict=True):
                column = [r.result[quantity] for r in records if r.method == method]
                dots(ax, place + (offset - 0.5) * 0.3, column, colour, name if place == 0 else None, 0.1)
    for ax, title in zip(
        panels, ("rare tasks found, times their share", "worst task found, share of repetitions"), strict=True
    ):
        ax.set_title(title, fontsize=10)
        ax.set_xticks(range(len(DEPLOYMENTS)), DEPLOYMENTS, fontsize=8, rotation=20)
        ax.grid(alpha=0.2, axis="y")
    panels[0].set_yscale("log")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=9)
    figure.savefig(path, dpi=110)


def counted(folder: str, study: ModuleType, column: str, methods: tuple[str, ...], path: Path) -> None:
    """From the records: failures of the methods of a study that counts them; dots are seeds, bars medians.

    :param folder: of the records
    :param study: the module of the study
    :param column: what is drawn, by short name
    :param methods: from top to bottom
    :param path: the file
    """
    labels = {method: study.LABELS[method] for method in methods}
    cost_only_report.dots(read_records(ROOT / "studies" / "records" / folder), labels, study.OURS, study.COLUMNS[column], path)


if __name__ == "__main__":
    folder = Path(__file__).parent / "figures"
    scores = 0.6 * np.random.default_rng(0).gumbel(size=500) - 2.5
    tail = GumbelTail.fit(scores)
    families(folder / "families.png")
    cells(folder / "cells.png")
    what_training_does(folder / "training.png")
    decoy_training(folder / "decoy_training.png")
    active(folder / "active.png")
    usual = ("base", "ppo", "ppo_lagrangian", "cvar_ppo")
    counted(
        "lunar_lander",
        lunar_lander,
        "crashes",
        (*usual, "replay", "forecast", "forecast_rollouts"),
        folder / "lunar_lander.png",
    )
    counted(
        "continuous_poles", continuous, "failures", (*usual, "replay", "forecast_penalty"), folder / "continuous_poles.png"
    )
    counted(
        "continuous_pendulum",
        continuous,
        "failures",
        (*usual, "replay_bare", "forecast", "forecast_rollouts"),
        folder / "continuous_pendulum.png",
    )
    for study in ("password_game", "smollm2"):
        prompts(study, folder / f"{study}.png")
    tail_plot(tail, [1e3, 1e5, 1e7], path=folder / "tail.png")
    spacing_plot(tail, folder / "spacings.png")
    stability_plot(scores, 1e6, path=folder / "stability.png")
    return_level_plot(tail, path=folder / "return_level.png")
