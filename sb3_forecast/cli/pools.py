"""Make a pool of tasks for the id of an environment.

The pool comes from an installed package. A package offers pools with an entry point in the group ``sb3_forecast.pools``: a function with the
arguments (env_id, n_tasks, seed, failed), and timeout_fails=True, wrappers=[...], contexts=[...] or stream=True where they are asked for. It
returns a pool, or ``None`` if it does not know the id. ``sb3_forecast_envs`` offers pools for its families and for every id of Gymnasium.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from typing import Any

from sb3_forecast.scorers.protocols import SupportsEpisodes

GROUP = "sb3_forecast.pools"

MakePool = Callable[..., SupportsEpisodes | None]


def pool_makers() -> list[MakePool]:
    """Load the functions of the installed packages that make pools. Loading them also registers their environments.

    :return: the functions, at least one
    :raises ValueError: if no installed package offers pools
    """
    makers: list[MakePool] = [entry.load() for entry in entry_points(group=GROUP)]
    if not makers:
        raise ValueError(
            f"an installed package must offer pools of tasks (entry point group {GROUP!r}), got none; reinstall sb3-forecast"
        )
    return makers


def make_pool(
    env_id: str,
    n_tasks: int,
    seed: int,
    failed: str | None = None,
    timeout_fails: bool = False,
    wrappers: Sequence[str] = (),
    stream: bool = False,
    contexts: Sequence[str] = (),
) -> SupportsEpisodes:
    """Make a pool of tasks of an environment.

    :param env_id: Gymnasium id; ``module:id`` imports the module first
    :param n_tasks: number of tasks
    :param seed: seed of the tasks
    :param failed: ``module:function`` that decides from a step if it failed; ``None`` if the environment reports failures itself
    :param timeout_fails: whether an episode that reaches its time limit has failed
    :param wrappers: ``module:class`` of each wrapper around the environment, the innermost first
    :param stream: whether the tasks may be a stream, which draws them block by block
    :param contexts: numbers of the environment that differ from task to task, such as ``gravity=normal(-10,1)``
    :return: the pool
    :raises ValueError: if the environment, the function or a wrapper does not exist
    """
    module, _, name = env_id.rpartition(":")
    if module:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ValueError(
                f"env_id must name a module that can be imported, got {env_id!r} ({error}); check its name, or set PYTHONPATH"
            ) from error
    predicate = None if failed is None else _imported("failed", failed)
    # pools of other packages may not know these arguments
    asked: dict[str, Any] = {"timeout_fails": True} if timeout_fails else {}
    if wrappers:
        asked["wrappers"] = [_imported("wrapper", wrapper) for wrapper in wrappers]
    if contexts:
        asked["contexts"] = contexts
    if stream:
        asked["stream"] = True
    for make in pool_makers():
        pool = make(name, n_tasks, seed, predicate, **asked)
        if pool is not None:
            return pool
    raise ValueError(
        f"env_id must be registered with Gymnasium, got {env_id!r}; check its name, or use module:id with the module that registers it"
    )


def _imported(name: str, given: str) -> Callable[[Any], Any]:
    """What ``module:function`` names."""
    where, _, what = given.partition(":")
    try:
        found: Callable[[Any], Any] = getattr(importlib.import_module(where), what)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{name} must name a function or class, got {given!r} ({error}); use module:function") from error
    return found
