"""score: all tasks of a deployment, on one machine or many, into a folder and a sketch."""

from __future__ import annotations

import pathlib
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import ray
from tqdm.auto import tqdm

from sb3_forecast.cluster.connection import check_shared, connected, elsewhere, worker_options
from sb3_forecast.cluster.dataset import quiet, run_blocks
from sb3_forecast.cluster.folder import ScoresFolder
from sb3_forecast.cluster.plan import Plan, check_workers, make_plan
from sb3_forecast.cluster.worker import BlockWorker
from sb3_forecast.scorers.blocks import Isolate, MakeScorer, ScoresOthers, TaskBlocks
from sb3_forecast.scorers.protocols import Pool
from sb3_forecast.statistics.sketch import SAMPLE, TOP, TailSketch

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
    retry_errors: bool = False,
    top: int = TOP,
    sample: int = SAMPLE,
    progress_bar: bool = True,
) -> TailSketch:
    """Score every task of a deployment with Ray Data, and write one row per task as Parquet.

    Tasks are drawn where they are scored. The result depends on the tasks, the model, the scorer and the seed: not on the number of workers, the
    size of the blocks, or on what was lost and done again. Call the function again with the same arguments to go on after a kill: blocks that
    are in the folder are not scored again.

    A task that raises an error twice is recorded with it, and has no score; see :func:`read_errors`. What seems to be the machine's fault
    is tried elsewhere first, and recorded with its tasks only when nothing else helps.

    :param model: SB3 model, language model, or what the scorer takes
    :param tasks: tasks that can be drawn by their index: a stream with ``block(begin, end)``, or a pool with ``subset``
    :param folder: where the scores go, a folder that all machines see, or an address such as ``s3://bucket/scores``
    :param scorer: ``"exact"``, ``"survival"``, ``"frequency"``, ``"auto"`` for the strongest that fits; a scorer with ``on(pool, seed)``, such
        as a trained ``EpisodeScorer``; or a picklable function of (model, pool, seed) that returns a scorer, such as ``lm.PromptScorers``
    :param seed: seed of scorers that sample
    :param counting: arguments of the scorer ``"frequency"``, for example ``{"episodes": 50}``
    :param address: ``None`` for this machine, ``"auto"`` for the cluster that it belongs to, or ``"host:port"``. A connection to Ray that is
        there already is used
    :param workers: number of workers; ``None`` for as many as there is room for
    :param block_size: tasks per file, a multiple of the number that is scored together (exact and survival 1024, frequency 64, others 256);
        ``None`` for 16 times that number
    :param num_cpus: cores of a worker
    :param num_gpus: GPUs of a worker
    :param memory: memory of a worker in bytes; ``None`` for four times the model and 700 MB
    :param identity: a name of the settings and weights of a scorer that is no name, or of a model that is neither SB3's nor a network
    :param retry_errors: whether to score blocks again that hold tasks with a recorded error
    :param top: number of largest scores in the sketch; a tail can be fitted to at most as many
    :param sample: size of the random sample in the sketch
    :param progress_bar: whether to show tasks, speed and the time that is left
    :return: the sketch of all scores; it is in the folder as well, as ``sketch.npz``
    :raises TypeError: if the tasks cannot be drawn by their index
    :raises ValueError: if an argument is out of range, no task can be scored, or the folder holds other scores or is not shared
    :raises ConnectionError: if nothing answers at the address
    :raises RuntimeError: if blocks are still missing at the end, with the reason
    """
    check_workers(workers, num_cpus, num_gpus, memory)
    target = ScoresFolder(folder)
    plan = make_plan(model, tasks, scorer, seed, counting, block_size, identity, top, sample)
    target.make()
    claimed = target.check_claim(plan.claim)
    total: TailSketch | None = None
    missing = set(range(0, plan.n_tasks, plan.block_size))
    with tqdm(total=plan.n_tasks, unit="task", desc="scoring", disable=not progress_bar) as bar:

        def add(begin: int, sketch: TailSketch) -> None:
            nonlocal total
            total = sketch if total is None else total.merge(sketch)
            missing.discard(begin)
            first, end = plan.block(begin)
            bar.update(end - first)

        for begin, sketch in target.sketches(plan.about) if claimed else ():
            if not (retry_errors and sketch.n_errors):
                add(begin, sketch)
        if missing:
            with connected(address), quiet():
                options = worker_options(len(plan.packed), num_cpus, num_gpus, memory)
                check_shared(target)
                target.claim(plan.claim)
                for begin, sketch in _passes(plan, sorted(missing), target, (top, sample), workers, options):
                    add(begin, sketch)
    there = target.blocks()
    lost = [begin for begin in range(0, plan.n_tasks, plan.block_size) if begin not in there]
    if lost or total is None:
        raise RuntimeError(
            f"folder must hold every block at the end, got {target.where!r} without {len(lost)} of them, the first at task {lost[0]}; use a "
            "folder that all machines share, and call score() again: it goes on"
        )
    target.sweep()
    target.write("sketch.npz", total.to_bytes())
    return total


def _passes(
    plan: Plan, missing: list[int], target: ScoresFolder, sizes: tuple[int, int], workers: int | None, options: dict[str, Any]
) -> Iterator[tuple[int, TailSketch]]:
    """Sketches of the missing blocks. What a machine could not do is given out again, as long as that helps; then errors are recorded."""
    job, run = [ray.put(plan.packed)], uuid.uuid4().hex
    isolate: Isolate = "tasks"
    in_vain, bad = 0, set[str]()
    while missing and in_vain <= _IN_VAIN:
        rows = [dict(zip(("begin", "end"), plan.block(begin), strict=True)) for begin in missing]
        done, reasons = set(), set()
        arguments = (job, target.where, plan.about, sizes, run, isolate)
        # one machine may take all that is left, and fail again
        where = elsewhere(bad, options) if in_vain and bad else options
        for row in run_blocks(rows, BlockWorker, arguments, workers, where):
            if row["error"]:
                reasons.add(str(row["error"]))
                bad.add(str(row["node"]))
            elif int(row["begin"]) not in done:  # a block that came twice would count twice
                done.add(int(row["begin"]))
                yield int(row["begin"]), TailSketch.from_bytes(row["sketch"])
        missing = [begin for begin in missing if begin not in done]
        in_vain = 0 if done else in_vain + 1
        isolate = "all" if in_vain == _IN_VAIN else isolate
    if missing:
        raise RuntimeError(
            f"all blocks must be scored, got {len(missing)} that were not, the first at task {missing[0]}: "
            f"{'; '.join(sorted(reasons)[:3]) or 'their workers were lost'}; mend the cause and call score() again: it goes on"
        )
