"""What the reinforcement-learning studies share: files that are whole or not there, budgets of steps, and tables with spread."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback

import sb3_forecast as sf

#: column -> how to find it in a result, and how to print it
Columns = Mapping[str, tuple[tuple[str, ...], str]]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file's object."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON so that a stopped run leaves the old file or the new one, never half of it."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)


def save_atomically(model: PPO, path: Path) -> None:
    """Save next to the target first, so that a stopped run leaves a whole file or none."""
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        model.save(file)
    os.replace(partial, path)


def claim_folder(output: Path, settings: dict[str, Any], same: Sequence[str]) -> None:
    """Make a study's folder and note its settings there.

    :param output: the folder
    :param settings: all settings
    :param same: which of them results in the folder must share
    :raises ValueError: if the folder holds results of other settings
    """
    known = output / "settings.json"
    if known.exists() and any(read_json(known).get(key) != settings[key] for key in same):
        raise ValueError(f"output={output} holds results of other settings; choose another folder, or delete it")
    output.mkdir(parents=True, exist_ok=True)
    write_json(known, settings)


class Budget(BaseCallback):
    """Ends the training when its own steps and those of a scorer that plays episodes have used up a budget.

    The last rollout is cut short and not trained on, as in SB3, for every method alike.

    :param steps: the budget
    :param count_scoring: whether steps of scoring and probing use it up
    """

    def __init__(self, steps: int, count_scoring: bool = True) -> None:
        super().__init__()
        self.steps, self.count_scoring = steps, count_scoring

    @property
    def played(self) -> int:
        """Environment steps of the scorer so far."""
        objective = self.model.objective if isinstance(self.model, sf.ForecastPPO) else None
        scorer = None if objective is None else objective.scorer
        return scorer.steps_played if isinstance(scorer, sf.EpisodeScorer) else 0

    def _on_step(self) -> bool:
        return self.num_timesteps + (self.played if self.count_scoring else 0) < self.steps


def value_of(result: dict[str, Any], keys: Sequence[str]) -> float:
    """A number of a result; NaN for ``None``."""
    value: Any = result
    for key in keys:
        value = value[key]
    return float("nan") if value is None else float(value)


def medians(results: list[dict[str, Any]], columns: Columns) -> dict[str, float]:
    """Median of every column over the seeds."""
    return {column: statistics.median(value_of(result, keys) for result in results) for column, (keys, _) in columns.items()}


def markdown_table(results: Mapping[str, list[dict[str, Any]]], columns: Columns) -> str:
    """A row per method: median and, for several seeds, the range of every column.

    :param results: by name of the method, one result per seed
    :param columns: what to show
    """
    lines = ["| method | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, rows in results.items():
        cells = []
        for keys, form in columns.values():
            values = [value_of(row, keys) for row in rows]
            spread = f" [{form.format(min(values))}, {form.format(max(values))}]" if len(values) > 1 else ""
            cells.append(form.format(statistics.median(values)) + spread)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
