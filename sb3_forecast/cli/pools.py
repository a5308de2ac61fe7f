"""Pools of tasks for an environment's id, from whichever installed package knows it.

A package offers its tasks by an entry point of the group ``sb3_forecast.pools``: a function of (env_id, n_tasks, seed, failed) that returns a
pool, or ``None`` for an id that is not its own. ``sb3_forecast_envs`` does so for its families and for every id of Gymnasium.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

from sb3_forecast.scorers.protocols import SupportsEpisodes

GROUP = "sb3_forecast.pools"

MakePool = Callable[[str, int, int, Callable[[Any], bool] | None], SupportsEpisodes | None]


def pool_makers() -> list[MakePool]:
    """What the installed packages offer; loading them registers their environments.

    :raises ValueError: if there is none
    """
    makers: list[MakePool] = [entry.load() for entry in entry_points(group=GROUP)]
    if not makers:
        raise ValueError(f"packages must offer pools of tasks (entry points {GROUP!r}), got none; install sb3-forecast whole")
    return makers


def make_pool(env_id: str, n_tasks: int, seed: int, failed: str | None = None) -> SupportsEpisodes:
    """Tasks of an environment.

    :param env_id: Gymnasium id; ``module:id`` imports the module first
    :param n_tasks: how many
    :param seed: seed of the tasks
    :param failed: ``module:function`` that tells from a step whether it failed; ``None`` for what the environment says itself
    :raises ValueError: if there is no such environment or function
    """
    module, _, name = env_id.rpartition(":")
    if module:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ValueError(
                f"env_id={env_id!r}: module {module!r} cannot be imported ({error}); check its name, or set PYTHONPATH"
            ) from error
    predicate = None if failed is None else _function(failed)
    for make in pool_makers():
        pool = make(name, n_tasks, seed, predicate)
        if pool is not None:
            return pool
    raise ValueError(
        f"env_id must be registered with Gymnasium, got {env_id!r}; check its name, or write module:id to import what registers it"
    )


def _function(failed: str) -> Callable[[Any], bool]:
    where, _, what = failed.partition(":")
    try:
        found: Callable[[Any], bool] = getattr(importlib.import_module(where), what)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"failed must name a function, got {failed!r} ({error}); write module:function") from error
    return found
