"""The squared forecast error averaged over every partition of a pool, exactly (docs/method.md section 5b).

If a forecast is linear in the scores, the error of a partition is a sum over the gaps of the sorted pool, e = sum_i g_i Y_i.
Y_i depends only on how many evaluation tasks are among the i worst tasks. That number is a Markov chain along the ranks. So the
mean square over all C(N, m) partitions is a quadratic form g' K g, and its matrix K is computed once.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch as th
from numpy.typing import NDArray
from scipy.special import gammaln

from sb3_forecast.statistics.estimators import linear_weights
from sb3_forecast.statistics.names import Method, Target
from sb3_forecast.statistics.partitions import check_partition

F64 = NDArray[np.float64]


def _log_choose(n: Any, r: Any) -> Any:
    """Natural log of the binomial coefficient C(n, r); -inf outside 0 <= r <= n."""
    with np.errstate(invalid="ignore"):
        value = gammaln(n + 1.0) - gammaln(r + 1.0) - gammaln(n - r + 1.0)
    return np.where((r < 0) | (r > n), -np.inf, value)


def block_ends(n_pool: int, prefix: int, single: int, ratio: float) -> NDArray[np.int64]:
    """Last rank (counted from 1) of each block of ranks; scores are averaged within a block.

    The first blocks are single ranks. The later ones grow geometrically.

    :param n_pool: pool size N
    :param prefix: number of top ranks that matter
    :param single: number of top ranks that are blocks of their own
    :param ratio: growth of the later blocks
    :return: last ranks, ascending, shape (blocks,), int64
    """
    ends = list(range(1, min(single, prefix) + 1))
    while ends[-1] < prefix:
        ends.append(min(prefix, max(ends[-1] + 1, math.ceil(ends[-1] * ratio))))
    return np.array(ends, dtype=np.int64)


class ExpectedSquaredError:
    """Mean of (forecast - deployment maximum)^2 over all partitions of a pool, as a function of its sorted scores.

    It is differentiable. It is exact if the prefix has at most ``single`` ranks. With a longer prefix, later scores are averaged
    over blocks of ranks that grow by ``ratio`` (docs/method.md eq. 43); :meth:`relative_error` measures the error that this makes.
    All scores beyond the prefix count as equal to the last one in it (docs/method.md eq. 45).

    :param n_pool: pool size N
    :param eval_size: evaluation set size m
    :param k: number of top evaluation scores
    :param method: ``"direct"`` or ``"blue"``; ``"jones"`` is not linear and needs sampled partitions
    :param target: ``"max"`` or ``"quantile"``; only for ``"blue"``
    :param prefix: number of top ranks that matter; ``None`` for E r_k + 8 sqrt(k) N / m (docs/method.md eq. 45)
    :param single: number of top ranks that are not averaged, at least k + 1
    :param ratio: growth of the blocks after them, above 1
    :param per_block: largest number of ranks, evenly spread, from which the mean of a block is computed
    :raises ValueError: if a size is out of range, or the method is not linear
    """

    def __init__(
        self,
        n_pool: int,
        eval_size: int,
        k: int,
        method: Method = "direct",
        target: Target = "max",
        prefix: int | None = None,
        single: int = 1024,
        ratio: float = 1.05,
        per_block: int = 32,
    ) -> None:
        check_partition(n_pool, eval_size, k)
        if not ratio > 1.0:
            raise ValueError(f"ratio must be above 1, got {ratio}; use for example 1.05")
        if per_block < 1:
            raise ValueError(f"per_block must be at least 1, got {per_block}; use for example 32")
        if single < k + 1:
            raise ValueError(
                f"single must be at least k + 1 = {k + 1}, got {single}; the forecast needs these ranks without averaging"
            )
        self.n_pool, self.eval_size, self.k = n_pool, eval_size, k
        self.method: Method = method
        self.target: Target = target
        self.single, self.ratio, self.per_block = single, ratio, per_block
        wanted = math.ceil((k + 8.0 * math.sqrt(k)) * n_pool / eval_size) if prefix is None else prefix
        #: number of top ranks that matter; the scores of later ranks need not be passed
        self.prefix = max(k + 1, min(wanted, n_pool))
        self.weights = linear_weights(method, k, eval_size, n_pool - eval_size, target)
        self.ends = block_ends(n_pool, self.prefix, single, ratio)
        begins = np.concatenate([[0], self.ends[:-1]])
        members = [
            np.unique(np.linspace(begin, end - 1, min(end - begin, per_block)).round())
            for begin, end in zip(begins, self.ends, strict=True)
        ]
        #: ranks, counted from 0, whose scores are read: all single ranks, and ``per_block`` ranks of each larger block
        self.members = np.concatenate(members).astype(np.int64)
        self._counts = np.array([len(block) for block in members])
        self._starts = np.concatenate([[0], np.cumsum(self._counts)[:-1]])
        self.mean_gap, self.kernel, self._deployment_rows = self._build()

    def _build(self) -> tuple[F64, F64, F64]:
        """Compute mu, K, and for each rank s the row r_s with E[e; deployment maximum at rank s] = r_s' g.

        See docs/method.md eq. 38, 39, 41. States of the chain: c = 0..k-1 means that c evaluation tasks and at least one
        deployment task were seen; k means that only evaluation tasks were seen. The state with k evaluation tasks and a deployment
        task is absorbing, has Y = 0 and is left out.
        """
        n, m, k = self.n_pool, self.eval_size, self.k
        ends = self.ends
        count = len(ends)
        cumulative = np.concatenate([[0.0], np.cumsum(self.weights)])
        values = np.empty((count, k + 1))  # Y of each state at each block end (docs/method.md eq. 37)
        values[:, :k] = cumulative[:k] - 1.0
        values[:, k] = cumulative[np.minimum(ends, k)]
        values[ends >= n] = 0.0  # there is no gap after the last rank
        # the loop goes backward: expected[s, b] = E[Y at end b | state s at end a], for b >= a
        expected = np.zeros((k + 1, count))
        kernel = np.zeros((count, count))
        probability = self._forward()
        mean = (probability * values).sum(axis=1)
        # P(ranks 1..a are all evaluation tasks), for single ranks only, and only while it is not negligible
        every = np.arange(min(self.single, count, m + 1))
        all_evaluation = np.exp(_log_choose(n - every, m - every) - _log_choose(n, m))
        seen = int((all_evaluation > 1e-18).sum())
        rows = np.zeros((seen, count))
        for a in range(count - 1, -1, -1):
            if a + 1 < count:
                expected[:, a + 1 :] = self._transition(int(ends[a]), int(ends[a + 1])) @ expected[:, a + 1 :]
            expected[:, a] = values[a]
            kernel[a, a:] = (probability[a] * values[a]) @ expected[:, a:]
            if a < seen:
                # ranks 1..a are evaluation tasks and rank a + 1 is the first deployment task: its state is c = a, or absorbed
                first_deployment = all_evaluation[a] * (n - m) / (n - a)
                rows[a, :a] = first_deployment * cumulative[np.minimum(np.arange(1, a + 1), k)]
                if a < k:
                    rows[a, a:] = first_deployment * expected[a, a:]
        kernel += np.triu(kernel, 1).T
        return mean, kernel, rows

    def _forward(self) -> F64:
        """Probability of each state at each block end, shape (blocks, k + 1)."""
        n, m, k = self.n_pool, self.eval_size, self.k
        seen = np.arange(k)
        log_p = _log_choose(self.ends[:, None], seen) + _log_choose(n - self.ends[:, None], m - seen) - _log_choose(n, m)
        out = np.zeros((len(self.ends), k + 1))
        out[:, :k] = np.where(seen < self.ends[:, None], np.exp(log_p), 0.0)
        out[:, k] = np.exp(_log_choose(n - self.ends, m - self.ends) - _log_choose(n, m))
        return out

    def _transition(self, begin: int, end: int) -> F64:
        """P(state at ``end`` | state at ``begin``), shape (k + 1, k + 1); the rest of each row, up to 1, is absorbed."""
        n, m, k = self.n_pool, self.eval_size, self.k
        left, drawn = n - begin, end - begin
        out = np.zeros((k + 1, k + 1))
        have = np.append(np.arange(k), begin)[:, None]  # evaluation tasks seen in each state
        more = np.arange(k)[None, :] - have
        reachable = (have <= m) & (m - have <= left)
        with np.errstate(invalid="ignore"):
            log_p = _log_choose(drawn, more) + _log_choose(left - drawn, m - have - more) - _log_choose(left, m - have)
        out[:, :k] = np.where(reachable & (more >= 0), np.exp(log_p), 0.0)
        # "all evaluation" can only be reached from itself
        everything = _log_choose(left - drawn, m - begin - drawn) - _log_choose(left, m - begin) if begin <= m else -np.inf
        out[k, k] = math.exp(float(everything)) if begin <= m else 0.0
        out[k, :k] = np.where(np.arange(k) < end, out[k, :k], 0.0)
        return out

    def block_means(self, sorted_scores: F64) -> F64:
        """Mean score of each block.

        :param sorted_scores: scores of the pool, descending, shape (N,), or at least the first ``prefix`` of them
        :return: shape (blocks,)
        :raises ValueError: if there are fewer scores than ``prefix``, or they are not finite or not sorted
        """
        x = np.asarray(sorted_scores, dtype=np.float64)
        if x.ndim != 1 or not self.prefix <= len(x) <= self.n_pool:
            raise ValueError(
                f"sorted_scores must have the shape ({self.n_pool},), got {x.shape}; pass all scores of the pool, or at least the "
                f"{self.prefix} largest"
            )
        means = x[self.members]
        if len(self.members) > len(self.ends):
            means = np.add.reduceat(means, self._starts) / self._counts
        # if the scores are finite and sorted, so are the means of blocks, which are faster to check because they are few
        if not np.isfinite(means).all():
            raise ValueError(
                f"sorted_scores must be finite up to rank {self.prefix}, got -inf, +inf or NaN there; use a smaller prefix, or sampled "
                "partitions"
            )
        if (means[1:] > means[:-1]).any():
            raise ValueError(
                "sorted_scores must be in descending order, got a larger score after a smaller one; sort them first"
            )
        return means

    def _gaps(self, sorted_scores: F64) -> F64:
        """Gap after each block; 0 after the last one, because the rest of the pool counts as equal to it."""
        means = self.block_means(sorted_scores)
        gaps = np.zeros(len(means))
        gaps[:-1] = means[:-1] - means[1:]
        return gaps

    def value_and_gradient(self, sorted_scores: F64) -> tuple[float, F64]:
        """Mean squared error and its gradient with respect to each score (docs/method.md eq. 39).

        :param sorted_scores: scores of the pool, descending, shape (N,), or at least the first ``prefix`` of them
        :return: the value, and the gradient in the shape of the argument
        :raises ValueError: see :meth:`block_means`
        """
        gaps = self._gaps(sorted_scores)
        slope = self.kernel @ gaps
        value = float(gaps @ slope)
        # chain rule from gaps to scores: the gradient of a block is spread evenly over the ranks that it reads
        slope *= 2.0
        slope[-1] = 0.0
        slope[1:] -= slope[:-1].copy()
        gradient = np.zeros(len(sorted_scores))
        gradient[self.members] = np.repeat(slope / self._counts, self._counts)
        return value, gradient

    def mean(self, sorted_scores: F64) -> float:
        """Mean signed error over all partitions, E(forecast - deployment maximum) (docs/method.md eq. 38).

        :param sorted_scores: see :meth:`value_and_gradient`
        :return: the mean
        """
        return float(self.mean_gap @ self._gaps(sorted_scores))

    def variance(self, sorted_scores: F64) -> float:
        """Variance of the error over all partitions (docs/method.md eq. 42).

        :param sorted_scores: see :meth:`value_and_gradient`
        :return: the variance
        """
        return self.value_and_gradient(sorted_scores)[0] - self.mean(sorted_scores) ** 2

    def gradient_sides(self, sorted_scores: F64) -> tuple[F64, F64]:
        """Split the gradient into the parts through the forecast and through the deployment maximum (docs/method.md eq. 41).

        :param sorted_scores: see :meth:`value_and_gradient`
        :return: evaluation side and deployment side; they add up to the gradient
        """
        gaps = self._gaps(sorted_scores)
        _, total = self.value_and_gradient(sorted_scores)
        deployment = np.zeros_like(total)
        deployment[: len(self._deployment_rows)] = -2.0 * self._deployment_rows @ gaps
        return total - deployment, deployment

    def relative_error(self, sorted_scores: F64) -> float:
        """Estimate the error that averaging and cutting make, by comparing with a finer setting.

        In the finer setting, blocks grow a quarter as fast and read four times as many ranks. The prefix is 1.5 times as long.

        :param sorted_scores: scores of the whole pool, descending, shape (N,)
        :return: relative change of the value; 0 if nothing is averaged or cut
        """
        finer = ExpectedSquaredError(
            self.n_pool, self.eval_size, self.k, self.method, self.target,
            min(self.n_pool, math.ceil(1.5 * self.prefix)), self.single, self.ratio**0.25, 4 * self.per_block,
        )  # fmt: skip
        value, reference = self.value_and_gradient(sorted_scores)[0], finer.value_and_gradient(sorted_scores)[0]
        return abs(value - reference) / reference if reference else abs(value)

    def __call__(self, sorted_scores: Any) -> Any:
        """Mean squared error over all partitions.

        :param sorted_scores: see :meth:`value_and_gradient`; numpy or torch
        :return: a number, or for a tensor a differentiable scalar, float64
        """
        if isinstance(sorted_scores, th.Tensor):
            return _Quadratic.apply(sorted_scores, self)  # type: ignore[no-untyped-call]  # torch has no types here
        return self.value_and_gradient(sorted_scores)[0]


class _Quadratic(th.autograd.Function):
    """The quadratic form with its closed-form gradient."""

    @staticmethod
    def forward(ctx: Any, sorted_scores: th.Tensor, loss: ExpectedSquaredError) -> th.Tensor:
        value, gradient = loss.value_and_gradient(sorted_scores.detach().to("cpu", th.float64).numpy())
        ctx.gradient = th.from_numpy(gradient)
        ctx.like = (sorted_scores.device, sorted_scores.dtype)
        return th.tensor(value, dtype=th.float64)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: th.Tensor) -> tuple[th.Tensor, None]:
        return (grad_outputs[0] * ctx.gradient).to(*ctx.like), None
