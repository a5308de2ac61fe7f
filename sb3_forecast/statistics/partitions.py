"""Random partitions of a pool into an evaluation and a deployment set (docs/method.md section 5a)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class PartitionRanks(NamedTuple):
    """What a forecast needs to know of R partitions: ranks in the sorted pool, 0 for the pool's worst task.

    :param evaluation: ranks of the k best evaluation tasks, ascending, shape (R, k), int64
    :param deployment: rank of the deployment maximum, shape (R,), int64
    """

    evaluation: NDArray[np.int64]
    deployment: NDArray[np.int64]

    def touched(self) -> NDArray[np.int64]:
        """The ranks that occur anywhere, ascending, int64."""
        return np.union1d(self.evaluation, self.deployment)


def check_partition(n_pool: int, eval_size: int, k: int) -> None:
    """Reject partitions that cannot be drawn.

    :raises ValueError: naming the argument, its value and the remedy
    """
    if eval_size >= n_pool:
        raise ValueError(
            f"eval_size={eval_size} leaves no deployment task in a pool of {n_pool}; use eval_size < {n_pool} or a larger pool"
        )
    if k < 2:
        raise ValueError(f"k={k} top scores do not determine a slope; use k >= 2")
    if k > eval_size:
        raise ValueError(f"k={k} exceeds eval_size={eval_size}; use k <= {eval_size} or a larger eval_size")


def sample_partitions(
    n_pool: int, eval_size: int, k: int, n_partitions: int, generator: np.random.Generator
) -> PartitionRanks:
    """Draw partitions by the gaps between evaluation ranks, O(k) each whatever the pool size (docs/method.md section 5a).

    The number of deployment tasks that rank between the (j-1)-th and the j-th evaluation task is binomial given the
    uniform spacings of the evaluation labels; drawing those numbers in turn gives the exact joint law of the ranks.

    :param n_pool: pool size N
    :param eval_size: evaluation set size m; the deployment set is the rest
    :param k: number of top evaluation tasks wanted
    :param n_partitions: number of partitions R
    :param generator: source of randomness
    :return: the ranks, see :class:`PartitionRanks`
    :raises ValueError: if ``eval_size >= n_pool``, ``k < 2``, ``k > eval_size`` or ``n_partitions < 1``
    """
    check_partition(n_pool, eval_size, k)
    if n_partitions < 1:
        raise ValueError(f"n_partitions={n_partitions} draws nothing; use n_partitions >= 1")
    remaining = np.full(n_partitions, n_pool - eval_size, dtype=np.int64)
    above = np.zeros(n_partitions, dtype=np.int64)
    evaluation = np.empty((n_partitions, k), dtype=np.int64)
    deployment = np.full(n_partitions, -1, dtype=np.int64)
    for j in range(eval_size):
        # share of the remaining label range that lies above the next evaluation label: 1 - U^(1 / labels left)
        share = -np.expm1(np.log(generator.random(n_partitions)) / (eval_size - j))
        gap = generator.binomial(remaining, share)
        deployment = np.where((deployment < 0) & (gap > 0), j, deployment)
        above += gap
        remaining -= gap
        if j < k:
            evaluation[:, j] = j + above
        elif bool((deployment >= 0).all()):
            break
    deployment[deployment < 0] = eval_size
    return PartitionRanks(evaluation, deployment)
