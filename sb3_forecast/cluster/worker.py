"""What runs on the machines: an actor that scores blocks and writes them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from sb3_forecast.cluster.folder import ScoresFolder, block_name
from sb3_forecast.cluster.packing import unpack
from sb3_forecast.scorers.blocks import BlockScores, Isolate, score_block

#: a unit is given up after this number of workers that are known to have died on it
_DEATHS = 3


class BlockWorker:
    """Scores blocks of tasks, and writes each as one file whose name and content depend on the block alone.

    So a block that is scored twice, because a machine was lost, is there once.

    :param job: reference to the packed job, in a list so that it travels once per actor and not before
    :param folder: where the scores go
    :param about: what they depend on
    :param sizes: number of largest scores, and size of the sample, of a sketch
    :param run: a name of this run of the driver
    :param isolate: which errors are recorded with their tasks; see :func:`~sb3_forecast.scorers.blocks.score_block`
    """

    def __init__(self, job: list[Any], folder: str, about: str, sizes: tuple[int, int], run: str, isolate: Isolate) -> None:
        self.job = unpack(ray.get(job[0]))
        self.folder = ScoresFolder(folder)
        self.about = about
        self.sizes = sizes
        self.run = run
        self.isolate: Isolate = isolate

    def __call__(self, batch: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Score some blocks.

        :param batch: columns ``begin`` and ``end``
        :return: columns ``begin``, ``sketch``, ``error`` and ``node``; the sketch is empty if there was an error
        """
        rows = [self._score(int(begin), int(end)) for begin, end in zip(batch["begin"], batch["end"], strict=True)]
        sketches, errors = (np.array(column, dtype=object) for column in zip(*rows, strict=True))
        node = np.array([ray.get_runtime_context().get_node_id()] * len(rows), dtype=object)
        return {"begin": batch["begin"], "sketch": sketches, "error": errors, "node": node}

    def _score(self, begin: int, end: int) -> tuple[bytes, str]:
        try:
            tries = _Tries(self.folder, begin, end, self.run)
            parts = [self._score_unit(tries, a, min(a + self.job.unit, end)) for a in range(begin, end, self.job.unit)]
            scores = BlockScores.join(parts)
            sketch = scores.sketch(*self.sizes).to_bytes()
            self.folder.write_block(scores, sketch, self.about)
            tries.forget()
        except Exception as error:  # a full disk, a lost connection: another machine may do better, and the driver tells
            return b"", f"{type(error).__name__}: {error}"
        return sketch, ""

    def _score_unit(self, tries: _Tries, begin: int, end: int) -> BlockScores:
        if tries.deaths(begin) >= _DEATHS:
            why = f"the worker died {_DEATHS} times while tasks {begin} to {end - 1} were scored"
            return BlockScores.failed(begin, end, why)
        tries.at(begin)
        job = self.job
        scores = score_block(job.tasks, begin, end, job.make, job.model, job.seed, job.unit, self.isolate)
        tries.at(None)
        return scores


class _Tries:
    """How often workers died on a block, and where. A task that kills its process cannot say so itself.

    :param folder: the folder
    :param begin: first task of the block
    :param end: one more than its last task
    :param run: a name of this run of the driver; workers that died with an earlier one do not count
    """

    def __init__(self, folder: ScoresFolder, begin: int, end: int, run: str) -> None:
        self._folder, self._name, self._run = folder, f".{block_name(begin, end)}.tries", run
        state = _state(folder.read(self._name), run)
        self._deaths: dict[str, int] = state["deaths"]
        if state["at"] is not None:
            self._deaths[state["at"]] = self._deaths.get(state["at"], 0) + 1
        self._tries = state["tries"]
        self._write(None)

    def deaths(self, begin: int) -> int:
        """Number of workers that are known to have died on a unit."""
        return self._deaths.get(str(begin), 0)

    def at(self, begin: int | None) -> None:
        """Say which unit is being scored, if any; only after a first worker has died, because it costs a file.

        :param begin: first task of the unit
        """
        if self._tries:
            self._write(None if begin is None else str(begin))

    def forget(self) -> None:
        """The block is done."""
        self._folder.remove(self._name)

    def _write(self, at: str | None) -> None:
        self._folder.write(
            self._name, json.dumps({"run": self._run, "tries": self._tries + 1, "at": at, "deaths": self._deaths}).encode()
        )


def _state(content: bytes | None, run: str) -> dict[str, Any]:
    try:
        found = {} if content is None else dict(json.loads(content))
    except ValueError:  # cut by a kill: that is a death, too
        found = {"run": run, "tries": 1, "at": None, "deaths": {}}
    return found if found.get("run") == run else {"tries": 0, "at": None, "deaths": {}}
