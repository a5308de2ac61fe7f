"""Says what happened when a process that runs environments dies: Stable-Baselines3 only sees a broken pipe."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import connection
from multiprocessing.process import BaseProcess

from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv, VecEnvWrapper


@contextmanager
def watched(env: VecEnv | None, then: str) -> Iterator[None]:
    """Turn the broken pipe of a dead worker into an error that names the worker, how it ended, and the remedy.

    :param env: environments, in other processes (``SubprocVecEnv``) or not
    :param then: what to do after that
    :raises ConnectionError: if a worker has died
    """
    try:
        yield
    except (EOFError, BrokenPipeError, ConnectionResetError) as error:
        dead = _dead(env)
        if dead is None:
            raise
        number, process = dead
        raise ConnectionError(
            f"a worker process of the environment died, number {number}, {_how(process.exitcode)}; use a new environment, with fewer workers "
            f"if the memory was short, and {then}"
        ) from error


def _dead(env: VecEnv | None) -> tuple[int, BaseProcess] | None:
    """The first dead worker of an environment, with its number; ``None`` if none has died or it has none."""
    while isinstance(env, VecEnvWrapper):
        env = env.venv
    processes: list[BaseProcess] = list(env.processes) if isinstance(env, SubprocVecEnv) else []
    if processes:
        # the pipe can break a moment before the process is seen to be dead
        connection.wait([process.sentinel for process in processes], timeout=5.0)
    return next(((i, process) for i, process in enumerate(processes) if not process.is_alive()), None)


def _how(exitcode: int | None) -> str:
    if exitcode is None or exitcode >= 0:
        return f"with exit code {exitcode}, and its own error is printed above"
    try:
        name = signal.Signals(-exitcode).name
    except ValueError:
        name = f"signal {-exitcode}"
    return f"killed by {name}"
