"""A family of lava fields: in the rare mode they hold a hazard that the agent has hardly met."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from typing_extensions import Unpack

from sb3_forecast_envs.gridworld.cells import EMPTY, GOAL, LAVA, THIN_ICE, WALL
from sb3_forecast_envs.gridworld.families.rooms import empty_room
from sb3_forecast_envs.gridworld.family import FAMILIES, START_DIRECTION, FamilyOptions, Task, TaskFamily, check_share


class ThinIce(TaskFamily):
    """A lava field. In the rare mode there is thin ice instead, a hazard that the agent has hardly met.

    ## Description
    The agent crosses an open room from the top left to the goal at the bottom right. In common tasks there is lava at random places. In the
    rare mode there is thin ice instead, on more cells. A policy that has learned to avoid lava has seen ice too rarely to know what it is.

    ## Mission Space
    "reach the green goal square"

    ## Action Space
    0 turn left, 1 turn right, 2 forward.

    ## Observation
    The egocentric view over (empty, wall, goal, lava, thin ice). Walls hide nothing.

    ## Rewards
    ``1 - time_penalty * steps / horizon`` at the goal, else 0.

    ## Termination
    At the goal, in lava or on thin ice. Truncation at the horizon.

    ## Registered Configurations
    ``SB3Forecast/ThinIce-8x8-v0``, ``SB3Forecast/ThinIce-12x12-v0``

    :param size: see :class:`TaskFamily`
    :param rare_fraction: see :class:`TaskFamily`
    :param lava_fraction: share of the free cells that hold lava in a common task
    :param ice_fraction: share of the free cells that hold thin ice in a rare task
    :param common: arguments that all families share, see :class:`TaskFamily`
    :raises ValueError: if an argument is out of range
    """

    name: ClassVar[str] = "ThinIce"
    cells = (EMPTY, WALL, GOAL, LAVA, THIN_ICE)

    def __init__(
        self,
        size: int = 8,
        rare_fraction: float = 0.002,
        *,
        lava_fraction: float = 0.12,
        ice_fraction: float = 0.16,
        **common: Unpack[FamilyOptions],
    ) -> None:
        check_share("lava_fraction", lava_fraction)
        check_share("ice_fraction", ice_fraction)
        self.lava_fraction = lava_fraction
        self.ice_fraction = ice_fraction
        super().__init__(size, rare_fraction, **common)

    def draw_layout(self, rng: np.random.Generator, rare: bool) -> Task:
        """Scatter lava (common) or thin ice (rare) over the room, independently for each cell."""
        hazard, share = (THIN_ICE, self.ice_fraction) if rare else (LAVA, self.lava_fraction)
        layout = empty_room(self.size)
        layout[1:-1, 1:-1][rng.random((self.size - 2, self.size - 2)) < share] = self.cells.index(hazard)
        layout[1, 1] = self.cells.index(EMPTY)
        layout[-2, -2] = self.cells.index(GOAL)
        return Task(layout, (1, 1, START_DIRECTION), rare)


FAMILIES[ThinIce.name] = ThinIce
