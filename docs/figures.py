"""Draws the figures of docs/statistics.md and docs/environments.md.

python docs/figures.py
"""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import sb3_forecast_envs as sfe
from sb3_forecast import GumbelTail
from sb3_forecast.statistics.plots import return_level_plot, spacing_plot, stability_plot, tail_plot


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


if __name__ == "__main__":
    folder = Path(__file__).parent / "figures"
    scores = 0.6 * np.random.default_rng(0).gumbel(size=500) - 2.5
    tail = GumbelTail.fit(scores)
    families(folder / "families.png")
    tail_plot(tail, [1e3, 1e5, 1e7], path=folder / "tail.png")
    spacing_plot(tail, folder / "spacings.png")
    stability_plot(scores, 1e6, path=folder / "stability.png")
    return_level_plot(tail, path=folder / "return_level.png")
