"""Random partitions of a pool into an evaluation and a deployment set (docs/method.md section 5a)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sb3_forecast.checks import whole


class PartitionRanks(NamedTuple):
    """Ranks of the tasks that the forecasts of R partitions use. Ranks are those of the sorted pool, 0 for its worst task.

    :param evaluation: ranks of the k worst evaluation tasks, ascending, shape (R, k), int64
    :param deployment: rank of the worst deployment task, shape (R,), int64
    """

    evaluation: NDArray[np.int64]
    deployment: NDArray[np.int64]

    def touched(self) -> NDArray[np.int64]:
        """All ranks that occur in some partition, each once, ascending, int64."""
        return np.union1d(self.evaluation, self.deployment)


def check_partition(n_pool: int, eval_size: int, k: int) -> None:
    """Raise an error if no partition has these sizes.

    :param n_pool: pool size N
    :param eval_size: evaluation set size m
    :param k: number of top evaluation tasks
    :raises ValueError: if ``eval_size >= n_pool``, ``k < 2`` or ``k > eval_size``
    """
    if whole("eval_size", eval_size, use="the number of evaluation tasks") >= n_pool:
        raise ValueError(
            f"eval_size must be below the pool size {n_pool}, got {eval_size}; use a smaller eval_size or a larger pool"
        )
    if whole("k", k) < 2:
        raise ValueError(f"k must be at least 2, got {k}; use 2 or more top scores, since 1 has no spread")
    if k > eval_size:
        raise ValueError(f"k must be at most eval_size={eval_size}, got {k}; use a smaller k or a larger eval_size")


def sample_partitions(
    n_pool: int, eval_size: int, k: int, n_partitions: int, generator: np.random.Generator
) -> PartitionRanks:
    """Draw random partitions, in O(k) each for any pool size (docs/method.md section 5a).

    Only the gaps between evaluation ranks are drawn. Give every task a uniform label. Given the labels of the evaluation tasks,
    the number of deployment tasks between the (j-1)-th and the j-th evaluation task is binomial. Drawing these numbers one after
    the other gives the exact joint distribution of the ranks.

    :param n_pool: pool size N
    :param eval_size: evaluation set size m; the deployment set is the rest
    :param k: number of top evaluation tasks
    :param n_partitions: number of partitions R
    :param generator: source of randomness
    :return: the ranks, see :class:`PartitionRanks`
    :raises ValueError: if ``eval_size >= n_pool``, ``k < 2``, ``k > eval_size`` or ``n_partitions < 1``
    """
    check_partition(n_pool, eval_size, k)
    if n_partitions < 1:
        raise ValueError(f"n_partitions must be at least 1, got {n_partitions}; use for example 256")
    remaining = np.full(n_partitions, n_pool - eval_size, dtype=np.int64)
    above = np.zeros(n_partitions, dtype=np.int64)
    evaluation = np.empty((n_partitions, k), dtype=np.int64)
    deployment = np.full(n_partitions, -1, dtype=np.int64)
    for j in range(eval_size):
        # share of the remaining range of labels that lies above the next evaluation label: 1 - U^(1 / labels left)
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
