"""Table, report.json, figures and the page of worst prompts of train_password_game.py, from the result files of its runs."""

from __future__ import annotations

import platform
import statistics
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from password_methods import LABELS
from rich.console import Console
from rich.table import Table
from study_tools import read_json, write_json

from sb3_forecast import ForecastReport
from sb3_forecast.plots import tail_comparison

#: column -> how to read it from a result, and how to print it
COLUMNS: dict[str, tuple[tuple[str, ...], str]] = {
    "forecast error": (("error", "mean_abs"), "{:.3f}"),
    "/ scale": (("error_in_scale", "mean_abs"), "{:.1f}"),
    "signed": (("error", "signed"), "{:+.2f}"),
    "under-predicted": (("under_predicted",), "{:.0%}"),
    "worst p": (("worst_failure",), "{:.1e}"),
    "rare mean p": (("rare_mean_failure",), "{:.1e}"),
    "mean p": (("mean_failure",), "{:.1e}"),
    "worst of further rare": (("further_rare_worst",), "{:.1e}"),
    "sampled rare leak": (("sampled_rare_leak",), "{:.4f}"),
    "accuracy": (("primary_accuracy",), "{:.4f}"),
    "authorised": (("primary_authorised",), "{:.3f}"),
    "wrong badge": (("primary_wrong_badge",), "{:.3f}"),
    "ordinary": (("primary_ordinary",), "{:.3f}"),
    "seconds": (("seconds",), "{:.0f}"),
}


def _value(result: dict[str, Any], keys: tuple[str, ...]) -> float:
    value: Any = result
    for key in keys:
        value = value[key]
    return float("nan") if value is None else float(value)


def write_report(
    output: Path, seeds: list[int], methods: list[str], settings: dict[str, Any], command: str, console: Console
) -> None:
    """Print the table; write report.json, table.md, the figure and the page of worst prompts.

    :param output: the study's folder
    :param seeds: seeds that were run
    :param methods: methods that were run
    :param settings: the study's settings
    :param command: the command line
    :param console: where to print
    """
    names = ["start", *methods]
    results = {name: [read_json(output / f"seed{seed}" / f"{name}.json") for seed in seeds] for name in names}
    table = Table(title=f"Held-out prompts, median of {len(seeds)} seed(s), ranges in table.md")
    table.add_column("", no_wrap=True)
    for name in names:
        table.add_column(LABELS[name], justify="right", min_width=7)
    for column, (keys, form) in COLUMNS.items():
        table.add_row(column, *(form.format(statistics.median(_value(r, keys) for r in rows)) for rows in results.values()))
    (console if console.width >= 120 else Console(width=120)).print(table)
    lines = ["| method | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name, rows in results.items():
        cells = []
        for keys, form in COLUMNS.values():
            values = [_value(row, keys) for row in rows]
            spread = f" [{form.format(min(values))}, {form.format(max(values))}]" if len(values) > 1 else ""
            cells.append(form.format(statistics.median(values)) + spread)
        lines.append(f"| {LABELS[name]} | " + " | ".join(cells) + " |")
    (output / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    versions = {package: version(package) for package in ("transformers", "peft", "torch", "numpy")}
    write_json(
        output / "report.json",
        {
            "command": command,
            "settings": settings,
            "versions": {"python": platform.python_version(), **versions},
            "medians": {
                name: {column: statistics.median(_value(r, keys) for r in rows) for column, (keys, _) in COLUMNS.items()}
                for name, rows in results.items()
            },
            "seeds": {str(seed): {name: rows[i] for name, rows in results.items()} for i, seed in enumerate(seeds)},
        },
    )
    folder = output / f"seed{seeds[0]}"
    shown = [name for name in ("start", "primary", "forecast") if name in names] if "forecast" in names else names[:2]
    reports = {}
    for name in shown:
        scores = np.array(read_json(folder / f"{name}.page.json")["scores"])
        reports[LABELS[name]] = ForecastReport.from_dict(results[name][0], scores, np.zeros(len(scores), dtype=np.bool_))
    tail_comparison(reports, output / "tails.png")
    _page(output / "worst.md", folder, shown)


def _page(path: Path, folder: Path, names: list[str]) -> None:
    """The prompts on which each model is most likely to give the secret away, with replies that it really gave."""
    lines = ["# The worst held-out prompts, and what the model says", ""]
    for name in names:
        lines += [f"## {LABELS[name]}", ""]
        for entry in read_json(folder / f"{name}.page.json")["worst"]:
            system, user = entry["prompt"]
            lines += [f"**p = {entry['p']:.2g}** ({entry['kind']})  ", f"*{system}*  ", f"> {user}", ""]
            lines += [f"- {'**leaked** ' if reply['leaked'] else ''}{reply['text']}" for reply in entry["replies"]]
            lines.append("")
    path.write_text("\n".join(lines), encoding="utf-8")
