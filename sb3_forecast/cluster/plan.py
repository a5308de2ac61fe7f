"""What is to be scored and how: every argument is checked before the work starts."""

from __future__ import annotations

import json
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_forecast.checks import check_seed, real, whole
from sb3_forecast.cluster.packing import Job, pack, unpack
from sb3_forecast.scorers.blocks import UNITS, MakeScorer, ScoresOthers, TaskBlocks, score_block, scorer_maker
from sb3_forecast.scorers.checksum import model_checksum
from sb3_forecast.scorers.make import complete, make_measuring_scorer
from sb3_forecast.scorers.protocols import Pool
from sb3_forecast.version import __version__

#: units in a block of the usual size
_UNITS_PER_BLOCK = 16


@dataclass(frozen=True)
class Plan:
    """A deployment that is to be scored.

    :param packed: the job, as it travels
    :param n_tasks: number of tasks
    :param block_size: tasks per file
    :param claim: everything that the scores depend on
    """

    packed: bytes
    n_tasks: int
    block_size: int
    claim: dict[str, Any]

    @property
    def about(self) -> str:
        """The claim as a text, which is the same for the same scores."""
        return json.dumps(self.claim, sort_keys=True)

    def block(self, begin: int) -> tuple[int, int]:
        """First task of a block, and one more than its last.

        :param begin: first task
        """
        return begin, min(begin + self.block_size, self.n_tasks)


def make_plan(
    model: Any, tasks: Any, scorer: str | MakeScorer | ScoresOthers, seed: int, counting: Mapping[str, Any] | None, block_size: int | None,
    identity: str | None, top: int, sample: int,
) -> Plan:  # fmt: skip
    """Check the arguments of :func:`~sb3_forecast.cluster.score`, and try a few tasks out.

    :param model: the model
    :param tasks: the deployment
    :param scorer: name, function, or scorer with ``on``
    :param seed: seed of scorers that sample
    :param counting: arguments of the scorer ``"frequency"``
    :param block_size: tasks per file
    :param identity: name of the settings of a scorer or model that does not tell them
    :param top: number of largest scores in a sketch
    :param sample: size of the sample in a sketch
    :return: the plan
    :raises TypeError: if the tasks cannot be drawn by their index, or an argument has the wrong type
    :raises ValueError: if an argument is out of range, something cannot be pickled, or no task can be scored
    """
    if not isinstance(tasks, (TaskBlocks, Pool)):
        raise TypeError(
            f"tasks must be ones that can be drawn by their index, with key and block(begin, end), or a pool with subset(indices), got "
            f"{type(tasks).__name__}; use a TaskStream, SeededTasks or PromptTasks"
        )
    seed = check_seed(seed)
    for name, value in (("top", top), ("sample", sample)):
        whole(name, value, low=10, use="for example 2048")
    if counting and scorer not in ("auto", "frequency"):
        raise ValueError(
            f"counting must be left out for a scorer that counts nothing, got {dict(counting)}; use scorer='frequency'"
        )
    # numpy's numbers become Python's
    counted = {key: value.item() if isinstance(value, np.generic) else value for key, value in (counting or {}).items()}
    named = _resolved(scorer, tasks, model, counted) if isinstance(scorer, str) else None
    told = isinstance(model, (BaseAlgorithm, th.nn.Module))
    if identity is None and (named is None or not told):
        raise ValueError(
            "identity must be given for a scorer that is no name, and for a model that is neither SB3's nor a network, got None; use a name "
            "that you change whenever their settings or weights change"
        )
    make, unit = scorer_maker(scorer if named is None else named, counted if named == "frequency" else None)
    if block_size is None:
        block_size = _UNITS_PER_BLOCK * unit
    whole("block_size", block_size, low=unit, use=f"a multiple of {unit}")
    if block_size % unit:
        raise ValueError(
            f"block_size must be a multiple of {unit}, which are scored together, got {block_size}; use {block_size // unit * unit}"
        )
    packed = pack(Job(model, tasks, make, seed, unit))
    _try_out(unpack(packed))
    # which tasks are rare need not be part of a pool's key, but it is part of what is written
    rare = zlib.crc32(np.asarray(tasks.rare, dtype=np.bool_).tobytes()) if isinstance(tasks, Pool) else None
    claim = {
        "tasks": tasks.key, "n_tasks": len(tasks), "rare": rare, "model": model_checksum(model) if told else type(model).__name__,
        "scorer": named,
        "identity": identity, "counting": counted if named == "frequency" else {}, "seed": seed, "unit": unit, "block_size": block_size,
        "top": top, "sample": sample, "version": __version__, "torch": th.__version__,
    }  # fmt: skip
    return Plan(packed, len(tasks), block_size, claim)


def check_workers(workers: int | None, num_cpus: float, num_gpus: float, memory: int | None) -> None:
    """Check what is said of the workers.

    :param workers: their number
    :param num_cpus: cores of each
    :param num_gpus: GPUs of each
    :param memory: memory of each, in bytes
    :raises ValueError: if a number is out of range
    """
    if workers is not None:
        whole("workers", workers, low=1, use="the number of cores, or None")
    real("num_cpus", num_cpus, low=0.1, use="the number of cores of a worker")
    real("num_gpus", num_gpus, low=0.0, use="the number of GPUs of a worker")
    if memory is not None:
        whole("memory", memory, low=1, use="bytes, or None")


def _some(tasks: Any) -> list[int]:
    """The first, the middle and the last task."""
    n = len(tasks)
    return sorted({0, n // 2, n - 1})


def _resolved(scorer: str, tasks: Any, model: Any, counting: Mapping[str, Any]) -> str:
    """The name of the scorer, after "auto" was tried out on a few tasks: the strongest that fits any, as a task by itself may be broken."""
    if scorer != "auto":
        return scorer
    names = {"ExactScorer": "exact", "SurvivalScorer": "survival", "FrequencyScorer": "frequency"}
    found: dict[str, str] = {}
    errors = []
    for task in _some(tasks):
        try:
            few = tasks.block(task, task + 1) if isinstance(tasks, TaskBlocks) else tasks.subset(np.array([task]))
            tried = make_measuring_scorer("auto", few, model, 0, counting)
            found[names[type(tried).__name__]] = tried.reason
        except Exception as error:  # a user's environment may raise anything
            errors.append(error)
    for name in UNITS:
        if name in found:
            if found[name]:
                warnings.warn(f"failures are counted, because no stronger scorer fits: {found[name]}", stacklevel=5)
            return name
    raise ValueError(
        f"scorer='auto' must find a scorer for these tasks, got {type(errors[0]).__name__}: {errors[0]}; name the scorer, or check that model "
        "and tasks belong together"
    ) from errors[0]


def _try_out(job: Job) -> None:
    """Score a few tasks here, with the job as it arrives on a worker, so that what fails for every task fails before the work starts."""
    errors = []
    for task in _some(job.tasks):
        try:
            score_block(job.tasks, task, task + 1, job.make, job.model, job.seed, job.unit, isolate="never")
            pool = job.tasks.block(task, task + 1) if isinstance(job.tasks, TaskBlocks) else job.tasks.subset(np.array([task]))
            scorer = complete(job.make(job.model, pool, job.seed))
            for reason in scorer.warnings(np.zeros(1), 10):
                warnings.warn(reason, stacklevel=5)
            return
        except Exception as error:  # a user's environment may raise anything
            errors.append(error)
    raise ValueError(
        f"tasks must be ones that the model can be scored on, got {type(errors[0]).__name__}: {errors[0]} for three of them; "
        "check that model, tasks and scorer belong together"
    ) from errors[0]
