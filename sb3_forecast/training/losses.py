"""The forecastability loss and its variants, pure torch (docs/method.md section 5, 6; Schwarzer & Niekum 2026 for the idea)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch as th
from numpy.typing import NDArray

from sb3_forecast.statistics.estimators import forecast_top, mean_spacing
from sb3_forecast.statistics.exact_partitions import ExpectedSquaredError
from sb3_forecast.statistics.intervals import pivot_quantile
from sb3_forecast.statistics.names import METHODS, Method
from sb3_forecast.statistics.partitions import check_partition, sample_partitions
from sb3_forecast.statistics.scores import failure_score

#: partitions drawn for the log when the loss itself is exact
_LOGGED = 64

Kind = Literal["guarded", "squared", "hinge"]
KINDS: tuple[Kind, ...] = ("guarded", "squared", "hinge")


class TooFewScoresError(ValueError):
    """Too few tasks have any risk at all: a forecast from them does not exist."""


@dataclass(frozen=True)
class Partitions:
    """Tasks of R partitions of a pool.

    :param evaluation: indices of the k worst evaluation tasks, shape (R, k), int64
    :param deployment: index of the worst deployment task, shape (R,), int64
    :param touched: the tasks that occur in any partition, ascending, int64
    """

    evaluation: th.Tensor
    deployment: th.Tensor
    touched: th.Tensor


@dataclass(frozen=True)
class LossTerms:
    """A loss and what it was made of; all but ``loss`` are detached.

    :param loss: differentiable scalar
    :param forecast: forecast of each partition, shape (R,)
    :param realised: worst deployment score of each partition, shape (R,)
    :param scale: fitted scale sigma_bar of each partition, shape (R,)
    :param weights: gradient of the loss in each touched score, shape (touched,)
    """

    loss: th.Tensor
    forecast: th.Tensor
    realised: th.Tensor
    scale: th.Tensor
    weights: th.Tensor


class ForecastLoss:
    """Forecast error over random evaluation/deployment partitions of a pool with cached scores.

    Kinds:

    - ``"squared"``: mean of (forecast - realised maximum)^2, gradient through both sides: the paper's form. It lowers
      the tail's spread even where the forecast is right, and raises ordinary tasks when it under-predicts (docs/method.md section 6).
    - ``"guarded"`` (default): the same loss, but weights that would make a task fail more are set to zero, and so are
      those of tasks with p below ``p_floor``.
    - ``"hinge"``: squared excess of the maximum over the upper ``level`` prediction limit, in units of the scale, with
      gradient in the deployment score only (docs/method.md section 6, L_H).

    :param eval_size: evaluation set size m of a partition
    :param k: number of top evaluation scores used by the forecast
    :param n_partitions: number of partitions R drawn per refresh, or ``"exact"`` for the expectation over all partitions: kinds
        ``squared`` and ``guarded`` with a linear method
    :param kind: see above
    :param method: forecast method, see :func:`sb3_forecast.statistics.estimators.forecast_top`; unused by ``"hinge"``
    :param p_floor: failure probability below which a task is left alone (kinds ``guarded`` and ``hinge``)
    :param level: coverage of the hinge's upper limit
    :param min_scale: floor of the hinge's unit, in psi
    :raises ValueError: if an argument is out of range
    """

    def __init__(
        self,
        eval_size: int,
        k: int = 10,
        n_partitions: int | Literal["exact"] = 128,
        kind: Kind = "guarded",
        method: Method = "jones",
        p_floor: float = 1e-6,
        level: float = 0.9,
        min_scale: float = 0.05,
    ) -> None:
        if k < 2:
            raise ValueError(f"k={k} top scores do not determine a slope; use k >= 2")
        if k > eval_size:
            raise ValueError(f"k={k} exceeds eval_size={eval_size}; use k <= {eval_size} or a larger eval_size")
        if n_partitions == "exact":
            if kind == "hinge" or method == "jones":
                raise ValueError(
                    f"n_partitions='exact' needs a squared error of a linear forecast, not kind={kind!r} with method={method!r}; "
                    "use kind 'guarded' or 'squared' with method 'blue' or 'direct', or a number of partitions"
                )
        elif n_partitions < 1:
            raise ValueError(f"n_partitions={n_partitions} draws nothing; use n_partitions >= 1, or 'exact'")
        if kind not in KINDS:
            raise ValueError(f"kind={kind!r} is unknown; use one of {KINDS}")
        if method not in METHODS:
            raise ValueError(f"method={method!r} is unknown; use one of {METHODS}")
        if not 0.0 <= p_floor < 1.0:
            raise ValueError(f"p_floor={p_floor} is not a failure probability to be tolerated; use a value in [0, 1)")
        if not 0.0 < level < 1.0:
            raise ValueError(f"level={level} is no coverage; use a value strictly between 0 and 1")
        if not min_scale > 0.0:
            raise ValueError(f"min_scale={min_scale} cannot bound a division; use a value > 0")
        self.eval_size = eval_size
        self.k = k
        self.n_partitions = n_partitions
        self.kind = kind
        self.method = method
        self.p_floor = p_floor
        self.level = level
        self.min_scale = min_scale
        self._exact: ExpectedSquaredError | None = None
        with np.errstate(divide="ignore"):
            self.score_floor = float(failure_score(np.log(p_floor)))

    def reach(self, n_pool: int) -> int:
        """How many of a pool's worst tasks the partitions touch, but for about one in 2000: E r_k + 4 sqrt(k) N / m (docs/method.md eq. 35).

        :param n_pool: pool size N
        """
        if self.n_partitions == "exact":
            return self._expectation(n_pool).prefix
        return min(n_pool, math.ceil((self.k + 4.0 * math.sqrt(self.k)) * n_pool / self.eval_size))

    def draw(self, scores: th.Tensor, generator: np.random.Generator) -> Partitions:
        """Draw partitions of a scored pool.

        Partitions among whose k worst evaluation tasks some cannot fail (score -inf) have no forecast and are left out.

        :param scores: score of every task, shape (N,); -inf where p = 0
        :param generator: source of randomness
        :return: the partitions that have a forecast, at most ``n_partitions``
        :raises ValueError: if a score is NaN or +inf, or no drawn partition has k finite evaluation scores
        """
        values = scores.detach().to(device="cpu", dtype=th.float64)
        check_partition(len(values), self.eval_size, self.k)
        if bool(th.isnan(values).any()) or bool((values == th.inf).any()):
            bad = int((th.isnan(values) | (values == th.inf)).nonzero()[0, 0])
            raise ValueError(
                f"scores[{bad}]={float(values[bad])} is not usable; a task that always fails (p = 1) or a NaN has no place on the "
                "tail's line: compute scores with failure_score_from_log_survival, and check the model's outputs for NaN"
            )
        order = th.argsort(values, descending=True, stable=True)
        finite = int(th.isfinite(values).sum())
        # with the exact expectation, a few partitions are still drawn for the log
        count = _LOGGED if self.n_partitions == "exact" else self.n_partitions
        ranks = sample_partitions(len(values), self.eval_size, self.k, count, generator)
        usable = (ranks.evaluation[:, -1] < finite) & (ranks.deployment < finite)
        if not usable.any():
            raise TooFewScoresError(
                f"only {finite} of {len(values)} scores are finite, too few for k={self.k} worst of eval_size={self.eval_size} tasks; "
                "lower k, raise eval_size, or use a scorer that resolves small probabilities ('exact' or 'survival')"
            )
        evaluation = order[th.from_numpy(ranks.evaluation[usable])]
        deployment = order[th.from_numpy(ranks.deployment[usable])]
        touched = [evaluation.reshape(-1), deployment]
        if self.n_partitions == "exact":
            prefix = self._expectation(len(values)).prefix
            if prefix > finite:
                raise TooFewScoresError(
                    f"only {finite} of {len(values)} scores are finite, but the expectation over all partitions needs the {prefix} largest; "
                    "use a number of partitions"
                )
            touched.append(order[:prefix])
        return Partitions(evaluation, deployment, th.unique(th.cat(touched)))

    def _expectation(self, n_pool: int) -> ExpectedSquaredError:
        """The exact expectation for a pool size, built once."""
        if self._exact is None or self._exact.n_pool != n_pool:
            self._exact = ExpectedSquaredError(n_pool, self.eval_size, self.k, self.method)
        return self._exact

    def evaluate(self, touched_scores: th.Tensor, partitions: Partitions, n_pool: int) -> LossTerms:
        """The loss of fixed partitions, from the scores of the touched tasks.

        :param touched_scores: scores of ``partitions.touched``, in that order, shape (touched,)
        :param partitions: as drawn
        :param n_pool: pool size N
        :return: loss and terms
        """
        leaf = touched_scores.detach().to(th.float64).requires_grad_(True)
        evaluation = leaf[th.searchsorted(partitions.touched, partitions.evaluation)]
        realised = leaf[th.searchsorted(partitions.touched, partitions.deployment)]
        # scores move between refreshes, so the order within the evaluation set is taken afresh
        top = evaluation.sort(dim=-1, descending=True).values
        n_deploy = n_pool - self.eval_size
        scale = mean_spacing(top)
        forecast = forecast_top(top, self.eval_size, n_deploy, self.method)
        if self.n_partitions == "exact":
            value = self._expectation(n_pool)(leaf.sort(descending=True).values)
        elif self.kind == "hinge":
            limit = (top[:, -1] + pivot_quantile(self.level, self.k, self.eval_size, n_deploy) * scale).detach()
            value = (((realised - limit).clamp(min=0.0) / scale.detach().clamp(min=self.min_scale)) ** 2).mean()
        else:
            value = ((forecast - realised) ** 2).mean()
        (weights,) = th.autograd.grad(value, leaf)
        if self.kind != "squared":
            weights = th.where(leaf.detach() > self.score_floor, weights.clamp(min=0.0), 0.0)
        # value of the loss, gradient of the weights: sum_i w_i psi_i, the partition-invariant form (docs/method.md section 5, training recipe)
        linear = (weights * touched_scores).sum()
        loss = linear + (value.detach() - linear.detach())
        return LossTerms(loss, forecast.detach(), realised.detach(), scale.detach(), weights)

    def suggest_partitions(self, scores: th.Tensor, generator: np.random.Generator, n_probe: int = 512) -> int:
        """Number of partitions whose gradient noise has a tenth of the gradient's power (docs/method.md section 7, R).

        Measures tr Cov(g) / |E g|^2 of the gradient of single partitions of the squared error, before any guard.

        :param scores: score of every task, shape (N,)
        :param generator: source of randomness
        :param n_probe: partitions drawn for the measurement
        :return: clamp(10 x ratio, 16, 1024)
        :raises ValueError: see :meth:`draw`
        """
        probe = ForecastLoss(self.eval_size, self.k, n_probe, "squared", self.method)
        partitions = probe.draw(scores, generator)
        evaluation = scores.detach().double()[partitions.evaluation].requires_grad_(True)
        deployment = scores.detach().double()[partitions.deployment].requires_grad_(True)
        forecast = forecast_top(evaluation, self.eval_size, len(scores) - self.eval_size, self.method)
        by_task = th.autograd.grad(((forecast - deployment) ** 2).sum(), (evaluation, deployment))
        count = len(deployment)
        mean = th.zeros(len(scores), dtype=th.float64)
        mean.index_add_(0, partitions.evaluation.reshape(-1), by_task[0].reshape(-1)).index_add_(
            0, partitions.deployment, by_task[1]
        )
        power = float((mean / count).square().sum())
        single = float(by_task[0].square().sum() + by_task[1].square().sum()) / count
        # |mean of R|^2 holds a share 1/R of the noise
        noise = (single - power) * count / (count - 1)
        signal = max(power - noise / count, 1e-300)
        return int(min(max(10.0 * noise / signal, 16.0), 1024.0))

    def __call__(self, scores: th.Tensor, generator: np.random.Generator) -> tuple[th.Tensor, NDArray[np.int64]]:
        """Draw partitions and evaluate the loss on them.

        :param scores: score of every task of the pool, shape (N,); gradients flow through the touched ones
        :param generator: source of randomness
        :return: differentiable scalar, and the indices of the touched tasks
        :raises ValueError: see :meth:`draw`
        """
        partitions = self.draw(scores, generator)
        terms = self.evaluate(scores[partitions.touched], partitions, len(scores))
        return terms.loss, partitions.touched.numpy()
