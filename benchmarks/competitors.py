"""The plain ways of scoring a pool, as one would first write them: what our scorers are compared with."""

from __future__ import annotations

import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3 import PPO

import sb3_forecast_envs as sfe

DIRECTIONS = np.array([(1, 0), (0, 1), (-1, 0), (0, -1)])


def log_probabilities(model: PPO, observations: NDArray[np.float32]) -> th.Tensor:
    """Log action probabilities, 65,536 observations at a time."""
    with th.no_grad():
        parts = [model.policy.get_distribution(part).distribution.logits for part in th.from_numpy(observations).split(65536)]
    return th.cat(parts)


class PlainTables:
    """Every cell and direction of every task, reachable or not: successors, outcomes and one-hot views by fancy indexing."""

    def __init__(self, pool: sfe.TaskPool) -> None:
        family = pool.family
        n, size, view = len(pool), family.size, family.view_size
        inner = np.arange(1, size - 1)
        y, x, d = (axis.reshape(-1) for axis in np.meshgrid(inner, inner, np.arange(4), indexing="ij"))
        self.horizon, self.n_states = family.horizon, len(y)
        number = np.zeros((size, size, 4), dtype=np.int64)
        number[y, x, d] = np.arange(self.n_states)
        ahead_x, ahead_y = x + DIRECTIONS[d, 0], y + DIRECTIONS[d, 1]
        code = pool.layouts[:, ahead_y, ahead_x]
        walkable = family.rules.kinds[:, 0].astype(bool)
        into = number[np.clip(ahead_y, 1, size - 2), np.clip(ahead_x, 1, size - 2), d]
        self.successors = np.empty((n, self.n_states, 3), dtype=np.int64)
        self.successors[:, :, 0], self.successors[:, :, 1] = number[y, x, (d + 3) % 4], number[y, x, (d + 1) % 4]
        self.successors[:, :, 2] = np.where(walkable[code], into, np.arange(self.n_states))
        self.outcome = np.where(walkable[code], family.outcomes[code], 0)
        self.starts = number[pool.starts[:, 1], pool.starts[:, 0], pool.starts[:, 2]]
        offsets = family.offsets[d]
        position = (y + family.margin) * family.stride + x + family.margin
        views = pool.padded_layouts()[:, position[:, None] + offsets]
        views[:, :, (view // 2) * view + view - 1] = 0
        self.views = views


def recursion(pool: sfe.TaskPool, model: PPO, tables: PlainTables) -> NDArray[np.float64]:
    """P(failure) of every task: the policy on all states, then the textbook backward recursion, all tasks in one torch batch."""
    eye = np.eye(len(pool.family.cells), dtype=np.float32)
    n, states = tables.views.shape[:2]
    pi = log_probabilities(model, eye[tables.views].reshape(n * states, -1)).double().exp().reshape(n, states, 3)
    successors, outcome = th.from_numpy(tables.successors), th.from_numpy(tables.outcome)
    fails, ends = (outcome == 2).double(), (outcome > 0).double()
    value = th.zeros(n, states, dtype=th.float64)
    for _ in range(tables.horizon):
        following = th.gather(value, 1, successors.reshape(n, -1)).reshape(n, states, 3)
        ahead = fails + (1.0 - ends) * following[:, :, 2]
        value = pi[:, :, 0] * following[:, :, 0] + pi[:, :, 1] * following[:, :, 1] + pi[:, :, 2] * ahead
    return value[th.arange(n), th.from_numpy(tables.starts)].numpy()


def survival(pool: sfe.TaskPool, model: PPO, tables: PlainTables, generator: np.random.Generator) -> NDArray[np.float64]:
    """Log S of one episode of every task: a plain numpy loop over steps, the policy asked in every state visited."""
    eye = np.eye(len(pool.family.cells), dtype=np.float32)
    total = np.zeros(len(pool))
    task, state = np.arange(len(pool)), tables.starts.copy()
    for _ in range(tables.horizon):
        pi = np.exp(log_probabilities(model, eye[tables.views[task, state]].reshape(len(task), -1)).double().numpy())
        outcome = tables.outcome[task, state]
        fails = outcome == 2
        q = np.where(fails, pi[:, 2], 0.0)
        total[task] += np.log1p(-q)
        pi[fails, 2] = 0.0
        cumulative = np.cumsum(pi, axis=1)
        action = (generator.random(len(task))[:, None] * cumulative[:, -1:] >= cumulative).sum(axis=1)
        over = (action == 2) & (outcome > 0)
        state = tables.successors[task, state, action]
        task, state = task[~over], state[~over]
        if not len(task):
            break
    return total
