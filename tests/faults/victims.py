"""Processes to be killed, starved of disk or raced: forked, so that a start costs no imports.

A kill comes at a chosen event on the files of one folder (an opened file, a rename, a removal), or a chosen moment after it. Events are the
places where a half-written file could be left; the moments after them hit the middle of a write, and the work in between.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_FORK = multiprocessing.get_context("fork")
#: what counts as an event, if it concerns the watched folder
_EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "shutil.rmtree"}


@dataclass(frozen=True)
class Kill:
    """When a process is killed.

    :param folder: whose files are watched
    :param event: number of the event, from 1
    :param delay: seconds after the event
    """

    folder: Path
    event: int
    delay: float = 0.0


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    :param killed: whether SIGKILL ended it
    :param value: what its job returned
    :param error: the class of the error that ended its job, and its message
    :param trace: where that error came from
    :param events: events on files, if they were counted
    """

    killed: bool
    value: Any = None
    error: tuple[str, str] | None = None
    trace: str = ""
    events: int = 0


class Victim:
    """A job in a process of its own.

    :param job: what it does
    :param kill: when it is killed; an event of 0 only counts the events
    :param limit: largest size of a file that it may write, in bytes: a full disk
    """

    def __init__(self, job: Callable[[], Any], kill: Kill | None = None, limit: int | None = None) -> None:
        self._mine, theirs = _FORK.Pipe(duplex=False)
        self.process = _FORK.Process(target=_live, args=(job, theirs, kill, limit))
        self.process.start()
        theirs.close()

    def end(self) -> Ended:
        """Wait for the end."""
        try:
            ended = self._mine.recv()
        except EOFError:
            ended = None
        self.process.join()
        self._mine.close()
        if ended is None:
            assert self.process.exitcode == -signal.SIGKILL, f"ended with {self.process.exitcode}, without a word"
            return Ended(killed=True)
        return ended


def run(job: Callable[[], Any], kill: Kill | None = None, limit: int | None = None) -> Ended:
    """Run a job in a process of its own; see :class:`Victim`."""
    return Victim(job, kill, limit).end()


def result(job: Callable[[], Any]) -> Any:
    """The result of a job that must end well."""
    ended = run(job)
    assert ended.error is None, ended.trace
    return ended.value


def kill_often(job: Callable[[Path], Any], root: Path, check: Callable[[Path], None], times: int, seed: int) -> list[Any]:
    """Kill a job again and again, always going on where it was; check its folder after each kill.

    :param job: works in a folder, and goes on with what it finds there
    :param root: where the folders are made; a job that gets to its end before it is killed begins anew in the next one
    :param check: looks at the folder after each kill
    :param times: number of kills
    :param seed: of the moments
    :return: the results of the jobs that got to their end; at least one
    """
    rng = np.random.default_rng(seed)
    counted = root / "counted"
    counted.mkdir()
    total = run(functools.partial(job, counted), Kill(counted, 0)).events
    assert total > 1
    results, kills, number = [], 0, 0
    while kills < times or not results:
        folder = root / f"run{number}"
        folder.mkdir(exist_ok=True)
        # most kills come early in what is left, so that one run is killed several times
        event = int(rng.integers(1, max(3, total // 3))) if kills < times else 10**9
        delay = 0.0 if rng.random() < 0.5 else float(rng.exponential(0.01))
        ended = run(functools.partial(job, folder), Kill(folder, event, delay))
        assert ended.error is None, ended.trace
        if ended.killed:
            kills += 1
            check(folder)
        else:
            results.append(ended.value)
            number += 1
    return results


def _live(job: Callable[[], Any], out: Any, kill: Kill | None, limit: int | None) -> None:
    events = [0]
    if limit is not None:
        # what is printed goes into a file, too, when pytest catches it
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # or the signal ends the process, and no error is seen
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    if kill is not None:
        _watch(kill, events)
    try:
        ended = Ended(False, value=job(), events=events[0])
    except BaseException as error:
        ended = Ended(False, error=(type(error).__name__, str(error)), trace=traceback.format_exc(), events=events[0])
    out.send(ended)
    out.close()


def _watch(kill: Kill, events: list[int]) -> None:
    watched = str(kill.folder)

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def see(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in _EVENTS or not arguments or isinstance(arguments[0], int):
            return
        # a folder is removed by names relative to it
        inside = event in ("os.remove", "os.rmdir") and arguments[-1] != -1
        if watched not in str(arguments[0]) and not inside:
            return
        events[0] += 1
        if events[0] == kill.event:
            if kill.delay == 0.0:
                die()
            threading.Timer(kill.delay, die).start()

    sys.addaudithook(see)
