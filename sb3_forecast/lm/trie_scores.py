"""Failure scores from the logits along a tree of stems, in pure torch; precise for p near 0 and near 1 (docs/method.md section 1, eq. 1-5)."""

from __future__ import annotations

import math

import torch as th

from sb3_forecast.lm.rows import Batch
from sb3_forecast.statistics.scores import failure_score, failure_score_from_log_survival


def step_log_probabilities(logits: th.Tensor, batch: Batch) -> tuple[th.Tensor, th.Tensor]:
    """Log-probability of each edge of the trees, and log-probability of leaving the tree at each scored position.

    :param logits: logits at the scored positions, shape (S, vocabulary), any floating dtype
    :param batch: the batch that they belong to
    :return: for the edges, shape (E,), float64; for leaving, shape (S,), float64
    """
    logits = logits if logits.dtype == th.float64 else logits.float()
    total = th.logsumexp(logits, dim=-1)
    edge = logits[batch.source, batch.token] - total[batch.source]
    children = th.zeros_like(logits, dtype=th.bool)
    children[batch.source, batch.token] = True
    leaving = th.logsumexp(logits.masked_fill(children, -th.inf), dim=-1) - total
    return edge.double(), leaving.double()


def log_probabilities(logits: th.Tensor, batch: Batch, n_prompts: int) -> tuple[th.Tensor, th.Tensor]:
    """The logarithms log p and log(1 - p), where p is the probability that the reply begins with one of the stems.

    log p is a sum over the leaves of the tree. log(1 - p) is a sum over the positions where a reply can leave the tree, so it is
    precise when p is close to 1. For a single token it is docs/method.md eq. 5.

    :param logits: logits at the scored positions, shape (S, vocabulary), any floating dtype
    :param batch: the batch that they belong to
    :param n_prompts: number of prompts in the batch
    :return: log p and log(1 - p), each of shape (prompts,), float64
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
    """Logsumexp of the values of each group, shape (n_groups,).

    :param values: the values, shape (n,), float64
    :param group: number of the group of each value, shape (n,), int64
    :param n_groups: number of groups
    """
    top = th.full((n_groups,), -th.inf, dtype=values.dtype, device=values.device)
    top = top.scatter_reduce(0, group, values.detach(), "amax")
    # a group whose values are all -inf must give log 0 = -inf, not the NaN of inf - inf
    top = top.masked_fill(top == -th.inf, 0.0)
    sums = th.zeros_like(top).index_add(0, group, th.exp(values - top[group]))
    return top + sums.log()


def scores(log_p: th.Tensor, log_survival: th.Tensor) -> th.Tensor:
    """Failure scores, from the more precise logarithm: log p if p < 0.5, else log(1 - p).

    :param log_p: log of the failure probability p, shape (prompts,), float64
    :param log_survival: log(1 - p), shape (prompts,), float64
    :return: psi, shape (prompts,), float64
    """
    small = log_p < math.log(0.5)
    # each branch gets harmless values where the other one is chosen, so that its gradient there is not NaN; the clamp removes
    # rounding above 0
    near = failure_score(th.where(small, log_p, -1.0).clamp(max=0.0))
    far = failure_score_from_log_survival(th.where(small, -1.0, log_survival).clamp(max=0.0))
    chosen: th.Tensor = th.where(small, near, far)
    return chosen
