"""Failure scores from the logits along a tree of stems, pure torch: precise for p near 0 and near 1 (docs/method.md section 1, eq. 1-5)."""

from __future__ import annotations

import math

import torch as th

from sb3_forecast.lm.rows import Batch
from sb3_forecast.statistics.scores import failure_score, failure_score_from_log_survival


def step_log_probabilities(logits: th.Tensor, batch: Batch) -> tuple[th.Tensor, th.Tensor]:
    """Log-probability of each edge of the trees, and of leaving the tree at each scored position.

    :param logits: of the scored positions, shape (S, vocabulary), any floating dtype
    :param batch: where they are from
    :return: shapes (E,) and (S,), float64
    """
    logits = logits if logits.dtype == th.float64 else logits.float()
    total = th.logsumexp(logits, dim=-1)
    edge = logits[batch.source, batch.token] - total[batch.source]
    children = th.zeros_like(logits, dtype=th.bool)
    children[batch.source, batch.token] = True
    leaving = th.logsumexp(logits.masked_fill(children, -th.inf), dim=-1) - total
    return edge.double(), leaving.double()


def log_probabilities(logits: th.Tensor, batch: Batch, n_prompts: int) -> tuple[th.Tensor, th.Tensor]:
    """Log p that the reply begins with one of the stems, and log(1 - p).

    The second is summed over the places where a reply can leave the tree, so nothing cancels when p is close to 1; for a single
    token it is docs/method.md eq. 5.

    :param logits: of the scored positions, shape (S, vocabulary), any floating dtype
    :param batch: where they are from
    :param n_prompts: number of prompts in the batch
    :return: two tensors of shape (prompts,), float64
    """
    edge, leaving = step_log_probabilities(logits, batch)
    reached = th.zeros(len(logits), dtype=th.float64, device=logits.device)
    ends, owners = [], []
    for depth in range(1, int(batch.depth.max()) + 1):
        here = batch.depth == depth
        source, child = batch.source[here], batch.child[here]
        value = reached[source] + edge[here]
        going_on = child >= 0
        reached = reached.index_put((child[going_on],), value[going_on])
        ends.append(value[~going_on])
        owners.append(batch.owner[source[~going_on]])
    log_p = _logsumexp_by(th.cat(ends), th.cat(owners), n_prompts)
    return log_p, _logsumexp_by(reached + leaving, batch.owner, n_prompts)


def _logsumexp_by(values: th.Tensor, group: th.Tensor, n_groups: int) -> th.Tensor:
    """Logsumexp of the values of each group."""
    top = th.full((n_groups,), -th.inf, dtype=values.dtype, device=values.device)
    top = top.scatter_reduce(0, group, values.detach(), "amax")
    # a group that cannot happen at all: log 0, and not the NaN of inf - inf
    top = top.masked_fill(top == -th.inf, 0.0)
    sums = th.zeros_like(top).index_add(0, group, th.exp(values - top[group]))
    return top + sums.log()


def scores(log_p: th.Tensor, log_survival: th.Tensor) -> th.Tensor:
    """Failure scores, from whichever of the two logarithms is precise.

    :param log_p: log of the failure probability, shape (prompts,), float64
    :param log_survival: log of one minus it, same shape
    :return: psi, same shape, float64
    """
    small = log_p < math.log(0.5)
    # each branch sees only its own values, so that no gradient of the other one can be NaN; rounding may lift a logarithm above 0
    near = failure_score(th.where(small, log_p, -1.0).clamp(max=0.0))
    far = failure_score_from_log_survival(th.where(small, -1.0, log_survival).clamp(max=0.0))
    chosen: th.Tensor = th.where(small, near, far)
    return chosen
