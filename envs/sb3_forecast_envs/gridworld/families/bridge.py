"""A family of lava ditches: in the rare mode only a long path between lava cells leads to the goal."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from typing_extensions import Unpack

from sb3_forecast_envs.gridworld.cells import EMPTY, GOAL, LAVA, WALL
from sb3_forecast_envs.gridworld.families.rooms import empty_room
from sb3_forecast_envs.gridworld.family import FAMILIES, START_DIRECTION, FamilyOptions, Task, TaskFamily


class Bridge(TaskFamily):
    """A lava ditch with a bridge. In the rare mode the ditch fills the room, and the bridge is long and winding.

    ## Description
    The agent starts on the left bank, and the goal is on the right bank. Their rows are random. Common tasks have one column of lava with
    one gap. In the rare mode lava fills everything between the banks, and a path that is one cell wide winds through it. The agent knows all
    these objects. It fails because every wrong step is fatal there, and small probabilities of a wrong step add up along the path.

    ## Mission Space
    "reach the green goal square"

    ## Action Space
    0 turn left, 1 turn right, 2 forward.

    ## Observation
    The egocentric view over (empty, wall, goal, lava). Walls hide nothing.

    ## Rewards
    ``1 - time_penalty * steps / horizon`` at the goal, else 0.

    ## Termination
    At the goal or in lava. Truncation at the horizon.

    ## Registered Configurations
    ``SB3Forecast/Bridge-8x8-v0``, ``SB3Forecast/Bridge-12x12-v0``

    :param size: at least 7, see :class:`TaskFamily`
    :param rare_fraction: see :class:`TaskFamily`
    :param bend: largest number of rows by which the path moves up or down in each column of a rare task; 0 for a straight path
    :param common: arguments that all families share, see :class:`TaskFamily`
    :raises ValueError: if an argument is out of range
    """

    name: ClassVar[str] = "Bridge"
    cells = (EMPTY, WALL, GOAL, LAVA)

    def __init__(self, size: int = 8, rare_fraction: float = 0.002, *, bend: int = 2, **common: Unpack[FamilyOptions]) -> None:
        if size < 7:
            raise ValueError(f"size must be at least 7, got {size}; use a larger size, with room for two banks and a ditch")
        if bend < 0:
            raise ValueError(f"bend must be at least 0, got {bend}; use 0 for a straight path")
        self.bend = bend
        super().__init__(size, rare_fraction, **common)

    def draw_layout(self, rng: np.random.Generator, rare: bool) -> Task:
        """Dig the ditch, then lay the path through it column by column."""
        inner = self.size - 2
        layout = empty_room(self.size)
        ditch = range(2, self.size - 2) if rare else [int(rng.integers(2, self.size - 2))]
        layout[1:-1, ditch] = self.cells.index(LAVA)
        row = int(rng.integers(1, inner + 1))
        for column in ditch:
            turned = int(np.clip(row + rng.integers(-self.bend, self.bend + 1), 1, inner)) if rare else row
            layout[min(row, turned) : max(row, turned) + 1, column] = self.cells.index(EMPTY)
            row = turned
        layout[int(rng.integers(1, inner + 1)), -2] = self.cells.index(GOAL)
        return Task(layout, (1, int(rng.integers(1, inner + 1)), START_DIRECTION), rare)


FAMILIES[Bridge.name] = Bridge
