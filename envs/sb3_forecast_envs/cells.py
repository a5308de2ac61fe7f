"""The kinds of square that a layout is made of, and the MiniGrid objects that stand for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from minigrid.core.constants import COLORS, OBJECT_TO_IDX
from minigrid.core.world_object import Goal, Lava, Wall, WorldObj
from minigrid.utils.rendering import fill_coords, point_in_line, point_in_rect
from numpy.typing import NDArray

# What happens to an episode whose agent enters a cell.
CONTINUES, SUCCEEDS, FAILS = 0, 1, 2


class ThinIceTile(WorldObj):  # type: ignore[misc]  # minigrid ships no types
    """Ice that breaks under the agent: MiniGrid's blue floor in state 1, so that every encoder knows it."""

    def __init__(self) -> None:
        super().__init__("floor", "blue")

    def can_overlap(self) -> bool:
        """The agent can walk onto it (and falls in)."""
        return True

    def encode(self) -> tuple[int, int, int]:
        """Type and colour of a blue floor; state 1 tells it from a real one, also in MiniGrid's tile cache."""
        kind, color, _ = super().encode()
        return (kind, color, 1)

    def render(self, img: NDArray[np.uint8]) -> None:
        """Pale ice with dark cracks."""
        fill_coords(img, point_in_rect(0, 1, 0, 1), np.array([176, 224, 246]))
        for x0, y0, x1, y1 in [
            (0.5, 0.5, 0.15, 0.1),
            (0.5, 0.5, 0.9, 0.3),
            (0.5, 0.5, 0.35, 0.95),
            (0.72, 0.4, 0.8, 0.8),
        ]:
            fill_coords(img, point_in_line(x0, y0, x1, y1, r=0.03), COLORS["blue"] // 2)


@dataclass(frozen=True)
class Cell:
    """One kind of square; its code in a layout is its position in ``TaskFamily.cells``.

    :param name: what people call it
    :param make: builds the MiniGrid object that stands there; ``None`` for an empty square
    :param walkable: whether the agent can enter it
    :param outcome: ``CONTINUES``, ``SUCCEEDS`` or ``FAILS``: what entering it does to the episode
    """

    name: str
    make: Callable[[], WorldObj] | None
    walkable: bool
    outcome: int = CONTINUES

    @property
    def encoding(self) -> tuple[int, int, int]:
        """MiniGrid's (type, colour, state) of the square."""
        if self.make is None:
            return (OBJECT_TO_IDX["empty"], 0, 0)
        kind, color, state = self.make().encode()
        return (int(kind), int(color), int(state))


EMPTY = Cell("empty", None, walkable=True)
WALL = Cell("wall", Wall, walkable=False)
GOAL = Cell("goal", Goal, walkable=True, outcome=SUCCEEDS)
LAVA = Cell("lava", Lava, walkable=True, outcome=FAILS)
THIN_ICE = Cell("thin ice", ThinIceTile, walkable=True, outcome=FAILS)
