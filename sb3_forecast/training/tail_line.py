"""A loss that shapes the tail of a whole pool, so that the forecast also covers tasks that were not in it.

The guarded loss lowers all risky tasks. Ordinary tasks share the policy and fall too, by several powers of ten, while a few unfinished
tasks stay where they are: the tail becomes heavier than exponential, and forecasts too low. This loss pushes down only what sticks out of a
line, and holds what falls below it, but never above where the task was before the training (docs/calibration.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th

from sb3_forecast.checks import inside_unit, real, whole
from sb3_forecast.statistics.estimators import harmonic, mean_spacing
from sb3_forecast.statistics.partitions import check_partition, sample_partitions
from sb3_forecast.statistics.scores import failure_score
from sb3_forecast.training.losses import LossTerms, Partitions, TooFewScoresError

#: how fast the scale of the line grows with its top, per unit of psi: a tail that ends at p = 0.5 is about five times as wide as one at 1e-7
_WIDENING = 0.08
#: a task is held once it is this far below the line, in nats of log p: less is noise
_SLACK = 0.5


@dataclass(frozen=True)
class LinePartitions(Partitions):
    """Partitions for the log, and where each task of the tail should be.

    :param line: score on the line of each touched task, shape (touched,); NaN for tasks that only the log looks at
    :param hold: score below which a task is held, shape (touched,); -inf where it never is; NaN likewise
    """

    line: th.Tensor
    hold: th.Tensor


class TailLineLoss:
    """Keeps the worst tasks of a pool on a line. Has the interface of :class:`ForecastLoss`.

    The line has two parts. From rank c = N / m on it is the tail that forecasts assume, psi = top - scale log (r / c): this is what an
    evaluation set of m tasks sees. Above it is flat: tasks that were trained on must stay below what they let one expect, because tasks of a
    rare kind that were not in the pool come out worse than those that were. The top is ``lead`` below the worst tasks as they are now, down
    to ``p_target``: the line moves down as far as training can follow, and waits where the risk does not fall. While it is high it is steeper,
    also in its flat part.

    - Tasks above the line are pushed down by the gradient of log sum (1 + p / p_line): most where they stick out most, less and less as they
      reach it.
    - Tasks below the line are held: their gradient asks for a larger p, but never for more than the task had at the first scoring.

    Use it as ``ForecastPPO(..., forecast_loss=TailLineLoss())``. It must see the same pool at each refresh (no ``subpool``).

    :param eval_size: evaluation set size m of the forecasts that are to hold
    :param deploy_size: deployment set size n of these forecasts
    :param k: top scores that they use
    :param p_target: failure probability of the worst task at which pushing ends
    :param scale: scale of the exponential part when the top is at ``p_target``, in psi
    :param lead: how far the line's top is below the worst tasks, in psi
    :param hold: weight of holding, relative to pushing; 0 never holds
    :param n_worst: tasks that are always looked at; as many more are drawn from further down the tail
    :param n_partitions: partitions drawn for the log
    :raises ValueError: if an argument is out of range
    """

    def __init__(
        self,
        eval_size: int = 200,
        deploy_size: int = 3800,
        k: int = 10,
        p_target: float = 1e-9,
        scale: float = 0.08,
        lead: float = 0.5,
        hold: float = 1.0,
        n_worst: int = 300,
        n_partitions: int = 64,
    ) -> None:
        whole("eval_size", eval_size, low=1, use="the number of evaluation tasks")
        whole("deploy_size", deploy_size, low=1, use="the number of deployment tasks")
        check_partition(eval_size + deploy_size, eval_size, k)
        inside_unit("p_target", p_target, "the failure probability that you accept")
        for name, value in (("scale", scale), ("lead", lead)):
            if not real(name, value) > 0.0:
                raise ValueError(f"{name} must be above 0, got {value}; use a small number such as 0.05")
        real("hold", hold, low=0.0, use="0 never to hold a task")
        for name, count in (("n_worst", n_worst), ("n_partitions", n_partitions)):
            whole(name, count, low=1, use="a positive number")
        self.eval_size, self.deploy_size, self.k = eval_size, deploy_size, k
        self.p_target, self.scale, self.lead, self.hold = p_target, scale, lead, hold
        self.n_worst, self.n_partitions = n_worst, n_partitions
        self.score_target = float(failure_score(math.log(p_target)))
        #: expected height of the worst deployment score above psi_k, in units of the scale (docs/method.md eq. 12)
        self._height = harmonic(deploy_size) - harmonic(eval_size) + harmonic(k - 1)
        #: scores at the first refresh, shape (N,); no task is asked to fail more than it did then
        self.start: th.Tensor | None = None

    def reach(self, n_pool: int) -> int:
        """How many of the worst tasks the loss may look at: twice as far as the k-th worst of an evaluation set.

        :param n_pool: pool size N
        """
        return min(n_pool, max(2 * self.n_worst, 2 * self.k * n_pool // self.eval_size))

    def flat_to(self, n_pool: int) -> float:
        """The rank c at which the exponential part begins: about that of an evaluation set's worst task.

        :param n_pool: pool size N
        :return: rank, at least 1
        """
        return max(1.0, n_pool / self.eval_size)

    def line(self, worst: float, ranks: Any, n_pool: int) -> Any:
        """The line for a pool whose worst tasks have a given score.

        :param worst: mean score of the five worst tasks
        :param ranks: ranks from 1, numpy array
        :param n_pool: pool size N
        :return: scores, same shape
        """
        top = max(self.score_target, worst - self.lead)
        steeper = _WIDENING * (top - self.score_target)
        return top - steeper * np.log(ranks) - self.scale * np.log(np.maximum(ranks / self.flat_to(n_pool), 1.0))

    def draw(self, scores: th.Tensor, generator: np.random.Generator) -> LinePartitions:
        """Choose the tasks of the tail and their places on the line; draw partitions for the log.

        :param scores: score of every task, shape (N,); -inf where p = 0
        :param generator: source of randomness
        :return: tasks, places and partitions
        :raises ValueError: if the pool is smaller than one evaluation and deployment set, or too few scores are finite
        """
        values = scores.detach().to(device="cpu", dtype=th.float64)
        n_pool, size = len(values), self.eval_size + self.deploy_size
        if n_pool < size:
            raise ValueError(
                f"deploy_size must be at most {n_pool - self.eval_size} for a pool of {n_pool} tasks, got {self.deploy_size}; use a smaller one"
            )
        if self.start is None:
            self.start = values.clone()
        order = th.argsort(values, descending=True, stable=True)
        finite = int(th.isfinite(values).sum())
        evaluation, deployment = self._partitions(n_pool, finite, generator)
        last = min(self.reach(n_pool), finite)
        further = np.exp(generator.uniform(math.log(min(self.n_worst, last)), math.log(last + 1.0), self.n_worst)).astype(
            np.int64
        )
        ranks = np.union1d(np.arange(min(self.n_worst, last)), further[further < last])
        tail = order[th.from_numpy(ranks)]
        places = th.full((n_pool,), th.nan, dtype=th.float64)
        places[tail] = th.from_numpy(self.line(float(values[order[:5]].mean()), ranks + 1.0, n_pool))
        # no task of the flat part is held: the lower it is, the better
        held = places.clone()
        held[tail[th.from_numpy(ranks + 1.0 < self.flat_to(n_pool))]] = -th.inf
        touched = th.unique(th.cat([order[evaluation].reshape(-1), order[deployment], tail]))
        return LinePartitions(
            order[evaluation], order[deployment], touched, places[touched], th.minimum(held[touched], self.start[touched])
        )

    def _partitions(self, n_pool: int, finite: int, generator: np.random.Generator) -> tuple[th.Tensor, th.Tensor]:
        """Ranks in the pool of the k worst evaluation tasks and of the worst deployment task, of partitions of random parts of the pool."""
        inner = sample_partitions(self.eval_size + self.deploy_size, self.eval_size, self.k, self.n_partitions, generator)
        depth = int(max(inner.evaluation.max(), inner.deployment.max())) + 1
        # ranks of the worst tasks of a random part of the pool, by the same law as those of an evaluation set
        size = self.eval_size + self.deploy_size
        if size < n_pool:
            outer = sample_partitions(n_pool, size, max(depth, 2), self.n_partitions, generator).evaluation
        else:
            outer = np.tile(np.arange(depth), (self.n_partitions, 1))
        evaluation = np.take_along_axis(outer, inner.evaluation, axis=1)
        deployment = np.take_along_axis(outer, inner.deployment[:, None], axis=1)[:, 0]
        usable = (evaluation[:, -1] < finite) & (deployment < finite)
        if not usable.any():
            raise TooFewScoresError(
                f"scores must be finite for the {self.k} worst of {self.eval_size} tasks, got {finite} finite ones of {n_pool}; use a scorer "
                "that resolves small probabilities ('exact' or 'survival')"
            )
        return th.from_numpy(evaluation[usable]), th.from_numpy(deployment[usable])

    def evaluate(self, touched_scores: th.Tensor, partitions: Partitions, n_pool: int) -> LossTerms:
        """The loss, from the scores of the touched tasks.

        :param touched_scores: scores of ``partitions.touched``, in that order, shape (touched,)
        :param partitions: as drawn
        :param n_pool: pool size N; unused
        :return: loss and terms
        """
        assert isinstance(partitions, LinePartitions)
        leaf = touched_scores.detach().to(th.float64).requires_grad_(True)
        top = leaf.detach()[th.searchsorted(partitions.touched, partitions.evaluation)].sort(dim=-1, descending=True).values
        realised = leaf.detach()[th.searchsorted(partitions.touched, partitions.deployment)]
        scale = mean_spacing(top)
        in_tail = ~th.isnan(partitions.line)
        log_p = -th.exp(-leaf[in_tail])
        excess = log_p + th.exp(-partitions.line[in_tail])
        value = th.logsumexp(th.nn.functional.softplus(excess), dim=0) - math.log(int(in_tail.sum()))
        (weights,) = th.autograd.grad(value, leaf)
        # holding: a constant pull per nat of log p, for tasks that have fallen below where they belong
        fallen = log_p.detach() < -th.exp(-partitions.hold[in_tail]) - _SLACK
        holding = self.hold / int(in_tail.sum()) * fallen * th.exp(-leaf.detach()[in_tail])
        weights[in_tail] -= holding
        linear = (weights * touched_scores).sum()
        loss = linear + (value.detach() - linear.detach())
        return LossTerms(loss, top[:, -1] + self._height * scale, realised, scale, weights, float(holding.sum()))

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"start": self.start}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`.

        :param state: as returned there
        """
        self.start = None if state["start"] is None else state["start"].clone()
