"""Objects for MiniGrid that MiniGrid does not have. Their type is one that its encoders know; their state tells them apart."""

from __future__ import annotations

import numpy as np
from minigrid.core.constants import COLORS
from minigrid.core.world_object import WorldObj
from minigrid.utils.rendering import fill_coords, point_in_line, point_in_rect
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


class Tile(WorldObj):  # type: ignore[misc]  # minigrid ships no types
    """A tile that the agent can walk onto: a known MiniGrid type with a state of its own.

    The state makes the encoding unique. MiniGrid stores rendered tiles by their encoding, so each needs its own.

    :param kind: MiniGrid type, such as ``"floor"``
    :param color: MiniGrid colour
    :param state: third number of the encoding, 1 to 9; MiniGrid's own floor and goal have 0
    """

    def __init__(self, kind: str, color: str, state: int) -> None:
        super().__init__(kind, color)
        self._state = state

    def can_overlap(self) -> bool:
        """True: the agent can walk onto it."""
        return True

    def encode(self) -> tuple[int, int, int]:
        """MiniGrid's (type, colour, state) of the tile."""
        kind, color, _ = super().encode()
        return (kind, color, self._state)


class ThinIceTile(Tile):
    """Ice that breaks under the agent."""

    def __init__(self) -> None:
        super().__init__("floor", "blue", 1)

    def render(self, img: Pixels) -> None:
        """Draw pale ice with dark cracks."""
        fill_coords(img, point_in_rect(0, 1, 0, 1), np.array([176, 224, 246]))
        for x0, y0, x1, y1 in [
            (0.5, 0.5, 0.15, 0.1),
            (0.5, 0.5, 0.9, 0.3),
            (0.5, 0.5, 0.35, 0.95),
            (0.72, 0.4, 0.8, 0.8),
        ]:
            fill_coords(img, point_in_line(x0, y0, x1, y1, r=0.03), COLORS["blue"] // 2)


class DecoyTile(Tile):
    """A trap that looks like the goal."""

    def __init__(self) -> None:
        super().__init__("goal", "green", 1)

    def render(self, img: Pixels) -> None:
        """Draw the green of the goal with a red cross, which only people see."""
        fill_coords(img, point_in_rect(0, 1, 0, 1), COLORS["green"])
        for x0, x1 in ((0.2, 0.8), (0.8, 0.2)):
            fill_coords(img, point_in_line(x0, 0.2, x1, 0.8, r=0.05), COLORS["red"])


class GustTile(Tile):
    """A windy square: a forward move off it may go sideways."""

    def __init__(self) -> None:
        super().__init__("floor", "grey", 1)

    def render(self, img: Pixels) -> None:
        """Draw three pale lines with hooks on a dark square."""
        fill_coords(img, point_in_rect(0.02, 0.98, 0.02, 0.98), np.array([40, 52, 64]))
        for y in (0.3, 0.5, 0.7):
            fill_coords(img, point_in_line(0.15, y, 0.75, y, r=0.03), np.array([190, 210, 220]))
            fill_coords(img, point_in_line(0.75, y, 0.85, y - 0.1, r=0.03), np.array([190, 210, 220]))
