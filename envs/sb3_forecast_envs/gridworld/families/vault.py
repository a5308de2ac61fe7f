"""A family of locked rooms: in the rare mode there is lava behind the door."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from typing_extensions import Unpack

from sb3_forecast_envs.gridworld.cells import CLOSED_DOOR, EMPTY, GOAL, KEY, LAVA, LOCKED_DOOR, OPEN_DOOR, WALL
from sb3_forecast_envs.gridworld.families.rooms import empty_room
from sb3_forecast_envs.gridworld.family import FAMILIES, FamilyOptions, Task, TaskFamily, check_share


class Vault(TaskFamily):
    """Fetch the key, open the door, reach the goal. In the rare mode there is lava behind the door.

    ## Description
    A wall divides the room into two. Its only door is locked. The key is on the agent's side, and the goal is on the other side, in the
    vault. Walls and closed doors hide what is behind them. There is some lava in the agent's room, and none in the vault of a common task. In
    the rare mode there is lava two squares behind the door, straight ahead of an agent that walks in as usual.

    ## Mission Space
    "use the key to open the door and then get to the goal"

    ## Action Space
    0 turn left, 1 turn right, 2 forward, 3 pick up, 4 toggle.

    ## Observation
    The egocentric view over (empty, wall, goal, lava, key, locked door, closed door, open door, unseen). The agent's own cell shows what it
    carries.

    ## Rewards
    ``1 - time_penalty * steps / horizon`` at the goal, else 0.

    ## Termination
    At the goal or in lava. Truncation at the horizon, by default 2 size^2.

    ## Registered Configurations
    ``SB3Forecast/Vault-8x8-v0``, ``SB3Forecast/Vault-12x12-v0``

    :param size: at least 7, see :class:`TaskFamily`
    :param rare_fraction: see :class:`TaskFamily`
    :param lava_fraction: share of the free cells in the agent's room that hold lava
    :param common: arguments that all families share, see :class:`TaskFamily`
    :raises ValueError: if an argument is out of range
    """

    name: ClassVar[str] = "Vault"
    cells = (EMPTY, WALL, GOAL, LAVA, KEY, LOCKED_DOOR, CLOSED_DOOR, OPEN_DOOR)
    actions = ("left", "right", "forward", "pickup", "toggle")
    mission = "use the key to open the door and then get to the goal"
    default_see_through_walls = False

    def __init__(
        self,
        size: int = 8,
        rare_fraction: float = 0.002,
        *,
        lava_fraction: float = 0.08,
        **common: Unpack[FamilyOptions],
    ) -> None:
        if size < 7:
            raise ValueError(
                f"size must be at least 7, got {size}; use a larger size, with space for two rooms and a way around"
            )
        check_share("lava_fraction", lava_fraction)
        self.lava_fraction = lava_fraction
        if common.get("horizon") is None:
            common["horizon"] = 2 * size**2
        super().__init__(size, rare_fraction, **common)

    def draw_layout(self, rng: np.random.Generator, rare: bool) -> Task:
        """Build wall and door, then place lava, start and key on one side and the goal on the other."""
        inner = self.size - 2
        layout = empty_room(self.size)
        wall = int(rng.integers(3, self.size - 3))
        door = int(rng.integers(1, inner + 1))
        layout[1:-1, wall] = self.cells.index(WALL)
        layout[door, wall] = self.cells.index(LOCKED_DOOR)
        room = layout[1:-1, 1:wall]
        room[rng.random(room.shape) < self.lava_fraction] = self.cells.index(LAVA)
        start, key = (divmod(int(square), wall - 1) for square in rng.choice(room.size, size=2, replace=False))
        room[start] = self.cells.index(EMPTY)
        room[key] = self.cells.index(KEY)
        vault = layout[1:-1, wall + 1 : -1]
        trap = (door - 1, 1)
        squares = [s for s in np.ndindex(*vault.shape) if s not in (trap, (door - 1, 0))]
        vault[squares[int(rng.integers(len(squares)))]] = self.cells.index(GOAL)
        if rare:
            vault[trap] = self.cells.index(LAVA)
        return Task(layout, (start[1] + 1, start[0] + 1, int(rng.integers(4))), rare)


FAMILIES[Vault.name] = Vault
