"""A family of lava fields with wind: in the rare mode the wind blows beside lava."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np
from typing_extensions import Unpack

from sb3_forecast_envs.gridworld.cells import EMPTY, GOAL, GUST, LAVA, WALL
from sb3_forecast_envs.gridworld.families.rooms import beside, empty_room
from sb3_forecast_envs.gridworld.family import FAMILIES, START_DIRECTION, FamilyOptions, Task, TaskFamily, check_share


class Wind(TaskFamily):
    """A lava field with windy squares: a forward move off them may go sideways. In the rare mode they are beside lava.

    ## Description
    The agent crosses a room from the top left to the goal at the bottom right. A forward move off a windy square goes sideways with
    probability ``slip``: to the left or to the right, with equal probability. In common tasks no windy square is beside lava, so the wind
    only costs time. In the rare mode the windy squares are beside lava, and an agent that has learned to ignore them is blown into it.

    ## Mission Space
    "reach the green goal square"

    ## Action Space
    0 turn left, 1 turn right, 2 forward.

    ## Observation
    The egocentric view over (empty, wall, goal, lava, gust). Walls hide nothing. The agent does not see the square on which it stands.

    ## Rewards
    ``1 - time_penalty * steps / horizon`` at the goal, else 0.

    ## Termination
    At the goal or in lava. Truncation at the horizon. Every task has a path on which no move can end in lava, whatever the wind does.

    ## Registered Configurations
    ``SB3Forecast/Wind-8x8-v0``, ``SB3Forecast/Wind-12x12-v0``

    :param size: see :class:`TaskFamily`
    :param rare_fraction: see :class:`TaskFamily`
    :param slip: probability that a forward move off a windy square goes sideways
    :param lava_fraction: share of the free cells that hold lava
    :param gust_fraction: share of windy squares among those that may be windy: beside lava (rare) or away from it (common)
    :param common: arguments that all families share, see :class:`TaskFamily`
    :raises ValueError: if an argument is out of range
    """

    name: ClassVar[str] = "Wind"
    cells = (EMPTY, WALL, GOAL, LAVA, GUST)

    def __init__(
        self,
        size: int = 8,
        rare_fraction: float = 0.002,
        *,
        slip: float = 0.2,
        lava_fraction: float = 0.1,
        gust_fraction: float = 0.5,
        **common: Unpack[FamilyOptions],
    ) -> None:
        check_share("lava_fraction", lava_fraction)
        check_share("gust_fraction", gust_fraction)
        self.slip = slip
        self.lava_fraction = lava_fraction
        self.gust_fraction = gust_fraction
        self.cells = (EMPTY, WALL, GOAL, LAVA, replace(GUST, slip=slip))
        super().__init__(size, rare_fraction, **common)

    def draw_layout(self, rng: np.random.Generator, rare: bool) -> Task:
        """Scatter lava, then wind beside it (rare) or away from it (common)."""
        inner = self.size - 2
        layout = empty_room(self.size)
        layout[1:-1, 1:-1][rng.random((inner, inner)) < self.lava_fraction] = self.cells.index(LAVA)
        layout[1, 1] = layout[-2, -2] = self.cells.index(EMPTY)
        allowed = (layout == 0) & (beside(layout == self.cells.index(LAVA)) == rare)
        layout[allowed & (rng.random(layout.shape) < self.gust_fraction)] = 4
        layout[1, 1] = self.cells.index(EMPTY)
        layout[-2, -2] = self.cells.index(GOAL)
        return Task(layout, (1, 1, START_DIRECTION), rare)


FAMILIES[Wind.name] = Wind
