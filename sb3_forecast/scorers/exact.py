"""Exact failure scores of tasks that have a finite model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch as th
from numpy.typing import NDArray

from sb3_forecast.checks import task_indices
from sb3_forecast.scorers.actor import Actor
from sb3_forecast.scorers.memo import PolicyMemo
from sb3_forecast.scorers.protocols import FiniteModel, Measurement, Scorer, SupportsExact, Tasks
from sb3_forecast.scorers.recursion import (
    ExactLogOdds,
    log_odds_and_gradients,
    outcome_probabilities,
    score_from_log_odds,
    scores_from_outcomes,
)
from sb3_forecast.scorers.views import ViewIndex
from sb3_forecast.statistics.scores import failure_probability

#: number of views whose probabilities are remembered while a large pool is scored block by block
_REMEMBERED_VIEWS = 2**15
#: number of tasks whose states are enumerated at once
_TABLE_TASKS = 1024


def _narrow(successors: NDArray[np.int32]) -> NDArray[np.int32]:
    """The same numbers in half the memory if they fit into int16. The kernels accept both."""
    fits = successors.max(initial=0) <= np.iinfo(np.int16).max
    return successors.astype(np.int16) if fits else successors


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    """Limit torch to one thread.

    Blocks are small, so torch's other threads mostly wait in a busy loop. They would take a fifth of the time from the
    cores that our own threads need.
    """
    threads = th.get_num_threads()
    th.set_num_threads(1)
    try:
        yield
    finally:
        th.set_num_threads(threads)


@dataclass(frozen=True)
class Outcomes:
    """Exact outcomes of every task under the stochastic policy.

    :param psi: failure scores, shape (N,), float64
    :param failure: probability of failing within the horizon, shape (N,)
    :param success: probability of succeeding within the horizon, shape (N,)
    """

    psi: NDArray[np.float64]
    failure: NDArray[np.float64]
    success: NDArray[np.float64]


@dataclass(frozen=True)
class _Block:
    """Reachable states of some tasks, and their distinct views, so that the policy is evaluated once per view.

    The first four arrays are those of :func:`~sb3_forecast.scorers.recursion.outcome_probabilities`.

    :param first: first state of each task, then the total, shape (tasks + 1,), int64
    :param successors: successors of each state, shape (states, columns), int16 or int32
    :param chances: probability of each column if its action is taken, shape (states, columns) or (0, columns), float64
    :param view: row of ``distinct`` of each state, shape (states,), int32
    :param distinct: distinct compact views, shape (views, width), uint8
    """

    first: NDArray[np.int64]
    successors: NDArray[np.int32]
    chances: NDArray[np.float64]
    view: NDArray[np.int32]
    distinct: NDArray[np.uint8]

    @property
    def chain(self) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float64], NDArray[np.int32]]:
        """The arrays that the recursion needs."""
        return self.first, self.successors, self.chances, self.view

    def select(self, rows: NDArray[np.int64]) -> tuple[_Block, NDArray[np.bool_]]:
        """The block of some of the tasks, and which of the distinct views these tasks use."""
        lengths = self.first[rows + 1] - self.first[rows]
        first = np.concatenate([[0], np.cumsum(lengths)])
        states = np.repeat(self.first[rows] - first[:-1], lengths) + np.arange(first[-1])
        view = self.view[states]
        used = np.zeros(len(self.distinct), dtype=np.bool_)
        used[view] = True
        renumbered = (np.cumsum(used) - 1).astype(np.int32)
        chances = self.chances[states] if len(self.chances) else self.chances
        return _Block(first, self.successors[states], chances, renumbered[view], self.distinct[used]), used


@dataclass(frozen=True)
class _Scored:
    """Tasks, states and policy of the last scoring.

    :param tasks: the scored tasks, in the order of the block
    :param block: their states
    :param log_pi: log action probabilities at the block's distinct views, shape (views, actions), float64
    """

    tasks: Tasks
    block: _Block
    log_pi: th.Tensor


@dataclass(frozen=True)
class _Expansion:
    """First-order expansion of the log odds of failing, as a function of the policy's log-probabilities, for some tasks.

    :param tasks: the tasks
    :param log_odds: log odds of failing under the reference policy, shape (tasks,)
    :param observations: observations of the views that matter, shape (views, *observation)
    :param masks: actions that are allowed there, shape (views, actions); ``None`` if all are
    :param log_pi: log-probabilities of the reference policy, shape (views, actions)
    :param task: row of ``log_odds`` of each entry, shape (entries,)
    :param view: row of ``log_pi`` of each entry, shape (entries,)
    :param slope: d log odds / d log pi of each entry, shape (entries, actions)
    """

    tasks: Tasks
    log_odds: th.Tensor
    observations: NDArray[Any]
    masks: NDArray[np.bool_] | None
    log_pi: th.Tensor
    task: th.Tensor
    view: th.Tensor
    slope: th.Tensor

    def at(self, log_pi: th.Tensor) -> th.Tensor:
        """Scores of the tasks under other log-probabilities at the same views."""
        change = ((log_pi - self.log_pi)[self.view] * self.slope).sum(dim=1)
        return score_from_log_odds(self.log_odds.index_add(0, self.task, change))


class ExactScorer(Scorer):
    """Exact failure scores: a recursion over the reachable states of each task, in float64, with gradients.

    If the pool has at most ``cache_tasks`` tasks, its states are enumerated once and kept. This takes about 1.5 kB per
    task of an 8x8 grid. Larger pools are scored in blocks of ``block_size`` tasks, and the memory does not grow with the
    pool.

    During an update, the touched tasks are scored again at every gradient step. There are two ways:

    - ``rescoring="linear"`` expands the log odds of failing to first order in the policy's log-probabilities, around the
      policy of the last :meth:`score`. There, value and gradient are exact. Elsewhere they are good as long as the same
      paths lead to failure, because then log p is linear.
    - ``rescoring="exact"`` repeats the recursion. This takes several times as long.

    :param pool: tasks with a finite model
    :param rescoring: ``"linear"`` or ``"exact"``
    :param neglect: share of the gradient's absolute sum that linear rescoring may leave out. It leaves out the states that
        matter least
    :param block_size: number of tasks in a block, for pools that are not kept. Larger blocks take more memory and save
        hardly any time
    :param cache_tasks: number of tasks of the largest pool whose states are kept
    :raises ValueError: if the pool cannot serve ``"exact"``, or an argument is out of range
    """

    def __init__(
        self,
        pool: SupportsExact,
        rescoring: Literal["linear", "exact"] = "linear",
        neglect: float = 1e-3,
        block_size: int = 128,
        cache_tasks: int = 65536,
    ) -> None:
        if "exact" not in pool.scorers:
            raise ValueError(
                f"pool must have a finite model for exact scores, got one that can serve {tuple(pool.scorers)}; "
                f"use scorer={pool.scorers[0]!r}"
            )
        if rescoring not in ("linear", "exact"):
            raise ValueError(f"rescoring must be 'linear' or 'exact', got {rescoring!r}; use 'linear', which is faster")
        if not 0.0 <= neglect < 1.0:
            raise ValueError(f"neglect must be at least 0 and below 1, got {neglect}; use 0 to leave nothing out")
        if block_size < 1:
            raise ValueError(f"block_size must be at least 1, got {block_size}; use for example 128")
        if cache_tasks < 0:
            raise ValueError(
                f"cache_tasks must be at least 0, got {cache_tasks}; use 0 to enumerate the states anew at each scoring"
            )
        self.rescoring = rescoring
        self.neglect = neglect
        self.pool = pool
        self.model: FiniteModel = pool.finite_model()
        self.n_tasks = len(pool)
        self.block_size = block_size
        self._kept = self._build(np.arange(self.n_tasks)) if self.n_tasks <= cache_tasks else None
        self._scored: _Scored | None = None
        self._expansion: _Expansion | None = None

    @property
    def key(self) -> str:
        """Key of the pool whose tasks are scored."""
        return self.pool.key

    def _build(self, tasks: Tasks) -> _Block:
        """Enumerate the states of some tasks, few at once, so that the views of all states are never in memory together."""
        index: ViewIndex | None = None
        parts = []
        for begin in range(0, len(tasks), _TABLE_TASKS):
            first, successors, views, chances = self.model.tables(tasks[begin : begin + _TABLE_TASKS])
            index = index or ViewIndex(views.shape[1])
            parts.append((np.diff(first), _narrow(successors), chances, index.add(views)))
        assert index is not None
        lengths, successor_parts, chance_parts, view_parts = zip(*parts, strict=True)
        return _Block(
            np.concatenate([[0], np.cumsum(np.concatenate(lengths))]),
            np.concatenate(successor_parts),
            np.concatenate(chance_parts),
            np.concatenate(view_parts),
            index.views.copy(),
        )

    def _block(self, tasks: Tasks) -> _Block:
        return self._build(tasks) if self._kept is None else self._kept.select(tasks)[0]

    def outcomes(self, model: Any, tasks: Tasks | None = None) -> Outcomes:
        """Failure and success probabilities of some tasks.

        :param model: SB3 on-policy model with discrete actions
        :param tasks: indices of the tasks; ``None`` for all
        :return: see :class:`Outcomes`; arrays of shape (tasks,)
        :raises ValueError: if the model's actions or observations do not fit the tasks
        """
        actor = Actor(model, self.model.n_actions)
        chosen = task_indices(tasks, self.n_tasks)
        with actor.evaluating(), th.no_grad():
            if self._kept is None and len(chosen) > self.block_size:
                self._scored = None
                with _one_torch_thread():
                    parts = list(self._streamed(actor, chosen))
            else:
                block = self._kept if self._kept is not None and tasks is None else self._block(chosen)
                log_pi = actor.log_probabilities_of_views(self.model, block.distinct)
                pi = log_pi.exp().numpy()
                parts = [outcome_probabilities(*block.chain, pi, self.model.horizon, self.model.timeout_fails)]
                self._scored = _Scored(chosen, block, log_pi)
        failed, succeeded, survived = (np.concatenate(column) for column in zip(*parts, strict=True))
        return Outcomes(scores_from_outcomes(failed, survived), failed, succeeded)

    def _streamed(
        self, actor: Actor, tasks: Tasks
    ) -> Iterable[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]]:
        """Outcomes, block by block. Only the policy's log-probabilities at the latest views are kept."""
        memo = PolicyMemo(actor, self.model, limit=_REMEMBERED_VIEWS)
        for begin in range(0, len(tasks), self.block_size):
            first, successors, views, chances = self.model.tables(tasks[begin : begin + self.block_size])
            view = memo.add(views)
            pi = np.exp(memo.log_pi)
            yield outcome_probabilities(first, successors, chances, view, pi, self.model.horizon, self.model.timeout_fails)

    def score(self, model: Any, tasks: Tasks | None = None) -> th.Tensor:
        """Scores without a graph, shape (tasks,), float64; see :meth:`FailureScorer.score`."""
        self._expansion = None
        return th.from_numpy(self.outcomes(model, tasks).psi)

    def measure(self, model: Any, k: int = 10, seed: int = 0) -> Measurement:
        """Exact scores, failure and success probabilities; see :meth:`Scorer.measure`."""
        outcomes = self.outcomes(model)
        return Measurement(outcomes.psi, failure_probability(outcomes.psi), outcomes.success)

    def rescore(self, model: Any, tasks: Tasks) -> th.Tensor:
        """Scores with a graph to the policy's parameters, shape (tasks,), float64; see :meth:`FailureScorer.rescore`."""
        actor = Actor(model, self.model.n_actions)
        tasks = task_indices(tasks, self.n_tasks)
        with actor.evaluating():
            if self.rescoring == "linear":
                if self._expansion is None or not np.array_equal(self._expansion.tasks, tasks):
                    self._expansion = self._expand(actor, np.array(tasks))
                return self._expansion.at(actor.log_probabilities(self._expansion.observations, self._expansion.masks))
            block = self._block(tasks)
            log_pi = actor.log_probabilities_of_views(self.model, block.distinct)
        log_odds: th.Tensor = ExactLogOdds.apply(log_pi, *block.chain, self.model.horizon, self.model.timeout_fails)  # type: ignore[no-untyped-call]  # torch's own
        return score_from_log_odds(log_odds)

    def _expand(self, actor: Actor, tasks: Tasks) -> _Expansion:
        """Expansion around the last scored policy, or around the current one if the last scoring left out some of the tasks."""
        row = np.full(self.n_tasks, -1)
        if self._scored is not None:
            row[self._scored.tasks] = np.arange(len(self._scored.tasks))
        if self._scored is not None and (row[tasks] >= 0).all():
            block, used = self._scored.block.select(row[tasks])
            log_pi = self._scored.log_pi[th.from_numpy(used)]
        else:
            block = self._block(tasks)
            with th.no_grad():
                log_pi = actor.log_probabilities_of_views(self.model, block.distinct)
        log_odds, slope = log_odds_and_gradients(
            *block.chain, log_pi.exp().numpy(), self.model.horizon, self.model.timeout_fails
        )
        # the log-probabilities of a softmax can only move orthogonally to pi, so only the slope minus its mean matters
        pi = log_pi.exp().numpy()[block.view]
        size = np.abs(slope - pi * slope.sum(axis=1, keepdims=True)).sum(axis=1)
        by_view = np.bincount(block.view, size, len(block.distinct))
        order = np.argsort(by_view)
        kept = np.ones(len(by_view), dtype=np.bool_)
        kept[order[np.cumsum(by_view[order]) <= self.neglect * by_view.sum()]] = False
        rows = np.flatnonzero(kept[block.view])
        task = np.repeat(np.arange(len(tasks)), np.diff(block.first))
        renumbered = np.cumsum(kept) - 1
        return _Expansion(
            tasks,
            th.from_numpy(log_odds),
            self.model.observations(block.distinct[kept]),
            self.model.action_masks(block.distinct[kept]) if actor.masked else None,
            log_pi[th.from_numpy(kept)],
            th.from_numpy(task[rows]),
            th.from_numpy(renumbered[block.view[rows]]),
            th.from_numpy(slope[rows]),
        )
