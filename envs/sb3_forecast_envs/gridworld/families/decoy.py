"""The rare layouts hold traps that look like the goal."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from typing_extensions import Unpack

from sb3_forecast_envs.gridworld.cells import DECOY, EMPTY, GOAL, LAVA, WALL
from sb3_forecast_envs.gridworld.families.rooms import empty_room
from sb3_forecast_envs.gridworld.family import FAMILIES, START_DIRECTION, FamilyOptions, Task, TaskFamily, check_share


class Decoy(TaskFamily):
    """A search for the goal; the rare layouts hold look-alikes of the goal that are traps.

    ## Description
    The agent starts at the top left; the goal is somewhere beyond the diagonal, and some lava lies about. In the rare mode there are
    also decoys: same type and colour as the goal, told apart by their state only (the third number of MiniGrid's encoding). They stand
    anywhere, so the agent often meets one before the goal, and the nearer it believes the goal to be, the surer it walks in.

    ## Mission Space
    "reach the green goal square"

    ## Action Space
    0 turn left, 1 turn right, 2 forward.

    ## Observation
    The egocentric view over (empty, wall, goal, lava, decoy); walls hide nothing.

    ## Rewards
    ``1 - time_penalty * steps / horizon`` at the goal, else 0.

    ## Termination
    The goal, lava or a decoy; truncation at the horizon.

    ## Registered Configurations
    ``SB3Forecast/Decoy-8x8-v0``, ``SB3Forecast/Decoy-12x12-v0``

    :param size: see :class:`TaskFamily`, as for ``rare_fraction`` and ``common``
    :param lava_fraction: share of the free cells that hold lava
    :param n_decoys: number of decoys in a rare task
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
                f"n_decoys={n_decoys} is no number of decoys for size={size}; use 1 to {max(1, (size - 2) ** 2 // 4)}"
            )
        self.lava_fraction = lava_fraction
        self.n_decoys = n_decoys
        super().__init__(size, rare_fraction, **common)

    def draw_layout(self, rng: np.random.Generator, rare: bool) -> Task:
        """Scatter lava, then put the goal beyond the diagonal and the decoys anywhere."""
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
