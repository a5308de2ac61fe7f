"""Exact scores of pools that are too large for the memory: block by block, and a killed run can be resumed."""

from __future__ import annotations

import json
import pathlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from sb3_forecast.files import load_arrays, read_json, save_arrays, write_json
from sb3_forecast.scorers.blocks import TaskBlocks, score_block, scorer_maker
from sb3_forecast.scorers.checksum import model_checksum
from sb3_forecast.statistics.sketch import SAMPLE, TOP, TailSketch

_FIELDS = ("psi", "failure", "success", "rare")


@dataclass(frozen=True)
class LargePoolScores:
    """Exact outcomes of every task.

    :param psi: failure scores, shape (N,), float64
    :param failure: failure probabilities, shape (N,), float64
    :param success: success probabilities, shape (N,), float64
    :param rare: which tasks belong to the rare mode, shape (N,), bool
    """

    psi: NDArray[np.float64]
    failure: NDArray[np.float64]
    success: NDArray[np.float64]
    rare: NDArray[np.bool_]

    def sketch(self, top: int = TOP, sample: int = SAMPLE) -> TailSketch:
        """The sketch of these scores, from which forecasts and reports can be made.

        :param top: number of largest scores to keep
        :param sample: size of the random sample
        """
        return TailSketch.of(self.psi, None, None, self.success, self.rare, top=top, sample=sample)


def score_large_pool(
    model: Any,
    tasks: TaskBlocks,
    folder: str | pathlib.Path,
    block_size: int = 8192,
    progress_bar: bool = False,
) -> LargePoolScores:
    """Score a very large pool exactly, for example a million tasks on a laptop.

    Each block of tasks is drawn, enumerated and scored, and then removed from memory. Its scores are written to
    ``folder`` atomically. If the run is interrupted or killed, call the function again with the same arguments: it scores
    only the blocks that are missing. A block that is damaged is named, set aside, and scored again.

    :param model: SB3 on-policy model with discrete actions
    :param tasks: the tasks, for example a ``sb3_forecast_envs.TaskStream``
    :param folder: folder for the blocks; it is made if it does not exist
    :param block_size: number of tasks that are in memory at once
    :param progress_bar: whether to show the progress
    :return: outcomes of all tasks; they take 25 bytes per task
    :raises ValueError: if ``block_size < 1``, or the folder holds scores of other tasks, of another model or of another
        block size, or does not say of which
    :raises OSError: if a block cannot be written; those before it stay
    """
    if block_size < 1:
        raise ValueError(f"block_size must be at least 1, got {block_size}; use for example 8192")
    target = pathlib.Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    claim = {"tasks": tasks.key, "model": model_checksum(model), "block_size": block_size}
    _claim(target, claim)
    make, unit = scorer_maker("exact")
    parts = []
    with tqdm(total=len(tasks), unit="task", desc="scoring", disable=not progress_bar) as bar:
        for begin in range(0, len(tasks), block_size):
            end = min(begin + block_size, len(tasks))
            path = target / f"tasks-{begin}-{end - 1}.npz"
            # with what they were made of: two runs that begin in one folder at the same moment do not mix
            block = load_arrays(path, "scores", json.dumps(claim, sort_keys=True))
            if block is None:
                scores = score_block(tasks, begin, end, make, model, 0, unit, isolate="never")
                block = {name: getattr(scores, name) for name in _FIELDS}
                save_arrays(path, block, json.dumps(claim, sort_keys=True))
            parts.append(block)
            bar.update(end - begin)
    return LargePoolScores(**{name: np.concatenate([part[name] for part in parts]) for name in _FIELDS})


def _claim(folder: pathlib.Path, content: dict[str, Any]) -> None:
    """Write into the folder which scores it holds. Raise an error if it already holds others."""
    path = folder / "about.json"
    if not path.exists():
        write_json(path, content)
        return
    try:
        found = dict(read_json(path))
    except ValueError as error:
        raise ValueError(
            f"folder must say which scores it holds, got a damaged {path} ({error}); use another folder, or delete this one"
        ) from error
    if found != content:
        theirs, ours = ({key: side.get(key) for key in content if found.get(key) != content[key]} for side in (found, content))
        raise ValueError(
            f"folder must hold scores of the same tasks, model and block_size, got {str(folder)!r} with scores made with {theirs} "
            f"instead of {ours}; use another folder, or delete this one"
        )
