"""Examples of the kinds of task that an active evaluation found: films of failures."""

from __future__ import annotations

import pathlib
from dataclasses import replace
from typing import Any

import numpy as np

from sb3_forecast.checks import whole
from sb3_forecast.measuring.active.report import ActiveReport
from sb3_forecast.measuring.recording import Recording, record_worst


def record_modes(
    model: Any,
    pool: Any,
    report: ActiveReport,
    path: str | pathlib.Path = "modes.gif",
    n: int = 3,
    seed: int = 0,
    tries: int = 20,
) -> dict[str, Recording]:
    """Record failed episodes of each kind of task that was found, a film for each kind.

    :param model: the model that was evaluated
    :param pool: the deployment; its environments must draw pictures (``render_mode="rgb_array"``)
    :param report: of the evaluation
    :param path: name of the files, ``.gif`` or ``.mp4``: ``modes.gif`` gives ``modes-1.gif``, ``modes-2.gif`` and so on, in the order of the
        report
    :param n: number of tasks of each kind, its worst ones
    :param seed: seed of the episodes
    :param tries: number of episodes played per task; the first failed one is shown
    :return: what each film shows, by the kind's rule. ``tasks`` are indices into the deployment
    :raises ValueError: if an argument is out of range, the environments draw no pictures, or no kind was found
    """
    whole("n", n, low=1, use="the number of tasks in a film")
    if not report.found:
        raise ValueError(
            "report must name a kind of task that fails, got one that found none; use record_worst, or a larger budget"
        )
    target = pathlib.Path(path)
    shown = {}
    for number, mode in enumerate(report.found, start=1):
        worst = np.array(mode.worst[:n])
        part = pool.subset(worst)
        file = target.with_name(f"{target.stem}-{number}{target.suffix}")
        found = record_worst(model, part, len(worst), file, seed=seed, tries=tries)
        shown[mode.rule] = replace(found, tasks=[int(worst[task]) for task in found.tasks])
    return shown
