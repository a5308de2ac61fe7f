"""Ids: registering families, and making the pool that belongs to an id."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from minigrid.core.world_object import WorldObj

from sb3_forecast_envs.cart_pole.pool import CartPoleTasks
from sb3_forecast_envs.gridworld.family import REGISTERED, TaskFamily
from sb3_forecast_envs.gridworld.pool import TaskPool
from sb3_forecast_envs.gridworld.rules import make_rules
from sb3_forecast_envs.pool import Pool
from sb3_forecast_envs.seeded.pool import SeededTasks

NAMESPACE = "SB3Forecast"


def register_family(family: TaskFamily) -> str:
    """Register a family under its id; registering an equal family again changes nothing.

    :param family: the family
    :return: the Gymnasium id, ``SB3Forecast/<Name>-<S>x<S>-v0``, usable at once by ``gym.make`` and :class:`TaskPool`
    :raises ValueError: if another family has the id, a cell's object is unknown to MiniGrid, two cells look the same, or drawing the
        same task twice gives different layouts
    """
    id_ = f"{NAMESPACE}/{family.id}-v0"
    if REGISTERED.get(family.id, family) != family:
        raise ValueError(
            f"{id_} is registered for another {type(family).__name__}; give the class another `name`, or pass the object"
        )
    _check_cells(family)
    # toggles every object, and says which result is no cell of the family
    make_rules(family.id, family.cells, family.actions, family.stride, family.offsets, not family.see_through_walls)
    _check_deterministic(family)
    REGISTERED[family.id] = family
    if id_ not in gym.registry:
        gym.register(id_, entry_point="sb3_forecast_envs.gridworld.env:GridWorldEnv", kwargs={"family": family})
    return id_


def make_pool(env_id: str, n_tasks: int, seed: int, failed: Callable[[Any], bool] | None = None) -> Pool | None:
    """The tasks of an environment: what the command line asks for.

    A family's id makes its tasks, any other registered id becomes tasks by reset seeds.

    :param env_id: Gymnasium id
    :param n_tasks: number of tasks
    :param seed: seed of the tasks
    :param failed: what counts as failure, see :class:`SeededTasks`; ``None`` for what the environment says itself
    :return: the pool; ``None`` if the id is not registered
    """
    if env_id not in gym.registry and not env_id.startswith(f"{NAMESPACE}/"):
        return None
    if failed is None and env_id == f"{NAMESPACE}/CartPole-v0":
        return CartPoleTasks(n_tasks, seed)
    if failed is None and env_id.startswith(f"{NAMESPACE}/"):
        return TaskPool(env_id, n_tasks, seed)
    return SeededTasks(env_id, n_tasks, failed, first_seed=seed * 1_000_000)


def _check_cells(family: TaskFamily) -> None:
    seen: dict[tuple[int, int, int], str] = {}
    for cell in family.cells:
        try:
            built = None if cell.make is None else cell.make()
        except AssertionError as error:
            raise ValueError(
                f"{family.id}: MiniGrid knows no object type {error} of cell {cell.name!r}; derive the object from a known one, such as "
                "WorldObj('floor', 'blue') with a state of its own, as ThinIceTile does"
            ) from error
        if built is not None and not isinstance(built, WorldObj):
            raise ValueError(
                f"{family.id}: cell {cell.name!r} makes a {type(built).__name__}; it must make a MiniGrid WorldObj"
            )
        if cell.encoding in seen:
            raise ValueError(
                f"{family.id}: cells {seen[cell.encoding]!r} and {cell.name!r} have the same MiniGrid encoding {cell.encoding}: no observation "
                "could tell them apart; give one of them another colour or state"
            )
        seen[cell.encoding] = cell.name


def _check_deterministic(family: TaskFamily) -> None:
    for index in range(4):
        first, second = family.draw(0, index), family.draw(0, index)
        if first.start != second.start or first.rare != second.rare or not np.array_equal(first.layout, second.layout):
            raise ValueError(
                f"{family.id}: task {index} of seed 0 came out differently when drawn again; take all randomness in draw_layout from its rng "
                "argument, and keep no state between draws"
            )
