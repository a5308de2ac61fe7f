"""What the compiled kernels know of a family: its cells' properties as tables, read off the MiniGrid objects themselves."""

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

#: MiniGrid's actions, by the name that a family gives them
MOVES: dict[str, int] = {name: int(Actions[name]) for name in ("left", "right", "forward", "pickup", "toggle", "done")}


#: columns of ``Rules.kinds``
WALKABLE, OUTCOME, OPAQUE, PICKABLE = range(4)


class Rules(NamedTuple):
    """One family's rules; ``C`` is its number of cells, a code is a position in that list.

    :param stride: padded width of a layout
    :param moves: MiniGrid action of each of the agent's actions
    :param kinds: shape (C, 4): whether the agent can enter, what entering does, whether the view ends here, whether the agent can
        pick the object up (columns ``WALKABLE``, ``OUTCOME``, ``OPAQUE``, ``PICKABLE``)
    :param toggled: shape (C, C): code that a cell gets when it is toggled by an agent that carries a code (0: nothing)
    :param slip: shape (C,), probability that a forward move off the cell goes sideways
    :param offsets: shape (4, view^2), see ``view_offsets``
    :param occluded: whether opaque cells hide what is behind them
    :param variants: shape (C, longest): every code that a cell of this code can come to have, itself first
    :param n_variants: shape (C,), how many
    :param loads: codes that the agent can carry, 0 (nothing) first
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
    """Rules of a family.

    :param name: the family, for messages
    :param cells: its cells
    :param actions: names of the agent's actions, out of ``MOVES``
    :param stride: padded width of a layout
    :param offsets: view offsets
    :param occluded: whether opaque cells hide what is behind them
    :return: the rules
    :raises ValueError: if an action is unknown, or a cell toggles into something that is no cell of the family
    """
    unknown = [action for action in actions if action not in MOVES]
    if unknown:
        remedy = "; a dropped object could lie anywhere, which no finite model holds" if "drop" in unknown else ""
        raise ValueError(f"{name}: actions {unknown} are not among {list(MOVES)}{remedy}")
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


class _Square:
    """A grid of one square."""

    def __init__(self, content: WorldObj) -> None:
        self.content = content

    def set(self, x: int, y: int, thing: WorldObj | None) -> None:
        self.content = thing


def _toggle_table(name: str, cells: Sequence[Cell], can_toggle: bool, loads: U8) -> U8:
    """Toggle every object with every possible load, and look what it became."""
    codes = {cell.encoding: code for code, cell in enumerate(cells)}
    table = np.tile(np.arange(len(cells), dtype=np.uint8), (len(cells), 1))
    if not can_toggle:
        return table
    for load in loads.tolist():
        carried = cells[load].make
        for code, cell in enumerate(cells):
            if cell.make is None:
                continue
            square = _Square(cell.make())
            # all that MiniGrid's objects ask of the world when they are toggled
            square.content.toggle(SimpleNamespace(carrying=None if carried is None else carried(), grid=square), (0, 0))
            became = encoding_of(square.content)
            if became not in codes:
                raise ValueError(
                    f"{name}: toggling {cell.name!r} makes an object of encoding {became}, which is no cell of the family; add a Cell for it"
                )
            table[load, code] = codes[became]
    return table


def _variants(code: int, toggled: U8, pickable: U8) -> list[int]:
    """Codes that a cell can come to have, by being toggled or picked up."""
    found = [code]
    for current in found:  # grows while it is walked: what a toggle brings to light may be taken in its turn
        following = set(toggled[:, current].tolist()) | ({0} if pickable[current] else set())
        found.extend(sorted(following - set(found)))
    return found
