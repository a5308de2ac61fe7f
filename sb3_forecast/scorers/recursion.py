"""Exact failure scores of finite Markov decision processes, with gradients (compiled).

Successors are stored in columns. Deterministic dynamics have one column per action; random dynamics have several columns
per action, with their probabilities.

The states of each task are put into one block that fits into the cache. Failure and survival are summed separately, so
that a score keeps its relative precision both at p = 1e-30 and at 1 - p = 1e-15.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch as th
from numpy.typing import NDArray

from sb3_forecast.jit import jit

F64 = NDArray[np.float64]

#: a task's recursion stops when the rest of the episode can change failure and survival by less than this share of them
TOLERANCE = 1e-12


@jit
def _localise(
    task: int,
    first: NDArray[np.int64],
    successors: NDArray[np.int32],
    chances: F64,
    view: NDArray[np.int32],
    policy: F64,
    to: NDArray[np.uint32],
    pi: F64,
) -> int:
    """Write one task's successors and their probabilities into one block.

    With n states, success becomes state n and failure becomes state n + 1. The columns are the first dimension: the
    recursion is twice as fast with long inner loops over states as with short inner loops over columns.

    Returns the number of states n.
    """
    base, n_states = first[task], first[task + 1] - first[task]
    branches = successors.shape[1] // policy.shape[1]
    for state in range(n_states):
        for column in range(successors.shape[1]):
            successor = successors[base + state, column]
            to[column, state] = successor if successor >= 0 else n_states - 1 - successor
            pi[column, state] = policy[view[base + state], column // branches]
            if chances.shape[0] > 0:
                pi[column, state] *= chances[base + state, column]
    return int(n_states)


@jit
def _widest(begin: int, end: int, first: NDArray[np.int64]) -> int:
    """Largest number of states of a task, with success and failure."""
    widest = 0
    for task in range(begin, end):
        widest = max(widest, first[task + 1] - first[task])
    return int(widest + 2)


@jit
def _outcomes(
    begin: int, end: int, first: NDArray[np.int64], successors: NDArray[np.int32], chances: F64, view: NDArray[np.int32], policy: F64,
    horizon: int, timeout_fails: bool, tolerance: float, failed: F64, succeeded: F64, survived: F64,
) -> None:  # fmt: skip
    """Forward recursion for tasks ``begin`` to ``end - 1``: probabilities of failing, of succeeding, and of not failing."""
    n_columns, widest = successors.shape[1], _widest(begin, end, first)
    mass, following = np.zeros(widest), np.zeros(widest)
    to, pi = np.empty((n_columns, widest), dtype=np.uint32), np.empty((n_columns, widest))
    for task in range(begin, end):
        n_states = _localise(task, first, successors, chances, view, policy, to, pi)
        mass[: n_states + 2] = 0.0
        mass[0] = 1.0
        alive = 1.0
        for step in range(horizon):
            following[:n_states] = 0.0
            following[n_states], following[n_states + 1] = mass[n_states], mass[n_states + 1]
            for column in range(n_columns):
                for state in range(n_states):
                    following[to[column, state]] += mass[state] * pi[column, state]
            mass, following = following, mass
            if step % 8 == 7 or step == horizon - 1:
                alive = mass[:n_states].sum()
                if timeout_fails:
                    # everything still alive at the horizon fails, so the recursion may stop only if nothing is alive
                    if alive == 0.0:
                        break
                elif alive <= tolerance * mass[n_states] and alive <= tolerance * mass[n_states + 1]:
                    break
        succeeded[task], failed[task] = mass[n_states], mass[n_states + 1]
        survived[task] = mass[n_states]
        if timeout_fails:
            failed[task] += alive
        else:
            survived[task] += alive


@jit
def _gradients(
    begin: int, end: int, first: NDArray[np.int64], successors: NDArray[np.int32], chances: F64, view: NDArray[np.int32], policy: F64,
    horizon: int, timeout_fails: bool, failed: F64, survived: F64, gradient: F64,
) -> None:  # fmt: skip
    """Probabilities as in :func:`_outcomes`, and the gradient of the smaller one in log pi, for each state and action.

    The gradient is sum_t mass_t(s) pi(a|s) value_{t+1}(s'). The forward recursion keeps all masses; the backward recursion
    computes the values and multiplies them.
    """
    n_columns, widest = successors.shape[1], _widest(begin, end, first)
    branches = n_columns // policy.shape[1]
    to, pi = np.empty((n_columns, widest), dtype=np.uint32), np.empty((n_columns, widest))
    mass, total = np.empty((horizon + 1, widest)), np.empty((n_columns, widest))
    value, later = np.empty(widest), np.empty(widest)
    for task in range(begin, end):
        n_states = _localise(task, first, successors, chances, view, policy, to, pi)
        mass[:, : n_states + 2] = 0.0
        mass[0, 0] = 1.0
        for step in range(horizon):
            here, following = mass[step], mass[step + 1]
            following[n_states], following[n_states + 1] = here[n_states], here[n_states + 1]
            for column in range(n_columns):
                for state in range(n_states):
                    following[to[column, state]] += here[state] * pi[column, state]
        last = mass[horizon]
        alive = last[:n_states].sum()
        failed[task], survived[task] = last[n_states + 1], last[n_states]
        if timeout_fails:
            failed[task] += alive
        else:
            survived[task] += alive
        at_fail = 1.0 if failed[task] < 0.5 else 0.0
        later[:n_states] = at_fail if timeout_fails else 1.0 - at_fail
        later[n_states] = 1.0 - at_fail
        later[n_states + 1] = value[n_states + 1] = at_fail
        value[n_states] = 1.0 - at_fail
        total[:, :n_states] = 0.0
        for step in range(horizon - 1, -1, -1):
            here = mass[step]
            value[:n_states] = 0.0
            for column in range(n_columns):
                for state in range(n_states):
                    then = later[to[column, state]]
                    value[state] += pi[column, state] * then
                    total[column, state] += here[state] * then
            value, later = later, value
        gradient[first[task] : first[task + 1]] = 0.0
        for state in range(n_states):
            for column in range(n_columns):
                gradient[first[task] + state, column // branches] += pi[column, state] * total[column, state]


def outcome_probabilities(
    first: NDArray[np.int64],
    successors: NDArray[np.int32],
    chances: F64,
    view: NDArray[np.int32],
    policy: F64,
    horizon: int,
    timeout_fails: bool = False,
    tolerance: float = TOLERANCE,
) -> tuple[F64, F64, F64]:
    """Probabilities of failing, of succeeding, and of not failing, for every task.

    :param first: first state of each task, then the total number of states, shape (tasks + 1,), int64
    :param successors: successors, shape (states, columns), int16 or int32. States are numbered within their task; -1 is
        success, -2 is failure. Every action has the same number of columns, and they are neighbours
    :param chances: probability of each column if its action is taken, shape (states, columns), float64; shape (0,
        columns) if every action has one column
    :param view: row of ``policy`` of each state, shape (states,), int32
    :param policy: action probabilities, shape (views, actions), float64
    :param horizon: largest number of steps in an episode
    :param timeout_fails: whether an episode that reaches the horizon has failed
    :param tolerance: relative error at which a task's recursion may stop early; 0 never stops early
    :return: three arrays of shape (tasks,), float64
    """
    n_tasks = len(first) - 1
    out = (np.empty(n_tasks), np.empty(n_tasks), np.empty(n_tasks))
    _over_tasks(
        n_tasks,
        lambda begin, end: _outcomes(
            begin, end, first, successors, chances, view, policy, horizon, timeout_fails, tolerance, *out
        ),
    )
    return out


def _over_tasks(n_tasks: int, run: Callable[[int, int], None]) -> None:
    """Run a kernel over all tasks in threads. Tasks are independent, so the result does not depend on the threads."""
    threads = os.cpu_count() or 1
    bounds = np.linspace(0, n_tasks, 4 * threads + 1).astype(np.int64)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(run, bounds[:-1], bounds[1:]))


def scores_from_outcomes(failed: F64, survived: F64) -> F64:
    """Failure scores, computed from the smaller one of p and 1 - p (docs/method.md eq. 1, 4).

    :param failed: failure probabilities p, shape (tasks,), float64
    :param survived: survival probabilities 1 - p, shape (tasks,), float64
    :return: scores psi, shape (tasks,), float64; -inf for p = 0, +inf for 1 - p = 0
    """
    with np.errstate(divide="ignore"):
        return np.asarray(
            -np.log(np.where(failed < 0.5, -np.log(np.minimum(failed, 1.0)), -np.log1p(-np.minimum(survived, 1.0))))
        )


def log_odds_and_gradients(
    first: NDArray[np.int64],
    successors: NDArray[np.int32],
    chances: F64,
    view: NDArray[np.int32],
    policy: F64,
    horizon: int,
    timeout_fails: bool = False,
) -> tuple[F64, F64]:
    """Log odds of failing, log p - log(1 - p), and their gradients in the log-probability of each action in each state.

    :param first: see :func:`outcome_probabilities`; the other arguments are explained there, too
    :return: log odds, shape (tasks,), float64; gradient, shape (states, actions), float64. The gradient is 0 for tasks
        with p = 0 or 1 - p = 0
    """
    failed, survived = np.empty(len(first) - 1), np.empty(len(first) - 1)
    gradient = np.empty((len(successors), policy.shape[1]))
    _over_tasks(
        len(failed),
        lambda begin, end: _gradients(
            begin, end, first, successors, chances, view, policy, horizon, timeout_fails, failed, survived, gradient
        ),
    )
    with np.errstate(divide="ignore"):
        log_odds = np.log(failed) - np.log(survived)
    # the kernel differentiates the smaller one of p and 1 - p; d log odds = dp / (p (1 - p))
    usable = np.isfinite(log_odds)
    slope = np.zeros(len(failed))
    slope[usable] = np.where(failed < 0.5, 1.0, -1.0)[usable] / (failed * survived)[usable]
    gradient *= np.repeat(slope, np.diff(first))[:, None]
    return log_odds, gradient


def score_from_log_odds(log_odds: th.Tensor) -> th.Tensor:
    """The score psi from log odds h: -log p = softplus(-h) (docs/method.md eq. 5).

    :param log_odds: log odds of failing, any shape, float64
    :return: scores, same shape, float64; precise for p near 0 and for p near 1
    """
    # softplus(-h) becomes 0 above h = 745; but from h = 37 on, psi equals h to the last bit
    far = log_odds > 37.0
    near = -th.log(th.nn.functional.softplus(-th.where(far, 0.0, log_odds), threshold=40.0))
    return th.where(far, log_odds, near)


class ExactLogOdds(th.autograd.Function):
    """Log odds of failing of finite models, as a differentiable function of the policy's log-probabilities."""

    @staticmethod
    def forward(  # explicit arguments instead of *args
        ctx: Any,
        log_policy: th.Tensor,
        first: NDArray[np.int64],
        successors: NDArray[np.int32],
        chances: F64,
        view: NDArray[np.int32],
        horizon: int,
        timeout_fails: bool = False,
    ) -> th.Tensor:
        """Compute the log odds, and keep their gradient for :meth:`backward`.

        :param log_policy: log action probabilities, shape (views, actions), float64, CPU
        :param first: see :func:`outcome_probabilities`
        :param successors: see :func:`outcome_probabilities`
        :param chances: see :func:`outcome_probabilities`
        :param view: see :func:`outcome_probabilities`
        :param horizon: see :func:`outcome_probabilities`
        :param timeout_fails: see :func:`outcome_probabilities`
        :return: log odds, shape (tasks,), float64
        """
        policy = log_policy.detach().exp().numpy()
        log_odds, gradient = log_odds_and_gradients(first, successors, chances, view, policy, horizon, timeout_fails)
        ctx.gradient, ctx.view, ctx.first, ctx.shape = gradient, view, first, log_policy.shape
        return th.from_numpy(log_odds)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: th.Tensor) -> tuple[th.Tensor | None, ...]:
        """Gradient in the log-probabilities at each distinct view, by the chain rule.

        :param grad_outputs: gradient in the log odds, shape (tasks,), float64
        :return: gradient in ``log_policy``, shape (views, actions), float64; ``None`` for the other arguments
        """
        per_state = np.repeat(grad_outputs[0].numpy(), np.diff(ctx.first))[:, None] * ctx.gradient
        out = th.zeros(ctx.shape, dtype=th.float64)
        out.index_add_(0, th.from_numpy(ctx.view.astype(np.int64)), th.from_numpy(per_state))
        return out, None, None, None, None, None, None
