"""Which tasks to score next: a mixture of chance and of four reasons to look at a task."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sb3_forecast.measuring.active.table import Table
from sb3_forecast.statistics.scores import failure_probability

#: trees of the surrogate, and the most leaves of each
_TREES, _LEAVES = 30, 64
#: the worst tasks whose neighbours are looked at
_WORST = 10
#: a task of rank r gets a weight in proportion to (r + 20)^-1.5: the first few dozen are likely, and none is impossible
_RANK_OFFSET, _RANK_POWER = 20, 1.5
#: scores below this tell nothing about the tail
_FLOOR = -20.0


def need_sklearn() -> Any:
    """scikit-learn's ensembles, an optional dependency.

    :raises ImportError: if it is not installed
    """
    try:
        from sklearn import ensemble
    except ImportError as error:
        raise ImportError(
            "active evaluation needs scikit-learn, which is not installed; run `pip install 'sb3-forecast[active]'`"
        ) from error
    return ensemble


class Chooser:
    """Weights of the tasks for the next round.

    With ``uniform_share`` every task has the same chance. The rest is divided evenly between four reasons:

    - *predicted*: a forest of extremely randomised trees (Geurts et al. 2006) predicts the failure probability from the descriptors; in
      proportion to the root of its mean square over the trees, which is best for the estimates
    - *possible*: the predicted score plus its standard deviation over the trees, by rank
    - *novel*: the distance to the nearest task that was scored, by rank
    - *near the worst*: the distance to the nearest of the ten worst tasks that were found, by rank

    :param table: descriptors of all tasks
    :param uniform_share: share of the draws in which every task has the same chance
    """

    def __init__(self, table: Table, uniform_share: float) -> None:
        self.table, self.uniform_share = table, uniform_share
        self._nearest = np.full(len(table), np.inf, dtype=np.float32)

    def weights(
        self, scored: NDArray[np.int64], scores: NDArray[np.float64], latest: NDArray[np.int64], generator: np.random.Generator
    ) -> NDArray[np.float64]:
        """Weights for the next round.

        :param scored: tasks that were scored, shape (n,), int64; none in the first round
        :param scores: their scores, shape (n,), float64
        :param latest: those of the last round
        :param generator: generator of the forest and of ties
        :return: shape (N,), float64, with sum 1; 0 for tasks that were scored
        """
        left = np.ones(len(self.table), dtype=np.bool_)
        left[scored] = False
        uniform: NDArray[np.float64] = left / left.sum()
        if len(scored) == 0:
            return uniform
        possible, predicted = self._predict(scored, scores, generator)
        self._nearest = np.minimum(self._nearest, self._distance(latest))
        near = -self._distance(scored[np.argsort(-scores, kind="stable")[:_WORST]])
        ties = generator.random(len(left)) * 1e-6
        reasons = [by_rank(values + ties, left) for values in (possible, self._nearest, near)]
        mass: NDArray[np.float64] = predicted * left
        reasons.append(mass / mass.sum() if mass.sum() > 0.0 else uniform)
        mixed: NDArray[np.float64] = self.uniform_share * uniform + (1.0 - self.uniform_share) * np.mean(reasons, axis=0)
        return mixed

    def _predict(
        self, scored: NDArray[np.int64], scores: NDArray[np.float64], generator: np.random.Generator
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Of every task: mean plus deviation of the predicted score over the trees; root mean square of the predicted probability."""
        p = failure_probability(scores)
        # only the upper half of the scores is worth splitting by
        low = max(float(np.quantile(scores, 0.5, method="lower")), _FLOOR)
        targets = np.stack([np.clip(scores, low, 40.0), p], axis=1)
        centre, spread = targets.mean(axis=0), targets.std(axis=0) + 1e-300
        forest = need_sklearn().ExtraTreesRegressor(
            _TREES, max_leaf_nodes=_LEAVES, min_samples_leaf=2, random_state=int(generator.integers(2**31))
        )
        forest.fit(self.table.standardised(scored), (targets - centre) / spread)
        possible, predicted = np.empty(len(self.table)), np.empty(len(self.table))
        for part, rows in self.table.blocks():
            trees = np.stack([tree.tree_.predict(rows)[:, :, 0] for tree in forest.estimators_])
            possible[part] = trees[..., 0].mean(axis=0) + trees[..., 0].std(axis=0)
            predicted[part] = np.sqrt((np.clip(trees[..., 1] * spread[1] + centre[1], 0.0, 1.0) ** 2).mean(axis=0))
        return possible, predicted

    def _distance(self, to: NDArray[np.int64]) -> NDArray[np.float32]:
        """Squared distance of every task to the nearest of some tasks, shape (N,), float32."""
        theirs = self.table.standardised(to)
        square = (theirs * theirs).sum(axis=1)
        nearest = np.empty(len(self.table), dtype=np.float32)
        for part, rows in self.table.blocks():
            nearest[part] = (rows * rows).sum(axis=1) + (square - 2.0 * (rows @ theirs.T)).min(axis=1)
        return nearest


def by_rank(values: NDArray[Any], left: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Weights that fall with the rank of a value.

    :param values: shape (N,), the largest first
    :param left: which tasks may be chosen, shape (N,), bool
    :return: shape (N,), float64, with sum 1; 0 where ``left`` is false
    """
    tasks = np.flatnonzero(left)
    order = tasks[np.argsort(-values[tasks], kind="stable")]
    weights = np.zeros(len(values))
    weights[order] = (np.arange(len(order)) + _RANK_OFFSET) ** -_RANK_POWER
    shares: NDArray[np.float64] = weights / weights.sum()
    return shares
