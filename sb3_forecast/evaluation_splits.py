"""Random splits of a pool into an evaluation and a deployment set."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def split_indices(n_tasks: int, eval_size: int, deploy_size: int, n_splits: int, seed: int) -> NDArray[np.int64]:
    """Random splits: each row is an evaluation set followed by a deployment set.

    :param n_tasks: pool size
    :param eval_size: evaluation set size m
    :param deploy_size: deployment set size n
    :param n_splits: number of splits
    :param seed: their seed; the first splits do not depend on how many are asked for
    :return: shape (n_splits, eval_size + deploy_size), int64
    """
    generator = np.random.default_rng(seed)
    return np.stack([generator.permutation(n_tasks)[: eval_size + deploy_size] for _ in range(n_splits)])
