"""The kinds of square that a layout is made of, and the MiniGrid objects that stand for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from minigrid.core.constants import OBJECT_TO_IDX
from minigrid.core.world_object import Door, Goal, Key, Lava, Wall, WorldObj

from sb3_forecast_envs.gridworld.tiles import DecoyTile, GustTile, ThinIceTile

# What happens to an episode whose agent enters a cell.
CONTINUES, SUCCEEDS, FAILS = 0, 1, 2


@dataclass(frozen=True)
class Cell:
    """One kind of square; its code in a layout is its position in ``TaskFamily.cells``.

    Whether the agent can enter it, see past it, pick it up or toggle it is what the MiniGrid object says.

    :param name: what people call it
    :param make: builds the MiniGrid object that stands there; ``None`` for an empty square
    :param outcome: ``CONTINUES``, ``SUCCEEDS`` or ``FAILS``: what entering it does to the episode
    :param slip: probability that a forward move *off* this square goes to the left or right instead, half each
    :raises ValueError: if ``slip`` is no probability
    """

    name: str
    make: Callable[[], WorldObj] | None
    outcome: int = CONTINUES
    slip: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.slip <= 1.0:
            raise ValueError(f"slip={self.slip} of cell {self.name!r} is not a probability; use a value in [0, 1]")

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
