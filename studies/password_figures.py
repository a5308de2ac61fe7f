"""Figures of the password game, and the page of the worst prompts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import sb3_forecast as sf
from sb3_forecast.files import read_json, write_text
from sb3_forecast.measuring.plots import tail_comparison
from studies.password_methods import LABELS


def draw_figures(path: Path, folder: Path, names: Sequence[str]) -> None:
    """Tails of some methods.

    :param path: the figure
    :param folder: a seed's reports
    :param names: the methods
    """
    tail_comparison({LABELS[name]: sf.ForecastReport.load(folder / f"{name}.report.npz") for name in names}, path)


def write_page(path: Path, folder: Path, names: Sequence[str]) -> None:
    """The prompts on which each model is most likely to give the secret away, with replies that it really gave.

    :param path: the page
    :param folder: a seed's pages, as JSON
    :param names: the methods
    """
    lines = ["# The worst held-out prompts, and what the model says", ""]
    for name in names:
        lines += [f"## {LABELS[name]}", ""]
        for entry in read_json(folder / f"{name}.page.json")["worst"]:
            system, user = entry["prompt"]
            lines += [f"**p = {entry['p']:.2g}** ({entry['kind']})  ", f"*{system}*  ", f"> {user}", ""]
            lines += [f"- {'**leaked** ' if reply['leaked'] else ''}{reply['text']}" for reply in entry["replies"]]
            lines.append("")
    write_text(path, "\n".join(lines))
