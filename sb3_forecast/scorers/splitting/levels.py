"""Adaptive multilevel splitting of one task, as pure bookkeeping: which paths are killed, where the others branch, what the estimate is.

N paths are played. Each has a height: the largest coordinate that it reached, infinite if it failed. Paths at or below a level, the height of a
low quantile, are killed. Each of them is replaced by a branch of a path above the level, which starts where that path first came above it. So
the paths climb until enough of them fail. The estimate, the product of the shares that were not killed times the share that failed, is
unbiased for every coordinate and every N (Brehier, Gazeau, Goudenege, Lelievre & Rousset 2016, Ann. Appl. Probab. 26(6), theorem 3.2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

#: share of the paths that a level kills. A larger share needs fewer rounds, a smaller one gives less variance per step
KILLED = 0.25


@dataclass
class Path:
    """One path of a task.

    :param height: largest coordinate that it reached; infinite once it failed
    :param log_weight: log of its probability under the model over that under which it was played
    :param records: where it rose above all that it had reached: (coordinate, kept state), in rising order
    """

    height: float = -math.inf
    log_weight: float = 0.0
    records: list[tuple[float, Any]] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        """Whether the path failed."""
        return math.isinf(self.height) and self.height > 0.0

    def first_above(self, level: float) -> tuple[float, Any] | None:
        """The first record above a level; ``None`` if the path only rose above it by failing."""
        return next((record for record in self.records if record[0] > level), None)


class Splitting:
    """The paths of one task.

    :param task: index into the pool
    :param particles: number N of paths
    :param generator: source of randomness
    """

    def __init__(self, task: int, particles: int, generator: np.random.Generator) -> None:
        self.task = task
        self.paths = [Path() for _ in range(particles)]
        self.generator = generator
        #: product of the shares that levels have not killed
        self.share = 1.0
        #: the last level; no path is kept below it
        self.level = -math.inf
        self.finished = False
        #: environment steps taken for it
        self.steps = 0

    def kill(self) -> list[tuple[int, Any]]:
        """Choose the next level, kill the paths at or below it, and say where their branches start.

        :return: (index of the path, kept state) of each branch that must be played. Paths whose parent rose above the level only by failing
            are copies of it, and need not be played. Empty if nothing is left to play: then :attr:`finished` is set, or the paths are copies
        """
        heights = np.array([path.height for path in self.paths])
        level = float(np.sort(heights)[max(math.ceil(KILLED * len(heights)), 1) - 1])
        if math.isinf(level):
            self.finished = True
            return []
        below = np.flatnonzero(heights <= level)
        above = np.flatnonzero(heights > level)
        self.level = level
        self.share *= len(above) / len(heights)
        if not len(above):
            self.finished = True
            return []
        branches = []
        for dead, parent in zip(below.tolist(), self.generator.choice(above, len(below)).tolist(), strict=True):
            record = self.paths[parent].first_above(level)
            if record is None:
                self.paths[dead] = self.paths[parent]
                continue
            self.paths[dead] = Path(record[0], 0.0, [record])
            branches.append((dead, record[1]))
        for path in self.paths:
            # what lies below the level is not branched from again, and its states need memory
            path.records = [record for record in path.records if record[0] > level]
        return branches

    @property
    def estimate(self) -> float:
        """Estimate of the failure probability, at least 0. Weights can lift it above 1: only its mean is a probability."""
        return self.share * sum(math.exp(path.log_weight) for path in self.paths if path.failed) / len(self.paths)
