"""Exact scores of pools too large to hold: block by block, with flat memory, resumable after a kill."""

from __future__ import annotations

import hashlib
import pathlib
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from sb3_forecast.files import read_json, write_json, write_whole
from sb3_forecast.scorers.exact import ExactScorer
from sb3_forecast.scorers.protocols import SupportsExact

_FIELDS = ("psi", "failure", "success", "rare")


class TaskBlocks(Protocol):
    """Tasks that are made when they are needed."""

    @property
    def key(self) -> str:
        """What tells these tasks from others."""

    def __len__(self) -> int: ...

    def block(self, begin: int, end: int) -> SupportsExact:
        """Tasks ``begin`` to ``end`` as a pool."""


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


def score_large_pool(
    model: Any,
    tasks: TaskBlocks,
    folder: str | pathlib.Path,
    block_size: int = 8192,
    progress_bar: bool = False,
) -> LargePoolScores:
    """Score a million tasks on a laptop: tasks are drawn, enumerated, scored and forgotten in blocks.

    Each block is written to ``folder`` atomically when it is done. Calling the function again with the same arguments, after an interruption or
    a kill, goes on with the blocks that are missing.

    :param model: SB3 on-policy model with discrete actions
    :param tasks: for example ``sb3_forecast_envs.TaskStream``
    :param folder: where the blocks are kept; made if it does not exist
    :param block_size: tasks in memory at a time
    :param progress_bar: show progress
    :return: 25 bytes a task
    :raises ValueError: if ``block_size < 1``, or the folder holds scores of other tasks, another model or another block size
    """
    if block_size < 1:
        raise ValueError(f"block_size={block_size} scores nothing; use block_size >= 1")
    target = pathlib.Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    _claim(target, {"tasks": tasks.key, "model": _checksum(model), "block_size": block_size})
    bounds = [(begin, min(begin + block_size, len(tasks))) for begin in range(0, len(tasks), block_size)]
    paths = [target / f"tasks-{begin}-{end - 1}.npz" for begin, end in bounds]
    with tqdm(total=len(tasks), unit="task", desc="scoring", disable=not progress_bar) as bar:
        for (begin, end), path in zip(bounds, paths, strict=True):
            if not path.exists():
                pool = tasks.block(begin, end)
                outcomes = ExactScorer(pool, cache_tasks=0).outcomes(model)
                columns = {name: getattr(outcomes, name) for name in _FIELDS[:3]}
                write_whole(path, partial(np.savez, rare=np.asarray(pool.rare), **columns))
            bar.update(end - begin)
    parts: dict[str, list[NDArray[Any]]] = {name: [] for name in _FIELDS}
    for path in paths:
        with np.load(path) as file:
            for name in _FIELDS:
                parts[name].append(file[name])
    return LargePoolScores(**{name: np.concatenate(parts[name]) for name in _FIELDS})


def _checksum(model: Any) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(model.policy.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _claim(folder: pathlib.Path, content: dict[str, Any]) -> None:
    """Say in the folder whose scores it holds, or find that they are somebody else's."""
    path = folder / "about.json"
    if not path.exists():
        write_json(path, content)
        return
    found = read_json(path)
    if found != content:
        theirs, ours = ({key: side.get(key) for key in content if found.get(key) != content[key]} for side in (found, content))
        raise ValueError(
            f"folder={str(folder)!r} holds scores made with {theirs}, not {ours}; choose another folder or delete it"
        )
