"""A film of several models side by side, on the tasks that the first one fails most."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sb3_forecast.checks import whole
from sb3_forecast.files import check_output
from sb3_forecast.measuring.recording import Recording, captioned, clip_of, worst_distinct, write_frames
from sb3_forecast.scorers.make import make_measuring_scorer
from sb3_forecast.scorers.protocols import FailureScorer, Scorer
from sb3_forecast.statistics.scores import failure_probability
from sb3_forecast.statistics.words import probability_in_words


def record_side_by_side(
    models: Mapping[str, Any],
    pool: Any,
    n: int = 2,
    path: str | pathlib.Path = "side_by_side.gif",
    scorer: str | FailureScorer | Scorer = "auto",
    seed: int = 0,
    tries: int = 20,
    fps: int = 6,
    width: int = 240,
) -> Recording:
    """Record the tasks that the first model fails most, played by every model.

    Each model shows its first failed episode of the task, or one of its episodes if none of ``tries`` fails.

    :param models: models by name, for example before and after the training
    :param pool: the tasks; their environments must draw pictures (``render_mode="rgb_array"``)
    :param n: number of tasks
    :param path: the file to write, ``.gif`` or ``.mp4``
    :param scorer: finds the worst tasks of the first model, as in :func:`evaluate_forecast`
    :param seed: seed of the episodes
    :param tries: number of episodes played per task and model
    :param fps: pictures per second
    :param width: width of each model's pictures, in pixels
    :return: what the recording shows; its probabilities are those of the first model
    :raises ValueError: if an argument is out of range, or the environments draw no pictures
    """
    check_output("path", path, (".gif", ".mp4"))
    if not models:
        raise ValueError('models must hold at least one model, got none; use {"before": model, "after": model}')
    whole("n", n, low=1, high=len(pool), use="the number of tasks to show")
    for name, value in (("tries", tries), ("fps", fps), ("width", width)):
        whole(name, value, low=1, use="a positive number")
    scores = {title: make_measuring_scorer(scorer, pool, model, seed).score(model).numpy() for title, model in models.items()}
    first = next(iter(scores.values()))
    frames: list[NDArray[np.uint8]] = []
    failed = []
    tasks = worst_distinct(first, pool, n)
    for task in tasks:
        clips = {title: clip_of(model, pool, task, seed, tries) for title, model in models.items()}
        failed.append(next(iter(clips.values())).failed)
        columns = []
        for title, clip in clips.items():
            p = probability_in_words(float(failure_probability(scores[title][task])))
            columns.append([captioned(_scaled(frame, width), f"{title}: p(failure) = {p}") for frame in clip.frames])
        # a film that ends earlier waits; at the end all wait for a second
        length = max(len(column) for column in columns) + fps
        frames += [
            np.concatenate([column[min(i, len(column) - 1)] for column in _even(columns)], axis=1) for i in range(length)
        ]
    write_frames(frames, pathlib.Path(path), fps)
    return Recording(pathlib.Path(path), tasks, [float(failure_probability(first[task])) for task in tasks], failed)


def _scaled(frame: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    height = max(1, round(frame.shape[0] * width / frame.shape[1]))
    return np.asarray(Image.fromarray(frame).resize((width, height)))


def _even(columns: list[list[NDArray[np.uint8]]]) -> list[list[NDArray[np.uint8]]]:
    """All pictures with the same height."""
    height = max(frame.shape[0] for column in columns for frame in column)
    return [
        [np.pad(frame, ((0, height - frame.shape[0]), (0, 8), (0, 0)), constant_values=255) for frame in column]
        for column in columns
    ]
