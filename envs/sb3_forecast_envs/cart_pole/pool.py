"""Pools of cart-pole tasks."""

from __future__ import annotations

import zlib

import numpy as np
from gymnasium.utils import seeding

from sb3_forecast.descriptors import Descriptors
from sb3_forecast_envs.cart_pole.physics import PARAMETERS, RARE_FRACTION, draw_task
from sb3_forecast_envs.pool import Pool, check_pool


class CartPoleTasks(Pool):
    """A pool of cart-pole tasks.

    :param n_tasks: number of tasks
    :param seed: seed of the pool; task i of a seed does not depend on the size of the pool
    :param rare_fraction: probability that a task belongs to the rare mode
    :raises ValueError: if an argument is out of range
    """

    per_task = ("parameters", "rare")

    def __init__(self, n_tasks: int, seed: int, rare_fraction: float = RARE_FRACTION) -> None:
        check_pool(n_tasks, seed, rare_fraction)
        drawn = [draw_task(seeding.np_random(seed * 2**32 + i)[0], rare_fraction) for i in range(n_tasks)]
        #: one row per task, see :mod:`sb3_forecast_envs.cart_pole.physics`; shape (N, 11), float64
        self.parameters = np.stack([task for task, _ in drawn])
        self.rare = np.array([rare for _, rare in drawn])

    def __repr__(self) -> str:
        return f"CartPoleTasks({len(self)} tasks, {int(self.rare.sum())} rare)"

    def descriptors(self) -> Descriptors:
        """The physics and the start of each task."""
        return Descriptors(self.parameters.astype(np.float32), PARAMETERS)

    def task_keys(self) -> list[bytes]:
        """One key per task: the bytes of its parameters."""
        return [row.tobytes() for row in self.parameters]

    @property
    def key(self) -> str:
        """A text that identifies the tasks: their number, and a checksum of their parameters."""
        return f"CartPole: {len(self)} tasks, checksum {zlib.crc32(self.parameters.tobytes()):08x}"
