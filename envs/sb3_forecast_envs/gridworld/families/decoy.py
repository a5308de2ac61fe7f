"""A family of lava fields: in the rare mode they hold traps that look like the goal."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from typing_extensions import Unpack

from sb3_forecast_envs.gridworld.cells import DECOY, EMPTY, GOAL, LAVA, WALL
from sb3_forecast_envs.gridworld.families.rooms import empty_room
from sb3_forecast_envs.gridworld.family import FAMILIES, START_DIRECTION, FamilyOptions, Task, TaskFamily, check_share


class Decoy(TaskFamily):
    """A search for the goal. In the rare mode there are traps that look like the goal.

    ## Description
    The agent starts at the top left. The goal is at a random place beyond the diagonal, and there is some lava. In the rare mode there are
    also decoys. A decoy has the type and the colour of the goal; only its state differs (the third number of MiniGrid's encoding). Decoys
    can be anywhere, so the agent often meets one before the goal. The closer it believes the goal to be, the more surely it walks in.

    ## Mission Space
    "reach the green goal square"

    ## Action Space
    0 turn left, 1 turn right, 2 forward.

    ## Observation
    The egocentric view over (empty, wall, goal, lava, decoy). Walls hide nothing.

    ## Rewards
    ``1 - time_penalty * steps / horizon`` at the goal, else 0.

    ## Termination
    At the goal, in lava or on a decoy. Truncation at the horizon.

    ## Registered Configurations
    ``SB3Forecast/Decoy-8x8-v0``, ``SB3Forecast/Decoy-12x12-v0``

    :param size: see :class:`TaskFamily`
    :param rare_fraction: see :class:`TaskFamily`
    :param lava_fraction: share of the free cells that hold lava
    :param n_decoys: number of decoys in a rare task, from 1 to (size - 2)^2 // 4
    :param common: arguments that all families share, see :class:`TaskFamily`
    :raises ValueError: if an argument is out of range
    """

    name: ClassVar[str] = "Decoy"
    cells = (EMPTY, WALL, GOAL, LAVA, DECOY)

    def __init__(
        self,
        size: int = 8,
        rare_fraction: float = 0.002,
        *,
        lava_fraction: float = 0.08,
        n_decoys: int = 2,
        **common: Unpack[FamilyOptions],
    ) -> None:
        check_share("lava_fraction", lava_fraction)
        if not 1 <= n_decoys <= max(1, (size - 2) ** 2 // 4):
            raise ValueError(
                f"n_decoys must be in [1, {max(1, (size - 2) ** 2 // 4)}] for size={size}, got {n_decoys}; use a number in this range"
            )
        self.lava_fraction = lava_fraction
        self.n_decoys = n_decoys
        super().__init__(size, rare_fraction, **common)

    def draw_layout(self, rng: np.random.Generator, rare: bool) -> Task:
        """Scatter lava, then put the decoys anywhere and the goal beyond the diagonal."""
        inner = self.size - 2
        layout = empty_room(self.size)
        layout[1:-1, 1:-1][rng.random((inner, inner)) < self.lava_fraction] = self.cells.index(LAVA)
        layout[1, 1] = self.cells.index(EMPTY)
        squares = 1 + np.stack(np.divmod(rng.permutation(np.arange(1, inner**2)), inner))
        if rare:
            layout[tuple(squares[:, : self.n_decoys])] = self.cells.index(DECOY)
        rest = squares[:, self.n_decoys :]
        far = rest[:, rest.sum(axis=0) > self.size - 1]
        layout[tuple(far[:, 0])] = self.cells.index(GOAL)
        return Task(layout, (1, 1, START_DIRECTION), rare)


FAMILIES[Decoy.name] = Decoy
