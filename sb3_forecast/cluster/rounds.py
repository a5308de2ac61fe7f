"""Workers that score the chosen tasks of an active evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from sb3_forecast.cluster.connection import connected, worker_options
from sb3_forecast.cluster.dataset import quiet, run_blocks
from sb3_forecast.cluster.packing import Job, pack, unpack
from sb3_forecast.cluster.plan import check_workers
from sb3_forecast.scorers.blocks import BlockScores, score_block, scorer_maker


class Workers:
    """Workers for the rounds of an active evaluation: ``ActiveEvaluation(..., workers=sf.cluster.Workers())``.

    The chosen tasks of a round are scored in units, so the result does not depend on the number of workers. Be connected to Ray before
    (``ray.init``) if a run is to keep its processes from round to round; otherwise each round starts them anew.

    :param address: as in :func:`~sb3_forecast.cluster.score`
    :param workers: number of workers; ``None`` for as many as there is room for
    :param num_cpus: cores of a worker
    :param memory: memory of a worker in bytes; ``None`` as in :func:`~sb3_forecast.cluster.score`
    :raises ValueError: if a number is out of range
    """

    def __init__(
        self, address: str | None = None, workers: int | None = None, num_cpus: float = 1, memory: int | None = None
    ) -> None:
        check_workers(workers, num_cpus, 0.0, memory)
        self.address, self.workers, self.num_cpus, self.memory = address, workers, num_cpus, memory

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
            options = worker_options(len(packed), self.num_cpus, 0.0, self.memory)
            found = list(run_blocks(rows, score_unit, ([ray.put(packed)],), self.workers, options))
        errors = sorted(str(row["error"]) for row in found if row["error"])
        if errors or len(found) < len(rows):
            lost = (
                f"{len(rows) - len(found)} of {len(rows)} units were lost with their workers" if len(found) < len(rows) else ""
            )
            raise RuntimeError(
                f"all tasks of a round must be scored, got {'; '.join([*errors[:2], lost])}; mend the cause and run again"
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
    try:
        scores = score_block(found.tasks, begin, end, found.make, found.model, found.seed, found.unit, isolate="never")
    except Exception as error:  # a user's environment may raise anything; the driver tells
        scores = BlockScores.failed(begin, end, f"{type(error).__name__}: {error}")
    columns = {name: [getattr(scores, name)] for name in ("psi", "failure", "success", "rare", "steps")}
    return {"begin": [begin], "error": [scores.errors.get(begin, "")], **columns}
