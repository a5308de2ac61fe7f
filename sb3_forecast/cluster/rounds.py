"""Workers that score the chosen tasks of an active evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from sb3_forecast.checks import whole
from sb3_forecast.cluster.connection import check_memory, connected
from sb3_forecast.cluster.dataset import quiet, run_blocks
from sb3_forecast.cluster.packing import Job, pack, unpack
from sb3_forecast.scorers.blocks import BlockScores, score_block, scorer_maker


class Workers:
    """Workers for the rounds of an active evaluation: ``ActiveEvaluation(..., workers=sf.cluster.Workers())``.

    The chosen tasks of a round are scored in units, so the result does not depend on the number of workers.

    :param address: as in :func:`~sb3_forecast.cluster.score`
    :param workers: number of workers; ``None`` for as many as there is room for
    :param num_cpus: cores of a worker
    :param num_gpus: GPUs of a worker
    :raises ValueError: if the number of workers is below 1
    """

    def __init__(
        self, address: str | None = None, workers: int | None = None, num_cpus: float = 1, num_gpus: float = 0
    ) -> None:
        if workers is not None:
            whole("workers", workers, low=1, use="the number of cores, or None")
        self.address, self.workers = address, workers
        self.options = {"num_cpus": num_cpus, "num_gpus": num_gpus}

    def measure(self, scorer: str, tasks: Any, model: Any, seed: int, counting: Mapping[str, Any]) -> BlockScores:
        """Score all tasks of a pool.

        :param scorer: ``"exact"``, ``"survival"`` or ``"frequency"``
        :param tasks: the tasks
        :param model: the model
        :param seed: seed of a scorer that samples
        :param counting: arguments of the scorer ``"frequency"``
        :return: the scores
        :raises RuntimeError: if a task cannot be scored
        """
        make, unit = scorer_maker(scorer, counting)
        # a round has few tasks: small units keep all workers busy
        unit = min(unit, 64)
        packed = pack(Job(model, tasks, make, seed, unit))
        rows = [{"begin": begin, "end": min(begin + unit, len(tasks))} for begin in range(0, len(tasks), unit)]
        with connected(self.address), quiet():
            options = {**self.options, "memory": check_memory(len(packed), None)}
            found = list(run_blocks(rows, score_unit, ([ray.put(packed)],), self.workers, options))
        if len(found) < len(rows):
            raise RuntimeError(
                f"all tasks of a round must be scored, got {len(rows) - len(found)} of {len(rows)} units lost; run again"
            )
        parts = []
        for row in sorted(found, key=lambda row: int(row["begin"])):
            columns: dict[str, Any] = {name: np.asarray(row[name]) for name in ("psi", "failure", "success", "rare", "steps")}
            parts.append(BlockScores(int(row["begin"]), **columns))
        return BlockScores.join(parts)


def score_unit(batch: dict[str, NDArray[Any]], job: list[Any]) -> dict[str, Any]:
    """Score a unit of tasks. It is a function, not an actor: Ray keeps its processes from round to round, and they have imported all by then.

    :param batch: columns ``begin`` and ``end``, one row
    :param job: reference to the packed job, in a list
    :return: its scores, one row
    """
    found = unpack(ray.get(job[0]))
    begin, end = int(batch["begin"][0]), int(batch["end"][0])
    scores = score_block(found.tasks, begin, end, found.make, found.model, found.seed, found.unit, isolate=False)
    return {"begin": [begin], **{name: [getattr(scores, name)] for name in ("psi", "failure", "success", "rare", "steps")}}
