"""Register families under Gymnasium ids, and make the pool of tasks for an id."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from minigrid.core.world_object import WorldObj

from sb3_forecast_envs.cart_pole.pool import CartPoleTasks
from sb3_forecast_envs.contexts import ContextTasks, parse_context
from sb3_forecast_envs.gridworld.family import REGISTERED, TaskFamily
from sb3_forecast_envs.gridworld.pool import TaskPool, TaskStream
from sb3_forecast_envs.gridworld.replay import check_same_game
from sb3_forecast_envs.gridworld.rules import make_rules
from sb3_forecast_envs.pool import Pool
from sb3_forecast_envs.seeded.pool import MakeFromId, SeededTasks, Wrapper

NAMESPACE = "SB3Forecast"


def register_family(family: TaskFamily, replay: bool = True) -> str:
    """Register a family under its id. Registering an equal family again changes nothing.

    :param family: the family
    :param replay: whether to play 400 random steps of its MiniGrid environment against the batched one, which takes a second; they must not
        differ
    :return: the Gymnasium id, ``SB3Forecast/<Name>-<S>x<S>-v0``; ``gym.make`` and :class:`TaskPool` accept it at once
    :raises ValueError: if another family has the id, Gymnasium refuses it, MiniGrid does not know a cell's object, two cells look the same,
        an action is unknown, a cell can be toggled into an object that is not a cell of the family, drawing the same task twice gives different
        results, or the MiniGrid environment plays another game than the batched one
    """
    id_ = f"{NAMESPACE}/{family.id}-v0"
    if REGISTERED.get(family.id, family) != family:
        raise ValueError(
            f"the id of the family must be free, got {id_}, which is registered for another {type(family).__name__}; give the class "
            "another `name`, or pass the family object instead of an id"
        )
    _check_cells(family)
    # for its checks: it refuses unknown actions, and objects that toggle into something unknown
    make_rules(family.id, family.cells, family.actions, family.stride, family.offsets, not family.see_through_walls)
    _check_deterministic(family)
    if replay and family.id not in REGISTERED:
        check_same_game(family)
    if id_ not in gym.registry:
        try:
            gym.register(id_, entry_point="sb3_forecast_envs.gridworld.env:GridWorldEnv", kwargs={"family": family})
        except gym.error.Error as error:
            raise ValueError(
                f"name of the family must make an id that Gymnasium takes, got {family.name!r} ({error}); use letters and digits"
            ) from error
    # only now, so that a family that Gymnasium refuses is not half registered
    REGISTERED[family.id] = family
    return id_


def make_pool(
    env_id: str,
    n_tasks: int,
    seed: int,
    failed: Callable[[Any], bool] | None = None,
    timeout_fails: bool = False,
    wrappers: Sequence[Wrapper] = (),
    stream: bool = False,
    contexts: Sequence[str] = (),
) -> Pool | TaskStream | None:
    """Make the tasks of an environment; the command line and RL Zoo use it.

    The id of a family gives a :class:`TaskPool`, ``SB3Forecast/CartPole-v0`` gives :class:`CartPoleTasks`, and any other registered id gives
    :class:`SeededTasks`. With ``failed``, ``timeout_fails`` or ``wrappers`` every id gives :class:`SeededTasks`.

    :param env_id: Gymnasium id
    :param n_tasks: number of tasks
    :param seed: seed of the tasks
    :param failed: what counts as failure, see :class:`SeededTasks`; ``None`` for the environment's own definition
    :param timeout_fails: whether an episode that reaches its time limit has failed
    :param wrappers: wrappers around the environment, the innermost first
    :param stream: whether gridworld tasks are to be a :class:`TaskStream`, for numbers of tasks that do not fit into the memory
    :param contexts: numbers of the environment that differ from task to task, such as ``gravity=normal(-10,1)``; with them every id gives
        :class:`ContextTasks`
    :return: the pool; ``None`` if the id is not registered
    """
    if env_id not in gym.registry and not env_id.startswith(f"{NAMESPACE}/"):
        return None
    own = failed is None and not timeout_fails and not wrappers and not contexts
    if own and env_id == f"{NAMESPACE}/CartPole-v0":
        return CartPoleTasks(n_tasks, seed)
    if own and env_id.startswith(f"{NAMESPACE}/"):
        return TaskStream(env_id, n_tasks, seed) if stream else TaskPool(env_id, n_tasks, seed)
    env = MakeFromId(env_id, wrappers) if wrappers else env_id
    if contexts:
        drawn = dict(parse_context(text) for text in contexts)
        return ContextTasks(env, n_tasks, drawn, failed, seed, timeout_fails=timeout_fails)
    return SeededTasks(env, n_tasks, failed, first_seed=seed * 1_000_000, timeout_fails=timeout_fails)


def _check_cells(family: TaskFamily) -> None:
    seen: dict[tuple[int, int, int], str] = {}
    for cell in family.cells:
        try:
            built = None if cell.make is None else cell.make()
        except AssertionError as error:
            raise ValueError(
                f"{family.id}: the object of cell {cell.name!r} must have a type that MiniGrid knows, got {error}; use a known type, such as "
                "WorldObj('floor', 'blue'), with a state of its own, as ThinIceTile does"
            ) from error
        if built is not None and not isinstance(built, WorldObj):
            raise ValueError(
                f"{family.id}: `make` of cell {cell.name!r} must return a MiniGrid WorldObj, got {type(built).__name__}; use a class derived "
                "from WorldObj"
            )
        if cell.encoding in seen:
            raise ValueError(
                f"{family.id}: every cell must have a MiniGrid encoding of its own, got {cell.encoding} for both {seen[cell.encoding]!r} and "
                f"{cell.name!r}, which would look the same to the agent; use another colour or state for one of them"
            )
        seen[cell.encoding] = cell.name


def _check_deterministic(family: TaskFamily) -> None:
    for index in range(4):
        first, second = family.draw(0, index), family.draw(0, index)
        if first.start != second.start or first.rare != second.rare or not np.array_equal(first.layout, second.layout):
            raise ValueError(
                f"{family.id}: draw_layout must return the same task for the same rng, got two different results for task {index} of seed 0; "
                "take all random numbers from the argument rng, and keep no state between draws"
            )
