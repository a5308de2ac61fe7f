"""Running a function on many blocks with Ray Data."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray.data

from sb3_forecast.cluster.connection import room

_LOGGER = logging.getLogger("ray.data")


@contextmanager
def quiet() -> Iterator[None]:
    """Ray Data without bars and reports of its own, and going on after a lost block. The settings of before are restored."""
    context = ray.data.DataContext.get_current()
    wanted = {"enable_progress_bars": False, "print_on_execution_start": False, "max_errored_blocks": -1}
    before = {name: getattr(context, name) for name in wanted}
    detectors, level = context.issue_detectors_config.detectors, _LOGGER.level
    for name, value in wanted.items():
        setattr(context, name, value)
    context.issue_detectors_config.detectors = []
    _LOGGER.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(context, name, value)
        context.issue_detectors_config.detectors = detectors
        _LOGGER.setLevel(level)


def run_blocks(
    rows: Sequence[dict[str, Any]],
    worker: Callable[..., Any],
    arguments: tuple[Any, ...],
    workers: int | None,
    options: dict[str, Any],
) -> Iterator[dict[str, Any]]:
    """Give each row to one of the workers, and return what comes back, in any order.

    Each row is a block of Ray's own, so that a lost worker costs the row it was at. Workers that die are started again.

    :param rows: what to work on
    :param worker: class of the actors, which are made once per worker, or a function
    :param arguments: of its constructor, or of the function after its batch
    :param workers: number of workers; ``None`` for as many as the machines have room for, now and later
    :param options: of each worker: ``num_cpus``, ``num_gpus``, ``memory``
    """
    data = ray.data.from_items(list(rows), override_num_blocks=len(rows))
    if isinstance(worker, type):
        least = min(workers or room(options), len(rows))
        pool = ray.data.ActorPoolStrategy(min_size=least, max_size=workers and least, max_tasks_in_flight_per_actor=2)
        yield from data.map_batches(worker, fn_constructor_args=arguments, batch_size=1, compute=pool, **options).iter_rows()
    else:
        tasks = ray.data.TaskPoolStrategy(size=workers)
        # a task that kills its process must not be tried for ever
        settings = {**options, "max_retries": 3}
        yield from data.map_batches(worker, fn_args=arguments, batch_size=1, compute=tasks, **settings).iter_rows()
