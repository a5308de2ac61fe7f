"""Running a study: seeds side by side, finished runs kept, one record per run."""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any, Literal, Protocol

import torch as th
from rich.console import Console

from sb3_forecast.checks import whole
from sb3_forecast.files import set_aside
from sb3_forecast.training.lock import FolderLock
from studies.records import DamagedRecordError, Record, make_record, read_record, record_path

#: the code that every study depends on
LIBRARY = ("sb3_forecast/**/*.py", "envs/**/*.py")


class Settings(Protocol):
    """The options of a study, a frozen dataclass."""

    @property
    def seeds(self) -> int:
        """Number of seeds."""

    @property
    def first_seed(self) -> int:
        """The first of them."""

    @property
    def output(self) -> Path:
        """Where everything goes."""

    @property
    def jobs(self) -> int | Literal["ray"]:
        """Seeds run side by side, in processes of this machine or as tasks of Ray."""

    @property
    def progress_bar(self) -> bool:
        """Show progress."""

    def check(self) -> None:
        """Reject settings that cannot be run, before any work starts.

        :raises ValueError: naming the setting, its value and the remedy
        """

    def kept(self) -> dict[str, Any]:
        """The settings that a result depends on: what records in one folder must share."""


@dataclass(frozen=True)
class Run:
    """What a study's function is given.

    :param settings: the options
    :param method: what to run
    :param seed: its seed
    :param folder: for checkpoints and logs of this seed, shared by its methods
    """

    settings: Any
    method: str
    seed: int
    folder: Path

    def record_of(self, method: str) -> Record:
        """The record of a method of the same seed that was run before.

        :param method: its name
        """
        return read_record(record_path(self.settings.output / "records", method, self.seed))


@dataclass(frozen=True)
class Study:
    """A description of a study.

    :param name: of the study
    :param run: trains and measures one method; what it returns is the record's result
    :param methods: what is run for given settings, in this order; what comes first may leave checkpoints for the others
    :param report: prints and writes tables and figures of finished records
    :param sources: code that the results depend on, besides the library; globs
    """

    name: str
    run: Callable[[Run], dict[str, Any]]
    methods: Callable[[Any], Sequence[str]]
    report: Callable[[Any, list[Record], Console], None]
    sources: tuple[str, ...]


def run_study(study: Study, settings: Settings) -> list[Record]:
    """Run what has no record yet, then report.

    :param study: the study
    :param settings: its options
    :return: the records of the settings' seeds and methods
    :raises ValueError: if the settings cannot be run, or the folder holds records of other settings
    """
    if settings.jobs != "ray":
        whole("jobs", settings.jobs, low=1, use="the number of seeds to run side by side, or ray")
    settings.check()
    seeds = range(settings.first_seed, settings.first_seed + settings.seeds)
    wanted = [(method, seed) for seed in seeds for method in study.methods(settings)]
    _claim(study, settings)
    console = Console()
    if settings.jobs == 1:
        for seed in seeds:
            console.rule(f"{study.name}, seed {seed}")
            run_seed(study, settings, seed)
    elif settings.jobs == "ray":
        run_with_ray(study, settings, seeds, console)
    else:
        _run_side_by_side(study, settings, seeds, console)
    records = [read_record(record_path(settings.output / "records", method, seed)) for method, seed in wanted]
    study.report(settings, records, console)
    console.print(f"\nRecords, tables and figures are in [bold]{settings.output}[/bold].")
    return records


def run_seed(study: Study, settings: Settings, seed: int) -> int:
    """Run every method of a seed that has no record yet.

    :param study: the study
    :param settings: its options
    :param seed: the seed
    :return: the seed
    :raises ValueError: if another process runs the seed
    """
    folder = settings.output / f"seed{seed}"
    lock = FolderLock(folder)
    # two processes may share the output, but not a seed: each would overwrite the checkpoints that the other one starts from
    lock.take()
    try:
        folder.mkdir(parents=True, exist_ok=True)  # where the system has no locks
        for method in study.methods(settings):
            if record_path(settings.output / "records", method, seed).exists():
                continue
            start = time.perf_counter()
            result = study.run(Run(settings, method, seed, folder))
            seconds = time.perf_counter() - start
            sources = (*LIBRARY, "studies/runner.py", *study.sources)
            record = make_record(study.name, method, seed, settings.kept(), result, seconds, sources)
            record.write(settings.output / "records")
    finally:
        lock.release()
    return seed


def _run_side_by_side(study: Study, settings: Settings, seeds: Sequence[int], console: Console) -> None:
    """:func:`run_seed` in several processes.

    :raises RuntimeError: if one of them is killed
    """
    with ProcessPoolExecutor(int(settings.jobs), mp_context=get_context("spawn"), initializer=_end_with_parent) as executor:
        running = {executor.submit(_run_alone, study, settings, seed): seed for seed in seeds}
        try:
            for done in as_completed(running):
                console.print(f"seed {done.result()} is done")
        except BrokenProcessPool as error:
            unfinished = sorted(seed for future, seed in running.items() if not future.done() or future.exception())
            raise RuntimeError(
                f"a process of the study died, for example for lack of memory, and seeds {unfinished} are unfinished; use the same command "
                "again to run what has no record yet, with fewer --jobs if the memory was short"
            ) from error


def run_with_ray(study: Study, settings: Settings, seeds: Sequence[int], console: Console) -> None:
    """:func:`run_seed` as tasks of Ray, with a core each. A seed whose machine is lost is started again, and goes on with what has no record.

    The machines need this code, and the output on a disk that they share.

    :param study: the study
    :param settings: its options
    :param seeds: the seeds
    :param console: where to print
    :raises ImportError: if Ray is missing
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError(
            "jobs='ray' needs Ray; run `pip install 'sb3-forecast[cluster]'`, or use a number of jobs"
        ) from error
    from sb3_forecast.cluster.connection import connected

    with connected("auto" if os.environ.get("RAY_ADDRESS") else None):
        task = ray.remote(num_cpus=1, max_retries=3)(_run_alone)
        running = {task.remote(study, settings, seed) for seed in seeds}
        errors: list[Exception] = []
        while running:
            done, left = ray.wait(list(running))
            running = set(left)
            try:
                console.print(f"seed {ray.get(done[0])} is done")
            except ray.exceptions.RayError as error:  # the other seeds go on
                errors.append(error)
    if errors:
        raise errors[0]


def _end_with_parent() -> None:
    """End this process when the one that started it is killed: nobody would see what it does, and it would never end."""

    def wait() -> None:
        parent = parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _run_alone(study: Study, settings: Settings, seed: int) -> int:
    """:func:`run_seed` in a process of its own, with one thread."""
    th.set_num_threads(1)
    return run_seed(study, settings, seed)


def _claim(study: Study, settings: Settings) -> None:
    """See that the folder's records, if it has any, belong to these settings."""
    for path in (settings.output / "records").glob("*-seed*.json"):
        try:
            found = read_record(path)
        except DamagedRecordError as error:
            aside = set_aside(path)
            warnings.warn(
                f"{str(error).split(';')[0]}: it is set aside as {aside.name}, and its run is done again", stacklevel=3
            )
            continue
        if found.study != study.name or found.settings != settings.kept():
            theirs, ours = found.settings, settings.kept()
            differ = sorted(key for key in {*theirs, *ours} if theirs.get(key) != ours.get(key))
            raise ValueError(
                f"output must hold records of these settings or none, got {settings.output} with {found.study} records that differ in {differ}; "
                "choose another folder, or delete it"
            )
