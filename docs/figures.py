"""Draws the figures of docs/statistics.md.

python docs/figures.py
"""

from pathlib import Path

import numpy as np

from sb3_forecast import GumbelTail
from sb3_forecast.tail_plots import return_level_plot, spacing_plot, stability_plot, tail_plot

if __name__ == "__main__":
    folder = Path(__file__).parent / "figures"
    scores = 0.6 * np.random.default_rng(0).gumbel(size=500) - 2.5
    tail = GumbelTail.fit(scores)
    tail_plot(tail, [1e3, 1e5, 1e7], path=folder / "tail.png")
    spacing_plot(tail, folder / "spacings.png")
    stability_plot(scores, 1e6, path=folder / "stability.png")
    return_level_plot(tail, path=folder / "return_level.png")
