"""The kinds of square in a layout, and the MiniGrid objects that stand on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from minigrid.core.constants import OBJECT_TO_IDX
from minigrid.core.world_object import Door, Goal, Key, Lava, Wall, WorldObj

from sb3_forecast_envs.gridworld.tiles import DecoyTile, GustTile, ThinIceTile

# what happens to the episode when the agent enters a cell
CONTINUES, SUCCEEDS, FAILS = 0, 1, 2


@dataclass(frozen=True)
class Cell:
    """One kind of square. Its code in a layout is its position in ``TaskFamily.cells``.

    The MiniGrid object decides whether the agent can enter the square, see past it, pick the object up or toggle it.

    :param name: its name, for people and messages
    :param make: makes the MiniGrid object that stands on the square; ``None`` for an empty square
    :param outcome: what happens to the episode when the agent enters the square: ``CONTINUES``, ``SUCCEEDS`` or ``FAILS``
    :param slip: probability that a forward move *off* this square goes sideways: to the left or to the right, with equal probability
    :raises ValueError: if ``slip`` is not in [0, 1]
    """

    name: str
    make: Callable[[], WorldObj] | None
    outcome: int = CONTINUES
    slip: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.slip <= 1.0:
            raise ValueError(f"slip of cell {self.name!r} must be in [0, 1], got {self.slip}; use a probability")

    @property
    def encoding(self) -> tuple[int, int, int]:
        """MiniGrid's (type, colour, state) of the square."""
        return encoding_of(None if self.make is None else self.make())


def encoding_of(thing: WorldObj | None) -> tuple[int, int, int]:
    """MiniGrid's (type, colour, state) of an object, or of an empty square."""
    if thing is None:
        return (OBJECT_TO_IDX["empty"], 0, 0)
    kind, color, state = thing.encode()
    return (int(kind), int(color), int(state))


EMPTY = Cell("empty", None)
WALL = Cell("wall", Wall)
GOAL = Cell("goal", Goal, outcome=SUCCEEDS)
LAVA = Cell("lava", Lava, outcome=FAILS)
THIN_ICE = Cell("thin ice", ThinIceTile, outcome=FAILS)
DECOY = Cell("decoy", DecoyTile, outcome=FAILS)
KEY = Cell("key", lambda: Key("yellow"))
LOCKED_DOOR = Cell("locked door", lambda: Door("yellow", is_locked=True))
CLOSED_DOOR = Cell("closed door", lambda: Door("yellow"))
OPEN_DOOR = Cell("open door", lambda: Door("yellow", is_open=True))
GUST = Cell("gust", GustTile, slip=0.2)
