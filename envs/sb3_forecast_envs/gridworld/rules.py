"""The rules of a family as tables for the compiled kernels. The tables are made from the MiniGrid objects themselves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
from minigrid.core.actions import Actions
from minigrid.core.world_object import WorldObj
from numpy.typing import NDArray

from sb3_forecast_envs.gridworld.cells import Cell, encoding_of

U8 = NDArray[np.uint8]
I64 = NDArray[np.int64]
F64 = NDArray[np.float64]

#: numbers of MiniGrid's actions, by the names that families use
MOVES: dict[str, int] = {name: int(Actions[name]) for name in ("left", "right", "forward", "pickup", "toggle", "done")}


#: columns of ``Rules.kinds``
WALKABLE, OUTCOME, OPAQUE, PICKABLE = range(4)


class Rules(NamedTuple):
    """The rules of one family. ``C`` is its number of cells; the code of a cell is its position among them.

    :param stride: width of a padded layout in cells
    :param moves: MiniGrid action of each of the agent's actions, shape (actions,), int64
    :param kinds: properties of each code, shape (C, 4), uint8. The columns are ``WALKABLE`` (the agent can enter), ``OUTCOME`` (what
        entering does to the episode), ``OPAQUE`` (the view ends here) and ``PICKABLE`` (the agent can pick the object up)
    :param toggled: ``toggled[load, code]`` is the new code of a cell that is toggled by an agent that carries ``load`` (0: nothing),
        shape (C, C), uint8
    :param slip: probability that a forward move off the cell goes sideways, shape (C,), float64
    :param offsets: see ``view_offsets``, shape (4, view^2), int64
    :param occluded: whether opaque cells hide what is behind them
    :param variants: every code that a cell of this code can get during an episode, its own first, shape (C, largest number), uint8
    :param n_variants: number of these codes, shape (C,), int64
    :param loads: codes that the agent can carry, 0 (nothing) first, uint8
    """

    stride: int
    moves: I64
    kinds: U8
    toggled: U8
    slip: F64
    offsets: I64
    occluded: bool
    variants: U8
    n_variants: I64
    loads: U8


def make_rules(name: str, cells: Sequence[Cell], actions: Sequence[str], stride: int, offsets: I64, occluded: bool) -> Rules:
    """Make the rules of a family.

    :param name: name of the family, for messages
    :param cells: its cells
    :param actions: names of the agent's actions, from ``MOVES``
    :param stride: width of a padded layout in cells
    :param offsets: view offsets, see ``view_offsets``
    :param occluded: whether opaque cells hide what is behind them
    :return: the rules
    :raises ValueError: if an action is unknown, or toggling a cell makes an object that is not a cell of the family
    """
    unknown = [action for action in actions if action not in MOVES]
    if unknown:
        remedy = "leave 'drop' out, since a dropped object could lie anywhere" if "drop" in unknown else "use these names"
        raise ValueError(f"{name}: actions must be among {list(MOVES)}, got {unknown}; {remedy}")
    things = [None if cell.make is None else cell.make() for cell in cells]
    pickable = _flags("pickup" in actions and thing is not None and thing.can_pickup() for thing in things)
    loads = np.array([0, *np.flatnonzero(pickable)], dtype=np.uint8)
    toggled = _toggle_table(name, cells, "toggle" in actions, loads)
    variants = [_variants(code, toggled, pickable) for code in range(len(cells))]
    table = np.zeros((len(cells), max(len(v) for v in variants)), dtype=np.uint8)
    for code, row in enumerate(variants):
        table[code, : len(row)] = row
    return Rules(
        stride=stride,
        moves=np.array([MOVES[action] for action in actions], dtype=np.int64),
        kinds=np.stack(
            [
                _flags(thing is None or thing.can_overlap() for thing in things),
                np.array([cell.outcome for cell in cells], dtype=np.uint8),
                _flags(thing is not None and not thing.see_behind() for thing in things),
                pickable,
            ],
            axis=1,
        ),
        toggled=toggled,
        slip=np.array([cell.slip for cell in cells]),
        offsets=offsets,
        occluded=occluded,
        variants=table,
        n_variants=np.array([len(v) for v in variants], dtype=np.int64),
        loads=loads,
    )


def _flags(values: Iterable[bool]) -> U8:
    return np.fromiter(values, dtype=np.uint8)


#: where the toggled object lies; an object that reads or changes any other place has a remote effect
_PLACE = (7, 11)


class _RemoteError(Exception):
    """An object reads or changes another cell than its own."""


class _Square:
    """A MiniGrid grid of which only one square may be used."""

    def __init__(self, content: WorldObj) -> None:
        self.content: WorldObj | None = content

    def set(self, x: int, y: int, thing: WorldObj | None) -> None:
        if (x, y) != _PLACE:
            raise _RemoteError
        self.content = thing

    def get(self, x: int, y: int) -> WorldObj | None:
        if (x, y) != _PLACE:
            raise _RemoteError
        return self.content


def _toggle_table(name: str, cells: Sequence[Cell], can_toggle: bool, loads: U8) -> U8:
    """Toggle every object with every possible load, and note what it becomes."""
    codes = {cell.encoding: code for code, cell in enumerate(cells)}
    table = np.tile(np.arange(len(cells), dtype=np.uint8), (len(cells), 1))
    if not can_toggle:
        return table
    for load in loads.tolist():
        carried = cells[load].make
        for code, cell in enumerate(cells):
            if cell.make is None:
                continue
            thing = cell.make()
            square = _Square(thing)
            # a MiniGrid object that is toggled uses only these two attributes of the environment
            env = SimpleNamespace(carrying=None if carried is None else carried(), grid=square)
            try:
                thing.toggle(env, _PLACE)
            except (_RemoteError, AttributeError) as error:
                raise ValueError(
                    f"{name}: toggling {cell.name!r} must read and change only its own cell and what the agent carries, got "
                    f"{str(error) or 'another cell'}; play your environment through SeededTasks instead"
                ) from error
            if encoding_of(env.carrying) != cells[load].encoding:
                raise ValueError(
                    f"{name}: toggling {cell.name!r} must not change what the agent carries, got {encoding_of(env.carrying)} in place of "
                    f"{cells[load].encoding}; play your environment through SeededTasks instead"
                )
            became = encoding_of(square.content)
            if became not in codes:
                raise ValueError(
                    f"{name}: toggling {cell.name!r} must give a cell of the family, got an object with encoding {became}; add a Cell for it"
                )
            table[load, code] = codes[became]
    return table


def _variants(code: int, toggled: U8, pickable: U8) -> list[int]:
    """Codes that a cell can get during an episode, because the agent toggles it or picks it up."""
    found = [code]
    for current in found:  # the list grows during the loop: the agent may pick up what a toggle reveals
        following = set(toggled[:, current].tolist()) | ({0} if pickable[current] else set())
        found.extend(sorted(following - set(found)))
    return found
