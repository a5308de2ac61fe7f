"""score: all tasks of a deployment, on one machine or many, into a folder and a sketch."""

from __future__ import annotations

import json
import pathlib
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import ray
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from tqdm.auto import tqdm

from sb3_forecast.checks import check_seed, whole
from sb3_forecast.cluster.connection import check_memory, check_shared, connected
from sb3_forecast.cluster.dataset import quiet, run_blocks
from sb3_forecast.cluster.folder import ScoresFolder
from sb3_forecast.cluster.packing import Job, pack
from sb3_forecast.cluster.worker import BlockWorker
from sb3_forecast.scorers.blocks import UNITS, MakeScorer, ScoresOthers, TaskBlocks, score_block, scorer_maker
from sb3_forecast.scorers.checksum import model_checksum
from sb3_forecast.scorers.make import make_measuring_scorer
from sb3_forecast.scorers.protocols import Pool
from sb3_forecast.statistics.sketch import SAMPLE, TOP, TailSketch

#: units in a block of the usual size
_UNITS_PER_BLOCK = 16
#: blocks that were lost are given out again, until it was in vain this number of times
_IN_VAIN = 2


def score(
    model: Any,
    tasks: TaskBlocks | Pool,
    folder: str | pathlib.Path,
    scorer: str | MakeScorer | ScoresOthers = "auto",
    seed: int = 0,
    counting: Mapping[str, Any] | None = None,
    address: str | None = None,
    workers: int | None = None,
    block_size: int | None = None,
    num_cpus: float = 1,
    num_gpus: float = 0,
    memory: int | None = None,
    identity: str | None = None,
    top: int = TOP,
    sample: int = SAMPLE,
    progress_bar: bool = True,
) -> TailSketch:
    """Score every task of a deployment with Ray Data, and write one row per task as Parquet.

    Tasks are drawn where they are scored. The result depends on the tasks, the model, the scorer and the seed: not on the number of workers, the
    size of the blocks, or on what was lost and done again. Call the function again with the same arguments to go on after a kill: blocks that
    are in the folder are not scored again.

    A task that raises an error twice is recorded with it, and has no score. See :func:`read_errors`.

    :param model: SB3 model, language model, or what the scorer takes
    :param tasks: tasks that can be drawn by their index: a stream with ``block(begin, end)``, or a pool with ``subset``
    :param folder: where the scores go, a folder that all machines see, or an address such as ``s3://bucket/scores``
    :param scorer: ``"exact"``, ``"survival"``, ``"frequency"``, ``"auto"`` for the strongest that fits; a scorer with ``on(pool, seed)``, such
        as a trained ``EpisodeScorer``; or a picklable function of (model, pool, seed) that returns a scorer, such as ``lm.PromptScorers``
    :param seed: seed of scorers that sample
    :param counting: arguments of the scorer ``"frequency"``, for example ``{"episodes": 50}``
    :param address: ``None`` for this machine, ``"auto"`` for the cluster that it belongs to, ``"host:port"`` or ``"ray://host:port"``. A
        connection to Ray that is there already is used
    :param workers: number of workers; ``None`` for as many as there is room for
    :param block_size: tasks per file, a multiple of the number that is scored together (exact and survival 1024, frequency 64, others 256);
        ``None`` for 16 times that number
    :param num_cpus: cores of a worker
    :param num_gpus: GPUs of a worker
    :param memory: memory of a worker in bytes; ``None`` for four times the model and 700 MB
    :param identity: a name of the scorer's settings, needed for a scorer that is no name
    :param top: number of largest scores in the sketch; a tail can be fitted to at most as many
    :param sample: size of the random sample in the sketch
    :param progress_bar: whether to show tasks, speed and the time that is left
    :return: the sketch of all scores; it is also in the folder as ``sketch.npz`` of a local one
    :raises TypeError: if the tasks cannot be drawn by their index
    :raises ValueError: if an argument is out of range, no task can be scored, or the folder holds other scores or is not shared
    :raises ConnectionError: if nothing answers at the address
    :raises RuntimeError: if blocks are still missing at the end, with the reason
    """
    if not isinstance(tasks, (TaskBlocks, Pool)):
        raise TypeError(
            f"tasks must be ones that can be drawn by their index, with block(begin, end) or subset(indices), got {type(tasks).__name__}; use a "
            "TaskStream, SeededTasks or PromptTasks"
        )
    check_seed(seed)
    if workers is not None:
        whole("workers", workers, low=1, use="the number of cores, or None")
    name = _resolved(scorer, tasks, model, counting) if isinstance(scorer, str) else identity
    if name is None:
        raise ValueError(
            "identity must be given for a scorer that is no name, got None; use a name that you change whenever its settings change"
        )
    make, unit = scorer_maker(name if isinstance(scorer, str) else scorer, counting)
    block_size = (
        _UNITS_PER_BLOCK * unit
        if block_size is None
        else whole("block_size", block_size, low=unit, use=f"a multiple of {unit}")
    )
    if block_size % unit:
        raise ValueError(
            f"block_size must be a multiple of {unit}, which are scored together, got {block_size}; use {block_size // unit * unit}"
        )
    job = Job(model, tasks, make, seed, unit)
    _try_out(job)
    target = ScoresFolder(folder)
    claim = {"tasks": tasks.key, "model": _checksum(model), "scorer": name, "counting": dict(counting or {}), "seed": seed,
             "block_size": block_size, "top": top, "sample": sample}  # fmt: skip
    packed = pack(job)
    target.claim(claim)
    about = json.dumps(claim, sort_keys=True)
    begins = range(0, len(tasks), block_size)
    with tqdm(total=len(tasks), unit="task", desc="scoring", disable=not progress_bar) as bar:
        done: dict[int, TailSketch] = {}
        total: TailSketch | None = None
        for begin, sketch in target.sketches(about).items():
            done[begin], total = sketch, sketch if total is None else total.merge(sketch)
            bar.update(min(block_size, len(tasks) - begin))
        missing = [begin for begin in begins if begin not in done]
        if missing:
            with connected(address), quiet():
                options = {"num_cpus": num_cpus, "num_gpus": num_gpus, "memory": check_memory(len(packed), memory)}
                check_shared(target)
                arguments = ([ray.put(packed)], target.where, about, (top, sample), uuid.uuid4().hex)
                for begin, sketch in _passes(missing, block_size, len(tasks), arguments, workers, options):
                    total = sketch if total is None else total.merge(sketch)
                    bar.update(min(block_size, len(tasks) - begin))
    assert total is not None
    target.sweep()
    target.write("sketch.npz", total.to_bytes())
    return total


def _passes(
    missing: list[int], block_size: int, n_tasks: int, arguments: tuple[Any, ...], workers: int | None, options: dict[str, Any]
) -> Iterator[tuple[int, TailSketch]]:
    """Sketches of the missing blocks. What a machine could not do is given out again, as long as that helps."""
    reasons: set[str] = set()
    in_vain = 0
    while missing and in_vain < _IN_VAIN:
        rows = [{"begin": begin, "end": min(begin + block_size, n_tasks)} for begin in missing]
        done = set()
        for row in run_blocks(rows, BlockWorker, arguments, workers, options):
            if row["error"]:
                reasons.add(str(row["error"]))
            else:
                done.add(int(row["begin"]))
                yield int(row["begin"]), TailSketch.from_bytes(row["sketch"])
        missing = [begin for begin in missing if begin not in done]
        in_vain = 0 if done else in_vain + 1
    if not missing:
        return
    raise RuntimeError(
        f"all blocks must be scored, got {len(missing)} that were not, the first at task {missing[0]}"
        f"{': ' if reasons else ''}{'; '.join(sorted(reasons)[:3])}; mend the cause and call score() again: it goes on"
    )


def _resolved(scorer: str, tasks: Any, model: Any, counting: Mapping[str, Any] | None) -> str:
    """The name of the scorer, after "auto" was tried out on a task."""
    if scorer != "auto":
        return scorer
    few = tasks.block(0, 1) if isinstance(tasks, TaskBlocks) else tasks.subset(np.arange(1))
    found = make_measuring_scorer("auto", few, model, 0, counting)
    names = {"ExactScorer": "exact", "SurvivalScorer": "survival", "FrequencyScorer": "frequency"}
    assert set(names.values()) == set(UNITS)
    return names[type(found).__name__]


def _try_out(job: Job) -> None:
    """Score a few tasks here, so that what fails for every task fails before the work starts."""
    n = len(job.tasks)
    errors = []
    for task in sorted({0, n // 2, n - 1}):
        try:
            score_block(job.tasks, task, task + 1, job.make, job.model, job.seed, job.unit, isolate=False)
            return
        except Exception as error:  # a user's environment may raise anything
            errors.append(error)
    raise ValueError(
        f"tasks must be ones that the model can be scored on, got {type(errors[0]).__name__}: {errors[0]} for three of "
        "them; check that model, tasks and scorer belong together"
    ) from errors[0]


def _checksum(model: Any) -> str:
    """A checksum of a model, or the text of what is none."""
    return model_checksum(model) if isinstance(model, (BaseAlgorithm, th.nn.Module)) else repr(model)
