"""Cart-poles that must be brought to a goal, each with physics of its own; in the rare mode a strong wind blows.

Gymnasium's CartPole (its equations and time step, gravity to wind drawn per task) where every decision lasts three steps, the pole may
lean 24 degrees, and the cart is to stand near a goal when time is up. A task's physics are part of its observation. The pole falls a few
decisions after the mistake that made it fall, so that a cost comes late: the setting for scorers that are told nothing else. Since the
simulator is known, so is the truth: :class:`CartPoleSimulation` serves unbiased survival scores.
"""

from __future__ import annotations

import math

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

#: decisions of an episode
HORIZON = 60
#: physical steps of a decision, and their length in seconds
REPEAT, STEP = 3, 0.02
#: radians and metres at which an episode has failed
MAX_ANGLE, MAX_POSITION = math.radians(24.0), 2.4
#: metres from the goal within which the cart must end
TOLERANCE = 0.3
#: default mass of the rare mode
RARE_FRACTION = 0.003
#: a task: gravity, half the pole's length, masses of pole and cart, motor force, wind force, goal, then position, velocity, angle and
#: angular velocity at the start
GRAVITY, LENGTH, POLE, CART, MOTOR, WIND, GOAL = range(7)
START = slice(7, 11)
_LOW = np.array([9.0, 0.4, 0.08, 0.8, 9.5, -0.7, 0.2, -0.2, -0.05, -0.05, -0.05])
_HIGH = np.array([10.6, 0.7, 0.12, 1.2, 12.0, 0.7, 0.8, 0.2, 0.05, 0.05, 0.05])
#: strength of the wind in the rare mode, newtons
_STRONG = (5.0, 6.0)

#: state, distance to the goal, physics, time
OBSERVATION_SPACE = spaces.Box(-np.inf, np.inf, (12,), np.float32)


def draw_task(rng: np.random.Generator, rare_fraction: float) -> tuple[F64, bool]:
    """One task, and whether it belongs to the rare mode.

    :param rng: source of all randomness
    :param rare_fraction: mass of the rare mode
    :return: parameters, shape (11,); rare
    """
    rare = bool(rng.random() < rare_fraction)
    task = rng.uniform(_LOW, _HIGH)
    wind, side, goal_side = rng.uniform(*_STRONG), rng.choice([-1.0, 1.0]), rng.choice([-1.0, 1.0])
    if rare:
        task[WIND] = side * wind
    task[GOAL] *= goal_side
    return task, rare


def observe(state: F64, tasks: F64, decision: NDArray[np.int64]) -> NDArray[np.float32]:
    """What the agent sees.

    :param state: position, velocity, angle, angular velocity, shape (n, 4)
    :param tasks: parameters, shape (n, 11)
    :param decision: decisions taken, shape (n,)
    :return: shape (n, 12)
    """
    middle, half = (_LOW + _HIGH)[:GOAL] / 2.0, (_HIGH - _LOW)[:GOAL] / 2.0
    physics = (tasks[:, :GOAL] - middle) / half
    columns = [state * [1.0, 1.0, 5.0, 1.0], tasks[:, GOAL, None] - state[:, :1], physics, decision[:, None] / HORIZON]
    return np.concatenate(columns, axis=1).astype(np.float32)


def fallen(state: F64) -> NDArray[np.bool_]:
    """Whether the pole has fallen or the cart has left the track, shape (n,).

    :param state: shape (n, 4)
    """
    return np.asarray((np.abs(state[:, 0]) > MAX_POSITION) | (np.abs(state[:, 2]) > MAX_ANGLE))


def advance(state: F64, tasks: F64, actions: I64) -> F64:
    """The states a decision later; one that has fallen stays where it fell.

    :param state: shape (n, 4)
    :param tasks: parameters, shape (n, 11)
    :param actions: 0 pushes left, 1 right, shape (n,)
    :return: shape (n, 4)
    """
    gravity, length, pole, cart, motor, wind = tasks[:, :GOAL].T
    force = np.where(actions == 1, motor, -motor) + wind
    total, moment = pole + cart, pole * length
    state = state.copy()
    for _ in range(REPEAT):
        going = ~fallen(state)
        _, velocity, angle, spin = state.T
        cosine, sine = np.cos(angle), np.sin(angle)
        push = (force + moment * spin**2 * sine) / total
        spin_up = (gravity * sine - cosine * push) / (length * (4.0 / 3.0 - pole * cosine**2 / total))
        rates = np.stack([velocity, push - moment * spin_up * cosine / total, spin, spin_up], axis=1)
        state += STEP * rates * going[:, None]
    return state


def doomed(state: F64, tasks: F64, decisions: int) -> NDArray[np.bool_]:
    """For each action: does the pole fall within so many further decisions, whatever they are?

    Nothing saves a pole that leans too far to one side better than pushing to that side all the time: where it falls there all the same, it is
    lost. (A larger force means a smaller angle ever after: no search of all sequences found a way out, see ``tests/test_cart_pole.py``.) That
    the cart is about to leave the track is noticed late, which costs variance, not truth.

    :param state: shape (n, 4)
    :param tasks: parameters, shape (n, 11)
    :param decisions: how far to look
    :return: shape (n, 2)
    """
    out = np.empty((len(state), 2), dtype=np.bool_)
    for action in (0, 1):
        after = advance(state, tasks, np.full(len(state), action))
        lost = fallen(after)
        for side in (-1.0, 1.0):
            following, running = after.copy(), np.flatnonzero(~lost)
            for _ in range(decisions):
                pushed = np.full(len(running), int(side > 0.0))
                following[running] = advance(following[running], tasks[running], pushed)
                running = running[~fallen(following[running])]
            lost |= side * following[:, 2] > MAX_ANGLE
        out[:, action] = lost
    return out


def reward_of(state: F64, goal: F64, failed: NDArray[np.bool_]) -> F64:
    """Reward of a decision: the nearer to the goal, the more, up to 0.1.

    :param state: afterwards, shape (n, 4)
    :param goal: shape (n,)
    :param failed: shape (n,)
    """
    near = 1.0 - np.minimum(np.abs(state[:, 0] - goal), 2.0) / 2.0
    return np.where(failed, 0.0, near / 10.0)
