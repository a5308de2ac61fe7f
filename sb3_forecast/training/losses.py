"""The forecast loss and its variants, in pure torch (docs/method.md sections 5 and 6; the idea is from Schwarzer & Niekum 2026)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch as th
from numpy.typing import NDArray

from sb3_forecast.checks import inside_unit, real, whole
from sb3_forecast.statistics.estimators import forecast_top, mean_spacing
from sb3_forecast.statistics.exact_partitions import ExpectedSquaredError
from sb3_forecast.statistics.intervals import pivot_quantile
from sb3_forecast.statistics.names import METHODS, Method, NoForecastError
from sb3_forecast.statistics.partitions import check_partition, sample_partitions
from sb3_forecast.statistics.scores import failure_score

#: number of partitions drawn only for the log, when the loss itself is the exact expectation
_LOGGED = 64

Kind = Literal["guarded", "squared", "hinge"]
KINDS: tuple[Kind, ...] = ("guarded", "squared", "hinge")


class TooFewScoresError(NoForecastError):
    """Too few tasks have a finite score (p > 0), so no forecast exists."""


@dataclass(frozen=True)
class Partitions:
    """R partitions of a pool: the tasks that the loss uses.

    :param evaluation: indices of the k worst evaluation tasks, shape (R, k), int64
    :param deployment: index of the worst deployment task, shape (R,), int64
    :param touched: indices of the tasks that occur in at least one partition, ascending, shape (touched,), int64
    :param floored: whether tasks below ``p_floor`` count as ``p_floor``, because too few have a score of their own
    """

    evaluation: th.Tensor
    deployment: th.Tensor
    touched: th.Tensor
    floored: bool = field(default=False, kw_only=True)


@dataclass(frozen=True)
class LossTerms:
    """The loss and its parts. All parts except ``loss`` are detached from the graph.

    :param loss: differentiable scalar
    :param forecast: forecast of each partition, in psi, shape (R,)
    :param realised: worst deployment score of each partition, in psi, shape (R,)
    :param scale: fitted scale sigma_bar of each partition, in psi, shape (R,)
    :param weights: gradient of the loss with respect to each touched score, shape (touched,)
    :param held: sum of the weights by which tasks are held on purpose, so that they do not fall below where they belong
    """

    loss: th.Tensor
    forecast: th.Tensor
    realised: th.Tensor
    scale: th.Tensor
    weights: th.Tensor
    held: float = 0.0


class ForecastLoss:
    """Forecast error over random partitions of a pool (evaluation set, deployment set), from cached scores.

    Kinds:

    - ``"squared"``: the mean of (forecast - realised maximum)^2, with a gradient through both. This is the form of the paper. It lowers the
      spread of the tail even if the forecast is right. If the forecast is too low, it raises the scores of ordinary tasks (docs/method.md
      section 6).
    - ``"guarded"`` (default): the same loss, but two kinds of weights are set to zero: weights that would make a task fail more, and weights
      of tasks with p below ``p_floor``. Where no partition has k finite scores, tasks below ``p_floor`` count as ``p_floor``: a rare mode that
      alone can fail still has a forecast that misses it.
    - ``"hinge"``: the squared excess of the realised maximum over the upper prediction limit of coverage ``level``, in units of the fitted
      scale. Only the deployment score has a gradient (docs/method.md section 6, L_H).

    :param eval_size: evaluation set size m of a partition
    :param k: number of top evaluation scores used by the forecast
    :param n_partitions: number of partitions R drawn per refresh, or ``"exact"`` for the expectation over all partitions. ``"exact"`` needs
        kind ``"squared"`` or ``"guarded"`` and a linear method (``"blue"`` or ``"direct"``)
    :param kind: see above
    :param method: forecast method, see :func:`sb3_forecast.statistics.estimators.forecast_top`; unused by ``"hinge"``
    :param p_floor: tasks with a failure probability below this get weight 0 (kinds ``"guarded"`` and ``"hinge"``)
    :param level: coverage of the upper limit (kind ``"hinge"``)
    :param min_scale: smallest scale that the excess is divided by, in psi (kind ``"hinge"``)
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
        whole("k", k, low=2, use="10, a fit needs two scores or more")
        if k > whole("eval_size", eval_size, use="the number of evaluation tasks"):
            raise ValueError(f"k must be at most eval_size={eval_size}, got {k}; use a smaller k, or a larger eval_size")
        if n_partitions == "exact":
            if kind == "hinge" or method == "jones":
                raise ValueError(
                    f"n_partitions must be a number for kind={kind!r} with method={method!r}, got 'exact'; "
                    "use kind 'guarded' or 'squared' with method 'blue' or 'direct', or a number such as 128"
                )
        else:
            whole("n_partitions", n_partitions, low=1, use="128, or 'exact'")
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {KINDS}, got {kind!r}; use 'guarded'")
        if method not in METHODS:
            raise ValueError(f"method must be one of {METHODS}, got {method!r}; use 'jones'")
        if not 0.0 <= real("p_floor", p_floor) < 1.0:
            raise ValueError(
                f"p_floor must be in [0, 1), got {p_floor}; use the failure probability that you tolerate, such as 1e-6"
            )
        inside_unit("level", level)
        if not real("min_scale", min_scale) > 0.0:
            raise ValueError(f"min_scale must be above 0, got {min_scale}; use 0.05")
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
        """Number of worst tasks that cover what the partitions touch, except for about one partition in 2000.

        It is E r_k + 4 sqrt(k) N / m (docs/method.md eq. 35). For ``n_partitions="exact"`` it is the number of tasks that the expectation uses.

        :param n_pool: pool size N
        :return: number of tasks, at most N
        """
        if self.n_partitions == "exact":
            return self._expectation(n_pool).prefix
        return min(n_pool, math.ceil((self.k + 4.0 * math.sqrt(self.k)) * n_pool / self.eval_size))

    def draw(self, scores: th.Tensor, generator: np.random.Generator) -> Partitions:
        """Draw partitions of a scored pool.

        A partition has no forecast if one of its k worst evaluation tasks or its worst deployment task cannot fail (score -inf). Such partitions
        are left out. If none is left, the kind ``"guarded"`` counts tasks below ``p_floor`` as ``p_floor``, as long as one task is above it.

        :param scores: score psi of every task, shape (N,); -inf if p = 0
        :param generator: source of randomness
        :return: the partitions that have a forecast, at most ``n_partitions``
        :raises ValueError: if a score is NaN or +inf, or the sizes do not fit the pool
        :raises TooFewScoresError: if no drawn partition has a forecast, or fewer scores are finite than the exact expectation needs
        """
        values = scores.detach().to(device="cpu", dtype=th.float64)
        check_partition(len(values), self.eval_size, self.k)
        if bool(th.isnan(values).any()) or bool((values == th.inf).any()):
            bad = int((th.isnan(values) | (values == th.inf)).nonzero()[0, 0])
            raise ValueError(
                f"scores[{bad}] must not be NaN or +inf, got {float(values[bad])}; compute scores with failure_score_from_log_survival "
                "(it resolves p close to 1), and check the model's outputs for NaN"
            )
        order = th.argsort(values, descending=True, stable=True)
        finite, floored = int(th.isfinite(values).sum()), False
        # the exact expectation has no forecast of its own to log, so a few partitions are drawn for that
        count = _LOGGED if self.n_partitions == "exact" else self.n_partitions
        ranks = sample_partitions(len(values), self.eval_size, self.k, count, generator)
        usable = (ranks.evaluation[:, -1] < finite) & (ranks.deployment < finite)
        if not usable.any() and self.kind == "guarded" and self.p_floor > 0.0 and bool((values > self.score_floor).any()):
            # only a rare mode has risk: the others are as good as p_floor, and the forecast misses the worst by far
            floored, usable = True, np.ones_like(usable)
        if not usable.any():
            raise TooFewScoresError(
                f"the {self.k} worst scores of {self.eval_size} evaluation tasks must be finite, got {finite} finite ones of {len(values)}; "
                "use a smaller k, a larger eval_size, or a scorer that resolves small probabilities ('exact' or 'survival')"
            )
        evaluation = order[th.from_numpy(ranks.evaluation[usable])]
        deployment = order[th.from_numpy(ranks.deployment[usable])]
        touched = [evaluation.reshape(-1), deployment]
        if self.n_partitions == "exact":
            prefix = self._expectation(len(values)).prefix
            if prefix > finite:
                raise TooFewScoresError(
                    f"the {prefix} largest scores must be finite for n_partitions='exact', got {finite} finite ones of {len(values)}; "
                    "use a number such as 128"
                )
            touched.append(order[:prefix])
        return Partitions(evaluation, deployment, th.unique(th.cat(touched)), floored=floored)

    def _expectation(self, n_pool: int) -> ExpectedSquaredError:
        """The exact expectation for a pool of this size; built once."""
        if self._exact is None or self._exact.n_pool != n_pool:
            self._exact = ExpectedSquaredError(n_pool, self.eval_size, self.k, self.method)
        return self._exact

    def evaluate(self, touched_scores: th.Tensor, partitions: Partitions, n_pool: int) -> LossTerms:
        """Evaluate the loss on fixed partitions.

        :param touched_scores: scores of the tasks ``partitions.touched``, in that order, shape (touched,); gradients flow through them
        :param partitions: from :meth:`draw`
        :param n_pool: pool size N
        :return: the loss and its parts
        """
        leaf = touched_scores.detach().to(th.float64).requires_grad_(True)
        counted = leaf.clamp(min=self.score_floor) if partitions.floored else leaf
        evaluation = counted[th.searchsorted(partitions.touched, partitions.evaluation)]
        realised = counted[th.searchsorted(partitions.touched, partitions.deployment)]
        # scores change between refreshes, so the evaluation scores are sorted again
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
        # value: the loss; gradient: sum_i w_i dpsi_i, so dropped weights add nothing (docs/method.md section 5, training recipe)
        # (a score of minus infinity has the weight 0)
        linear = (weights * touched_scores.where(weights != 0.0, 0.0)).sum()
        loss = linear + (value.detach() - linear.detach())
        return LossTerms(loss, forecast.detach(), realised.detach(), scale.detach(), weights)

    def suggest_partitions(self, scores: th.Tensor, generator: np.random.Generator, n_probe: int = 512) -> int:
        """Number of partitions at which the gradient noise has a tenth of the power of the gradient (docs/method.md section 7, R).

        It measures the ratio ``tr Cov(g) / |E g|^2``, where g is the gradient of the squared error of one partition, before any guard.

        :param scores: score of every task, shape (N,)
        :param generator: source of randomness
        :param n_probe: number of partitions drawn for the measurement
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
        # the squared mean of R gradients still contains 1/R of the noise
        noise = (single - power) * count / (count - 1)
        signal = max(power - noise / count, 1e-300)
        return int(min(max(10.0 * noise / signal, 16.0), 1024.0))

    def __call__(self, scores: th.Tensor, generator: np.random.Generator) -> tuple[th.Tensor, NDArray[np.int64]]:
        """Draw partitions and evaluate the loss on them.

        :param scores: score of every task of the pool, shape (N,); gradients flow through the touched ones
        :param generator: source of randomness
        :return: differentiable scalar, and the indices of the touched tasks, shape (touched,), int64
        :raises ValueError: see :meth:`draw`
        """
        partitions = self.draw(scores, generator)
        terms = self.evaluate(scores[partitions.touched], partitions, len(scores))
        return terms.loss, partitions.touched.numpy()
